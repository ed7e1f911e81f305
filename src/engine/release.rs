//! Releases of ONNX Runtime: what each loads, and from which on a form is fused.

use std::fmt;

/// Release 1.N of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release(u32);

impl Release {
    /// The first that fuses blocked INT4 weights of MatMul.
    pub const BLOCKED: Release = Release(20);
    /// The first that has kernels for a Cast of 4-bit codes.
    pub const CAST: Release = Release(23);
    /// The first that was seen to run MatMulNBits in every form that efq writes.
    pub const DIRECT: Release = Release(22);
    /// The first that fuses 8-bit weights, half precision, Gemm, and a MatMul whose Add of a vector makes it a Gemm.
    pub const GEMM: Release = Release(25);
    /// What onnxruntime-web is built from; its WebAssembly runs the same fusions (measured on 1.30.0: every blocked
    /// product of a model in each form that efq writes).
    const WEB: Release = Release(30);
    /// Those that can be named as a target.
    pub fn targets() -> impl Iterator<Item = Release> {
        (22..=32).map(Release)
    }

    /// The release called `ort-1.N`, or `ort-web`.
    pub fn named(name: &str) -> Option<Self> {
        if name == "ort-web" {
            return Some(Self::WEB);
        }
        Self::targets().find(|release| release.target() == name)
    }

    /// Its name as a target: `ort-1.N`.
    pub fn target(self) -> String {
        format!("ort-{self}")
    }

    /// The first known one that loads a model of this opset and IR version.
    pub fn that_loads(opset: i64, ir_version: i64) -> Option<Self> {
        let loads = LOADS.iter().find(|(_, opsets, irs)| opset <= *opsets && ir_version <= *irs);
        loads.map(|(release, _, _)| *release)
    }
}

/// The largest opset and IR version that a release loads: measured, save for 1.20, which has INT4 and so opset 21.
const LOADS: &[(Release, i64, i64)] = &[
    (Release(20), 21, 10),
    (Release(22), 22, 10),
    (Release(24), 25, 13),
    (Release(25), 26, 13),
    (Release(32), 28, 14),
];

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_known_by_its_target() {
        assert_eq!(Release::named("ort-1.25"), Some(Release::GEMM));
        assert_eq!(Release::named("ort-web").map(|release| release.to_string()).as_deref(), Some("1.30"));
        assert_eq!(Release::named("ort-1.21"), None);
        assert_eq!(Release::named("1.25"), None);
    }

    #[test]
    fn opset_and_ir_both_count() {
        let of = |opset, ir| {
            Release::that_loads(opset, ir).map_or("none".to_owned(), |release| release.to_string())
        };
        assert_eq!([of(8, 4), of(21, 10), of(22, 10), of(21, 11)], ["1.20", "1.20", "1.22", "1.24"]);
        assert_eq!([of(25, 13), of(26, 10), of(28, 14), of(29, 14)], ["1.24", "1.25", "1.32", "none"]);
        assert_eq!(of(21, 15), "none");
    }
}

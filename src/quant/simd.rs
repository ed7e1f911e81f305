//! One kernel compiled for several instruction sets, chosen when the program runs.
//!
//! Kernels are plain loops that LLVM vectorizes. They hold no fused multiply-add and fix the order of
//! every sum, so all levels give the same bits.

/// A loop to compile for every [`Simd`] level. Mark `run`, and all it calls, `#[inline(always)]`:
/// only what is inlined is compiled for the level.
pub(super) trait Kernel {
    type Output;

    fn run(self) -> Self::Output;
}

/// An instruction set that this machine is known to have: only [`Simd::available`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Simd(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// The widest level of this machine.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Simd(Level::Baseline))
    }

    /// The levels of this machine, the widest first.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let wide = {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            [(Level::Avx512, avx512), (Level::Avx2, is_x86_feature_detected!("avx2"))]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let wide: [(Level, bool); 0] = [];
        let present = wide.into_iter().filter_map(|(level, present)| present.then_some(Simd(level)));
        present.chain([Simd(Level::Baseline)])
    }

    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Baseline => kernel.run(),
            // SAFETY: `available` made this level after it found the feature.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { run_avx512(kernel) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

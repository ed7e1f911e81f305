//! What a quantized tensor looks like: width of a code, block, zero point, type of the scales.

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::decode::CodeKind;

/// The block sizes that ONNX Runtime fuses into `MatMulNBits`.
pub const BLOCKS: [usize; 5] = [16, 32, 64, 128, 256];

/// Width of one code. Serialized as the number 4 or 8.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[serde(into = "u8", try_from = "u8")]
pub enum Bits {
    Four,
    Eight,
}

impl From<Bits> for u8 {
    fn from(bits: Bits) -> u8 {
        match bits {
            Bits::Four => 4,
            Bits::Eight => 8,
        }
    }
}

impl TryFrom<u8> for Bits {
    type Error = String;

    fn try_from(bits: u8) -> Result<Self, String> {
        match bits {
            4 => Ok(Bits::Four),
            8 => Ok(Bits::Eight),
            other => Err(format!("codes of {other} bits are not supported: use 4 or 8")),
        }
    }
}

impl Bits {
    /// Bytes that `count` codes occupy, the last byte padded.
    pub fn bytes(self, count: usize) -> usize {
        match self {
            Bits::Four => count.div_ceil(2),
            Bits::Eight => count,
        }
    }
}

/// Type in which scales are stored.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleStorage {
    #[serde(rename = "fp32")]
    F32,
    #[serde(rename = "fp16")]
    F16,
    /// A code of 8 bits, to be multiplied by one float32 of the whole tensor, its unit: signed (at most 127) for a
    /// symmetric scheme, whose scales may be negative, else unsigned. For blocks only.
    #[serde(rename = "int8")]
    Byte,
}

/// Bytes of the unit of [`ScaleStorage::Byte`].
const UNIT_BYTES: usize = 4;

impl ScaleStorage {
    /// Bytes of one scale.
    pub fn bytes(self) -> usize {
        match self {
            ScaleStorage::F32 => 4,
            ScaleStorage::F16 => 2,
            ScaleStorage::Byte => 1,
        }
    }

    /// The storage for rows of a table, which are gathered without a unit.
    #[must_use]
    pub fn of_rows(self) -> Self {
        if self == ScaleStorage::Byte { ScaleStorage::F16 } else { self }
    }
}

/// The node that takes the codes, and with it how they lie.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[serde(rename_all = "lowercase")]
pub enum Emit {
    /// A standard DequantizeLinear before the product: `[K,N]`.
    #[default]
    Qdq,
    /// ONNX Runtime's own product, MatMulNBits: `[N,blocks,block]`, every block whole.
    MatMulNBits,
}

/// Format of a block-quantized `[K,N]` weight: one scale (and zero point) for every `block` rows of a column.
///
/// | bits | symmetric | ONNX type | codes | zero point |
/// |---|---|---|---|---|
/// | 4 | yes | INT4 | -8..=7, the scale may be negative | none |
/// | 4 | no | UINT4 | 0..=15 | UINT4 |
/// | 8 | yes | INT8 | -127..=127 | none |
/// | 8 | no | UINT8 | 0..=255 | UINT8 |
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scheme {
    pub bits: Bits,
    /// Rows (of the K axis) that share a scale; not zero. Deserializing accepts only [`BLOCKS`].
    #[serde(deserialize_with = "known_block")]
    pub block: usize,
    pub symmetric: bool,
    pub scales: ScaleStorage,
    #[serde(default, skip_serializing_if = "is_default")]
    pub emit: Emit,
}

fn is_default(emit: &Emit) -> bool {
    *emit == Emit::default()
}

impl Scheme {
    /// ONNX type of the codes and of the zero points.
    pub fn code_kind(&self) -> CodeKind {
        match (self.bits, self.symmetric) {
            (Bits::Four, true) => CodeKind::Int4,
            (Bits::Four, false) => CodeKind::Uint4,
            (Bits::Eight, true) => CodeKind::Int8,
            (Bits::Eight, false) => CodeKind::Uint8,
        }
    }

    /// Blocks along a K axis of `k` rows; the last one may be shorter.
    pub fn blocks(&self, k: usize) -> usize {
        k.div_ceil(self.block)
    }

    /// Bytes of the codes of a `[k,n]` weight in ONNX's packing.
    pub fn codes_len(&self, k: usize, n: usize) -> usize {
        self.bits.bytes(k * n)
    }

    /// Bytes of the scales `[blocks(k),n]`, with their unit where they have one.
    pub fn scales_len(&self, k: usize, n: usize) -> usize {
        let unit = if self.scales == ScaleStorage::Byte { UNIT_BYTES } else { 0 };
        self.blocks(k) * n * self.scales.bytes() + unit
    }

    /// The largest code of a scale in [`ScaleStorage::Byte`].
    pub(super) fn most_units(&self) -> f32 {
        if self.symmetric { 127.0 } else { 255.0 }
    }

    /// Bytes of the zero points `[blocks(k),n]`; 0 for a symmetric scheme, which has none.
    pub fn zero_points_len(&self, k: usize, n: usize) -> usize {
        if self.symmetric { 0 } else { self.bits.bytes(self.blocks(k) * n) }
    }
}

impl Scheme {
    /// Bytes of codes, scales and zero points of a `[k,n]` weight as they lie in the file.
    pub fn stored_len(&self, k: usize, n: usize) -> usize {
        let (codes, zero_points) = match self.emit {
            Emit::Qdq => (self.codes_len(k, n), self.zero_points_len(k, n)),
            Emit::MatMulNBits => {
                (n * self.nbits_column(k), if self.symmetric { 0 } else { n * self.nbits_zeros(k) })
            }
        };
        codes + self.scales_len(k, n) + zero_points
    }

    /// The scheme with blocks that are no longer than `k` rows need: MatMulNBits stores whole ones.
    #[must_use]
    pub fn no_wider_than(self, k: usize) -> Self {
        let fitting = BLOCKS.into_iter().find(|block| *block >= k).unwrap_or(self.block);
        match self.emit {
            Emit::Qdq => self,
            Emit::MatMulNBits => Self { block: self.block.min(fitting), ..self },
        }
    }

    /// Bytes of the codes of one column of `k` rows in MatMulNBits.
    pub fn nbits_column(&self, k: usize) -> usize {
        self.blocks(k) * self.bits.bytes(self.block)
    }

    /// Bytes of the zero points of one column of `k` rows in MatMulNBits.
    pub fn nbits_zeros(&self, k: usize) -> usize {
        self.bits.bytes(self.blocks(k))
    }
}

fn known_block<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    block_among(deserializer, &BLOCKS, |block| BLOCKS.contains(block))
}

/// Reads a block that is one of `allowed`, as `contains` knows it.
pub(super) fn block_among<'de, D: Deserializer<'de>>(
    deserializer: D,
    allowed: &impl std::fmt::Debug,
    contains: impl Fn(&usize) -> bool,
) -> Result<usize, D::Error> {
    let block = usize::deserialize(deserializer)?;
    if contains(&block) {
        Ok(block)
    } else {
        Err(D::Error::custom(format!("block {block} is not one of {allowed:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_follow_onnx_packing() {
        let scheme = Scheme {
            bits: Bits::Four,
            block: 32,
            symmetric: false,
            scales: ScaleStorage::F16,
            emit: Emit::Qdq,
        };
        assert_eq!(scheme.blocks(33), 2);
        assert_eq!(scheme.codes_len(33, 3), 50);
        assert_eq!(scheme.scales_len(33, 3), 12);
        assert_eq!(scheme.zero_points_len(33, 3), 3);
        let symmetric = Scheme { bits: Bits::Eight, symmetric: true, scales: ScaleStorage::F32, ..scheme };
        assert_eq!(symmetric.codes_len(33, 3), 99);
        assert_eq!(symmetric.scales_len(33, 3), 24);
        assert_eq!(symmetric.zero_points_len(33, 3), 0);
        assert_eq!(scheme.stored_len(33, 3), 50 + 12 + 3);
        let bytes = Scheme { scales: ScaleStorage::Byte, ..scheme };
        assert_eq!(bytes.stored_len(33, 3), 50 + (6 + 4) + 3);
        // Two whole blocks a column, and a byte of zero points.
        let nbits = Scheme { emit: Emit::MatMulNBits, ..scheme };
        assert_eq!(nbits.stored_len(33, 3), 96 + 12 + 3);
        let wide = Scheme { block: 256, ..nbits };
        assert_eq!([1, 33, 64, 500].map(|k| wide.no_wider_than(k).block), [16, 64, 64, 256]);
        assert_eq!(nbits.no_wider_than(33).block, 32);
    }

    #[test]
    fn serde_uses_plain_numbers_and_refuses_unknown_ones() {
        let scheme = Scheme {
            bits: Bits::Four,
            block: 32,
            symmetric: false,
            scales: ScaleStorage::F16,
            emit: Emit::Qdq,
        };
        let text = serde_json::to_string(&scheme).unwrap();
        assert_eq!(text, r#"{"bits":4,"block":32,"symmetric":false,"scales":"fp16"}"#);
        assert_eq!(serde_json::from_str::<Scheme>(&text).unwrap(), scheme);
        let nbits = Scheme { emit: Emit::MatMulNBits, ..scheme };
        let other = serde_json::to_string(&nbits).unwrap();
        assert!(other.ends_with(r#","emit":"matmulnbits"}"#));
        assert_eq!(serde_json::from_str::<Scheme>(&other).unwrap(), nbits);
        assert!(serde_json::from_str::<Scheme>(&text.replace("\"bits\":4", "\"bits\":5")).is_err());
        assert!(serde_json::from_str::<Scheme>(&text.replace("32", "0")).is_err());
    }
}

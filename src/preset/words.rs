//! The words a preset may choose among.

use serde::{Deserialize, Serialize};

/// A closed set of words, each with its meaning.
pub(super) trait Words: Copy + 'static {
    /// Every value, in the order in which messages list them.
    const ALL: &'static [Self];

    /// The word for the value.
    fn word(self) -> &'static str;
}

macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $value:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $value,)+
        }

        impl $name {
            /// The word for it in presets and reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $word,)+ }
            }
        }

        impl Words for $name {
            const ALL: &'static [Self] = &[$(Self::$value,)+];

            fn word(self) -> &'static str {
                self.name()
            }
        }
    };
}

words! {
    /// What has to hold the accuracy target.
    DecideBy {
        /// The upper end of the 95 % confidence interval of the loss.
        Interval = "interval",
        /// The loss as measured.
        Estimate = "estimate",
    }
}

words! {
    /// How many weights along the input share a scale.
    BlockSize {
        B16 = "16",
        B32 = "32",
        B64 = "64",
        B128 = "128",
        B256 = "256",
        /// 32 in attention, 128 in feed-forward layers, 64 elsewhere.
        Adaptive = "adaptive",
    }
}

impl BlockSize {
    /// The size, unless it depends on the weight.
    pub fn fixed(self) -> Option<usize> {
        match self {
            Self::B16 => Some(16),
            Self::B32 => Some(32),
            Self::B64 => Some(64),
            Self::B128 => Some(128),
            Self::B256 => Some(256),
            Self::Adaptive => None,
        }
    }
}

words! {
    /// How the codes and the scale of a block are chosen.
    AlgorithmName {
        /// `gptq` or `weighted`, whichever is better on samples it has not seen, or else `search`.
        Auto = "auto",
        /// Round to nearest between the smallest and the largest value.
        Rtn = "rtn",
        /// As `rtn`, after clipping to a percentile.
        Percentile = "percentile",
        /// The clipping with the smallest error.
        Search = "search",
        /// As `search`, errors counted with the mean square of the activations they meet.
        Weighted = "weighted",
        /// The least error of the outputs over the statistics of the activations.
        Gptq = "gptq",
    }
}

words! {
    /// The type of the scales.
    Scales {
        Fp16 = "fp16",
        Fp32 = "fp32",
        /// Codes of 8 bits, counted in units of one size for the tensor.
        Int8 = "int8",
    }
}

words! {
    /// The node that takes a blocked weight.
    Emit {
        /// A standard DequantizeLinear before the product.
        Qdq = "qdq",
        /// ONNX Runtime's own MatMulNBits.
        MatMulNBits = "matmulnbits",
    }
}

words! {
    /// How a weight is stored.
    Store {
        Int4 = "int4",
        Int8 = "int8",
        /// In full precision, as it is in the model.
        Float = "float",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_serialized_form() {
        for size in BlockSize::ALL {
            assert_eq!(serde_json::to_value(size).unwrap(), size.name());
            assert_eq!(size.fixed(), size.name().parse().ok());
        }
        assert_eq!(serde_json::from_str::<Store>("\"float\"").unwrap(), Store::Float);
    }
}

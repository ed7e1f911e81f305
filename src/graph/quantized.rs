//! Whether a model is quantized already, and how. What is merely stored small, behind Cast and Mul, is not.

use super::index::Index;
use crate::onnx::proto::NodeProto;
use crate::onnx::{Model, node};

/// Domain of ONNX Runtime's own operators.
const CONTRIB: &str = "com.microsoft";

/// What shows that a model is quantized already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantized {
    /// How.
    pub form: QuantizedForm,
    /// The first node that shows it, as messages name it; for a result of efq, its entry in the metadata.
    pub subject: String,
}

/// How a model is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizedForm {
    /// By efq, as the metadata say.
    Efq,
    /// QuantizeLinear and DequantizeLinear around operators in float.
    Qdq,
    /// Weights in blocks, behind a DequantizeLinear.
    Blocks,
    /// Weights in blocks, in operators of ONNX Runtime such as MatMulNBits.
    NBits,
    /// Operators on quantized activations: QLinearMatMul and others.
    QLinear,
    /// Activations are quantized while the model runs: DynamicQuantizeLinear, MatMulInteger.
    Dynamic,
}

impl QuantizedForm {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Efq => "it is a result of efq",
            Self::Qdq => "QDQ",
            Self::Blocks => "weights in blocks",
            Self::NBits => "weights in blocks, in operators of ONNX Runtime",
            Self::QLinear => "operators on integers",
            Self::Dynamic => "dynamic quantization",
        }
    }

    /// What `node` shows.
    fn of(node: &NodeProto) -> Option<Self> {
        if !node::is_default_domain(node) && node.domain() != CONTRIB {
            return None;
        }
        match node.op_type() {
            "DequantizeLinear" if node::int(node, "block_size", 0) != 0 => Some(Self::Blocks),
            "QuantizeLinear" | "DequantizeLinear" => Some(Self::Qdq),
            "MatMulNBits" | "MatMulBnb4" | "MatMulFpQ4" | "GatherBlockQuantized" | "QMoE" => {
                Some(Self::NBits)
            }
            "DynamicQuantizeLinear"
            | "DynamicQuantizeMatMul"
            | "DynamicQuantizeLSTM"
            | "MatMulInteger"
            | "MatMulIntegerToFloat"
            | "ConvInteger" => Some(Self::Dynamic),
            "QGemm" | "QAttention" | "QEmbedLayerNormalization" => Some(Self::QLinear),
            other => {
                ["QLinear", "QOrdered"].iter().any(|start| other.starts_with(start)).then_some(Self::QLinear)
            }
        }
    }
}

/// What shows that `model` is quantized already, if it is.
pub fn quantized(model: &Model) -> Option<Quantized> {
    let written = model.proto.metadata_props.iter().find(|entry| entry.key() == "efq.version");
    if let Some(entry) = written {
        let subject = format!("{} {}", entry.key(), entry.value());
        return Some(Quantized { form: QuantizedForm::Efq, subject });
    }
    let index = Index::new(model.graph(), model.proto.ir_version());
    index.all().find_map(|here| {
        here.nodes().find_map(|(at, node)| {
            let form = QuantizedForm::of(node)?;
            Some(Quantized { form, subject: here.subject(at) })
        })
    })
}

/// Whether `node` computes with quantized values, or makes them or floats of them.
pub(super) fn is_quantized(node: &NodeProto) -> bool {
    QuantizedForm::of(node).is_some()
}

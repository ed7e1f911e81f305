//! CumSum over int64: the runtime holds int64 as symbolic sizes, which it cannot add up along an axis.

use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::{array, cast::cast};
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

/// Builds the operator from its node; takes the place of the runtime's own.
pub(super) fn build(
    _: &tract_onnx::model::ParsingContext<'_>,
    node: &pb::NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let flag = |name: &str| -> TractResult<bool> { Ok(node.get_attr_opt::<i64>(name)? == Some(1)) };
    Ok((expand(CumSum { reverse: flag("reverse")?, exclusive: flag("exclusive")? }), vec![]))
}

#[derive(Debug, Clone, Hash, PartialEq, Eq)]
struct CumSum {
    reverse: bool,
    exclusive: bool,
}

impl Expansion for CumSum {
    fn name(&self) -> StaticName {
        "CumSum".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2)?;
        check_output_arity(outputs, 1)?;
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let [values, axis] = *inputs else { bail!("CumSum takes values and an axis") };
        let fact = model.outlet_fact(values)?.clone();
        let axis = model.outlet_fact(axis)?.konst.clone().context("the axis of CumSum is computed")?;
        let axis = axis.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.first().copied();
        let rank = fact.rank() as i64;
        let axis = axis.map(|axis| if axis < 0 { axis + rank } else { axis });
        let axis = axis.filter(|axis| (0..rank).contains(axis)).context("the axis of CumSum is outside")?;
        let op = array::CumSum { axis: axis as usize, exclusive: self.exclusive, reverse: self.reverse };
        if fact.datum_type != TDim::datum_type() {
            return model.wire_node(prefix, op, &[values]);
        }
        let numbers = model.wire_node(format!("{prefix}.numbers"), cast(i64::datum_type()), &[values])?;
        let sums = model.wire_node(format!("{prefix}.sums"), op, &numbers)?;
        model.wire_node(prefix, cast(TDim::datum_type()), &sums)
    }
}

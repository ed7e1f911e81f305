//! Mod of integers, whose result has the sign of the divisor: the runtime gives int64, which it holds as symbolic sizes,
//! the sign of the dividend.

use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};
use tract_onnx::tract_hir::ops::{binary, math};

/// Builds the operator from its node; takes the place of the runtime's own.
pub(super) fn build(
    _: &tract_onnx::model::ParsingContext<'_>,
    node: &pb::NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    if node.get_attr_opt::<i64>("fmod")? == Some(1) {
        return Ok((math::Rem.into_hir(), vec![]));
    }
    Ok((expand(Mod), vec![]))
}

#[derive(Debug, Clone, Hash, PartialEq, Eq)]
struct Mod;

impl Expansion for Mod {
    fn name(&self) -> StaticName {
        "Mod".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        binary::rules(solver, inputs, outputs, |a, b| a.common_super_type(b).context("Mod of two types"))
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let [a, b] = *inputs else { bail!("Mod takes two operands") };
        let types = (model.outlet_fact(a)?.datum_type, model.outlet_fact(b)?.datum_type);
        let kind = types.0.common_super_type(types.1).context("Mod of two types")?;
        let operands = binary::wire_rank_broadcast(prefix, model, inputs)?;
        let operands = binary::wire_cast(prefix, model, &operands, kind)?;
        if kind.is_unsigned() {
            return model.wire_node(prefix, math::rem(), &operands);
        }
        let mut wide = tvec!();
        for (at, operand) in operands.iter().enumerate() {
            wide.extend(model.wire_node(format!("{prefix}.{at}"), cast(i64::datum_type()), &[*operand])?);
        }
        let [dividend, divisor] = *wide else { bail!("Mod takes two operands") };
        let rest = model.wire_node(format!("{prefix}.rest"), math::rem(), &[dividend, divisor])?;
        let moved = model.wire_node(format!("{prefix}.moved"), math::add(), &[rest[0], divisor])?;
        let result = model.wire_node(format!("{prefix}.result"), math::rem(), &[moved[0], divisor])?;
        model.wire_node(prefix, cast(kind), &result)
    }
}

//! Which tensors that no site takes are stored small, and how.

use super::choose::Chooser;
use super::{Decision, Stored, stored_matrix};
use crate::error::Result;
use crate::graph::{Values, Weight, WeightUse, stored_at};
use crate::onnx::tensor::DataType;
use crate::preset::Store;
use crate::quant::{Emit, Matrix, ScaleStorage, fp16_scales_fit, survey};
use crate::role::Role;
use crate::settings::Rule;

/// The operator set that knows INT4.
const LATEST: i64 = 21;

/// A vector below this many bytes is not worth a node.
const LEAST_STORED: u64 = 512;

impl Chooser<'_> {
    /// A tensor that no site takes may be stored small, where a rule or the settings want it.
    pub(super) fn store_small(&self, weight: &Weight, decision: &mut Decision) -> Result<()> {
        let name = weight.name.as_str();
        let matched = weight.uses.iter().find_map(|usage| match usage {
            WeightUse::Other { operator, .. } => self
                .settings
                .rules
                .iter()
                .find(|rule| rule.selector.matches(weight.role, operator, &[name, ""])),
            WeightUse::Site(_) => None,
        });
        // What has no such role may be a mask or a filter: only a rule says that it may be stored small.
        let known = matches!(
            weight.role,
            Role::Convolution | Role::Recurrent | Role::PositionEmbeddings | Role::Bias | Role::Normalization
        );
        let (store, origin) = match matched {
            Some(rule) => (rule.store, rule.origin.clone()),
            // A little error in an expert can turn the choice between experts.
            None if !known => return Ok(()),
            None => (self.settings.unfused, self.settings.preset.clone()),
        };
        if store == Store::Float || weight.uses.is_empty() {
            return Ok(());
        }
        match self.small(weight, store, matched)? {
            Ok((how, form)) => {
                decision.stored = Some(how);
                for usage in &mut decision.uses {
                    usage.reason = format!("{origin}: {form} runs as float");
                }
                decision.recount();
            }
            Err(why) if matched.is_some() && !why.is_empty() => {
                for usage in decision.uses.iter_mut().filter(|usage| usage.slot.is_none()) {
                    usage.reason = format!("{origin} cannot be followed: {why}");
                }
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// How `weight` is stored where it is to be `store`, in words too; or why not, empty where its uses say that.
    fn small(
        &self,
        weight: &Weight,
        store: Store,
        rule: Option<&Rule>,
    ) -> Result<std::result::Result<(Stored, &'static str), &'static str>> {
        for usage in &weight.uses {
            match usage {
                WeightUse::Site(_) => return Ok(Err("another use of it is a linear layer or a table")),
                WeightUse::Other { operator, .. } if operator == "graph output" => return Ok(Err("")),
                WeightUse::Other { operator, .. } if takes_scales(operator) => return Ok(Err("")),
                WeightUse::Other { .. } => {}
            }
        }
        let half = weight.data_type == DataType::Float16;
        if !half && weight.data_type != DataType::Float {
            return Ok(Err("only float32 and float16 are stored small"));
        }
        if self.index.holding(weight.origin).is_input(&weight.name) {
            return Ok(Err("also a graph input: --freeze-inputs makes it a constant"));
        }
        let vector = weight.dims.iter().filter(|size| **size > 1).count() < 2;
        if weight.bytes < LEAST_STORED || vector && half {
            return Ok(Err("vectors and numbers stay"));
        }
        let Some(tensor) = stored_at(&self.index, weight.origin) else { return Ok(Err("")) };
        let stored = Values::rows(tensor, stored_matrix(&weight.dims, weight.role))?;
        let matrix = stored.matrix()?;
        let no_int4 = self.settings.emit == Emit::MatMulNBits && self.model.opset() < LATEST;
        let (how, form) = match store {
            _ if vector => (Stored::Float16, "stored small,"),
            Store::Int4 if no_int4 => (
                Stored::Int8,
                "stored as int8, as --emit matmulnbits leaves the opset below 21, which has no INT4,",
            ),
            Store::Int4 => match self.in_4_bits(weight, rule, &matrix) {
                Some(how) => (how, "stored small,"),
                None => (Stored::Int8, "stored as int8, as no block divides its rows,"),
            },
            _ => (Stored::Int8, "stored small,"),
        };
        let after = how.bytes(&weight.dims, weight.role) + if vector { 128 } else { 256 };
        if after >= weight.bytes {
            return Ok(Err("it would not get smaller"));
        }
        if !how.holds(&matrix.values()) {
            return Ok(Err("its values are too large or too fine, or not finite"));
        }
        Ok(Ok((how, form)))
    }

    /// INT4 for a tensor that runs as float; `None` where no block divides its rows.
    fn in_4_bits(&self, weight: &Weight, rule: Option<&Rule>, rows: &Matrix<'_>) -> Option<Stored> {
        let most = rule.and_then(|rule| rule.block).unwrap_or(self.settings.block).for_role(weight.role);
        let block = Stored::block_of(rows.n(), most)?;
        let half = Stored::Int4 { block, half_scales: true };
        let half_scales = self.settings.scales != ScaleStorage::F32
            && fp16_scales_fit(&survey(&rows.transposed(), block), half.scheme()?);
        Some(Stored::Int4 { block, half_scales })
    }
}

/// Whether the operator takes the scales of something quantized, which its kernels read as they are stored.
fn takes_scales(operator: &str) -> bool {
    let operator = operator.split(' ').next().unwrap_or_default();
    ["uantizeLinear", "QLinear", "Integer", "NBits", "BlockQuantized"]
        .iter()
        .any(|part| operator.contains(part))
}

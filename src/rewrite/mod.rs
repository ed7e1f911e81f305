//! Carrying a plan out: nodes and initializers are replaced in the graph, payloads are promised and produced
//! when the writer asks for them.
//!
//! What is emitted, and why: DequantizeLinear over a private, constant `[K,N]` weight with `axis=0` is the one
//! form that ONNX Runtime fuses into a quantized matrix product; a table is gathered first and scaled after,
//! because a DequantizeLinear before Gather would expand the whole table on every run.

mod bands;
mod dequantize;
mod edit;
mod gather;
mod linear;
mod metadata;
mod nbits;
mod packed;
mod stored;
mod verify;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use prost::Message as _;

use crate::calibrate::Fitted;
use crate::error::{Error, Kind, Result};
use crate::graph::{Form, Inventory, Site, WeightUse, sweep};
use crate::onnx::proto::{GraphProto, tensor_proto::DataType};
use crate::onnx::{Checked, Draft, Model, walk};
use crate::opset;
use crate::plan::{Decision, Encoding, PACKED_OPSET, Plan, Stored, UsePlan, are_twins, stored_matrix};
use crate::quant::{CodeKind, Emit, ScaleStorage, WeightError};

use edit::Edit;

pub use metadata::Metadata;
pub use verify::verify;

/// A plan carried out: a draft to be saved, and what its production will have measured.
pub struct Rewritten<'m> {
    /// The graph, with payloads still to be produced.
    pub draft: Draft<'m>,
    /// Errors of the weights, filled while the draft is saved.
    pub errors: Errors,
    /// What raising the operator set changed; `None` where it was not needed.
    pub raised: Option<opset::Raised>,
    /// Bytes that raising added.
    pub raised_bytes: usize,
}

/// The measured errors of each encoded use: by decision and use, of the bands by where they begin.
#[derive(Debug, Clone, Default)]
pub struct Errors(Arc<Mutex<Measured>>);

type Measured = BTreeMap<(usize, usize), BTreeMap<usize, WeightError>>;

impl Errors {
    fn push(&self, usage: (usize, usize), band: &Range<usize>, error: WeightError) {
        if let Ok(mut known) = self.0.lock() {
            known.entry(usage).or_default().insert(band.start, error);
        }
    }

    /// What has been measured so far, as (decision, use, error), in the order of the plan.
    pub fn sorted(&self) -> Vec<(usize, usize, WeightError)> {
        let known = self.0.lock().map(|known| known.clone()).unwrap_or_default();
        let sum = |((decision, usage), bands): ((usize, usize), BTreeMap<usize, WeightError>)| {
            (decision, usage, bands.into_values().sum())
        };
        known.into_iter().map(sum).collect()
    }
}

/// Carries `plan` out on a copy of `model`'s graph; `metadata` is added. Of the uses (decision,
/// use) in `fitted` the codes are known already, the others are quantized as the plan says.
///
/// No weight is read: payloads are produced by [`Draft::groups`] while the draft is saved.
///
/// # Errors
/// [`crate::error::Kind::Caller`] when the plan does not fit the model,
/// [`crate::error::Kind::Unsupported`] when an operator cannot be raised to opset 21, or the opset is too high.
pub fn rewrite<'m>(
    model: &'m Checked<Model>,
    inventory: &Inventory,
    plan: &Plan,
    fitted: &HashMap<(usize, usize), Fitted>,
    metadata: Metadata<'m>,
) -> Result<Rewritten<'m>> {
    check(inventory, plan)?;
    if plan.emits(Emit::Qdq) && model.opset() > opset::DEQUANTIZES {
        let what = format!(
            "no known ONNX Runtime has a DequantizeLinear above opset {}, this model has {}",
            opset::DEQUANTIZES,
            model.opset()
        );
        return Err(Error::unsupported("opset", what).help("--emit matmulnbits does without"));
    }
    let errors = Errors::default();
    let mut edit = Edit::new(model, errors.clone());
    let halved = plan.decisions.iter();
    let halved = halved.filter(|of| of.stored == Some(Stored::Float16) && of.place.is_none());
    edit.halved = halved.map(|decision| decision.tensor.clone()).collect();
    for (at, (decision, weight)) in plan.decisions.iter().zip(&inventory.weights).enumerate() {
        match decision.stored {
            Some(Stored::Twin { of, transposed }) => {
                let original = plan.decisions.get(of).map_or("", |original| &original.tensor);
                stored::twin(&mut edit, decision, weight.origin, original, transposed);
            }
            Some(how) => {
                stored::encode(&mut edit, decision, how, weight.origin, at)?;
                continue;
            }
            None => {}
        }
        for (number, (usage, found)) in decision.uses.iter().zip(&weight.uses).enumerate() {
            match (usage.encoding, site_of(inventory, found)) {
                (Encoding::Float, _) => {}
                (Encoding::Blocks { scheme, algorithm }, Some(site)) => {
                    let wish = linear::Wish { scheme, algorithm, fitted: fitted.get(&(at, number)) };
                    let encode = match scheme.emit {
                        Emit::Qdq => linear::encode,
                        Emit::MatMulNBits => nbits::encode,
                    };
                    encode(&mut edit, site, &weight.name, wish, (at, number))?;
                }
                (Encoding::PackedRows { format, algorithm }, Some(site)) => {
                    packed::encode(&mut edit, site, &weight.name, format, algorithm, (at, number))?;
                }
                (Encoding::Rows { scales, algorithm }, Some(site)) => {
                    gather::encode(&mut edit, site, &weight.name, scales, algorithm, (at, number))?;
                }
                (_, None) => return Err(misfit(&format!("'{}' cannot be encoded there", decision.tensor))),
            }
        }
    }
    let mut draft = edit.finish();
    // An old operator set has none of what a table needs.
    let old = model.opset() < opset::LOWEST || plan.packed_uses() > 0 && model.opset() < PACKED_OPSET;
    let in_4_bits = |stored| matches!(stored, Some(Stored::Int4 { .. }));
    let latest = plan.decisions.iter().any(|decision| in_4_bits(decision.stored));
    let before = draft.proto.encoded_len();
    let raised = if plan.emits(Emit::Qdq) || old || latest {
        Some(opset::raise(&mut draft.proto).map_err(|error| match error.kind() {
            Kind::Unsupported if !old && !latest => error.or_help("--emit matmulnbits needs no opset 21"),
            _ => error,
        })?)
    } else {
        opset::free_initializers(&mut draft.proto)
    };
    let raised_bytes = draft.proto.encoded_len().saturating_sub(before);
    if plan.emits(Emit::MatMulNBits) {
        nbits::declare(&mut draft.proto);
    }
    if let Some(graph) = &mut draft.proto.graph {
        settle(graph);
    }
    sweep(&mut draft.proto);
    metadata.add_to(&mut draft);
    Ok(Rewritten { draft, errors, raised, raised_bytes })
}

/// Holds `plan`, which may come from a file, against the weights that it is to be carried out on.
///
/// # Errors
/// [`crate::error::Kind::Caller`] when it does not fit them.
pub fn check(inventory: &Inventory, plan: &Plan) -> Result<()> {
    if plan.decisions.len() != inventory.weights.len() {
        return Err(misfit("another number of tensors"));
    }
    for (at, (decision, weight)) in plan.decisions.iter().zip(&inventory.weights).enumerate() {
        let wrong = |what: &str| Err(misfit(&format!("'{}' {what}", decision.tensor)));
        let same = decision.tensor == weight.name
            && decision.place == weight.place
            && decision.shape == weight.dims
            && decision.bytes_before == weight.bytes
            && decision.uses.len() == weight.uses.len();
        if !same {
            return wrong("is not the same there");
        }
        match decision.stored {
            Some(Stored::Twin { of, transposed }) => {
                let is_kept = plan.decisions.get(of).is_some_and(Decision::keeps_original);
                if !is_kept || !are_twins(inventory, at, of, transposed) {
                    return wrong("repeats no tensor");
                }
            }
            Some(how) => {
                let is_site = weight.uses.iter().any(|usage| matches!(usage, WeightUse::Site(_)));
                let is_float = matches!(weight.data_type, DataType::Float | DataType::Float16);
                let (_, columns) = stored_matrix(&decision.shape, decision.role);
                let is_whole =
                    how.scheme().is_none_or(|how| how.block > 0 && columns.is_multiple_of(how.block));
                if is_site || !is_float || !is_whole {
                    return wrong("is not stored so");
                }
            }
            None => {}
        }
        for (usage, found) in decision.uses.iter().zip(&weight.uses) {
            if usage.encoding != Encoding::Float && !fits(usage, site_of(inventory, found)) {
                return wrong(&format!("cannot be stored as {}", usage.encoding.name()));
            }
        }
    }
    Ok(())
}

fn site_of<'i>(inventory: &'i Inventory, usage: &WeightUse) -> Option<&'i Site> {
    match usage {
        WeightUse::Site(site) => inventory.sites.get(*site),
        WeightUse::Other { .. } => None,
    }
}

/// Gives the nodes that were of the new operator set all along their domain.
fn settle(graph: &mut GraphProto) {
    for node in &mut graph.node {
        if node.domain() == dequantize::PENDING {
            node.domain = None;
        }
        walk::graphs_of_mut(node).for_each(settle);
    }
}

/// Whether the use is one of this site, and the encoding one that its operation takes.
fn fits(usage: &UsePlan, site: Option<&Site>) -> bool {
    let Some(site) = site else { return false };
    let table = matches!(site.form, Form::Gather);
    let half = site.operand.delivered == DataType::Float16;
    match usage.encoding {
        // A DequantizeLinear gives the type of its scales, and no product takes two types.
        Encoding::Blocks { scheme, .. } if half && scheme.scales != ScaleStorage::F16 => return false,
        Encoding::Rows { scales: ScaleStorage::Byte, .. } => return false,
        Encoding::PackedRows { format, .. } if format.scales == ScaleStorage::Byte => return false,
        _ => {}
    }
    usage.slot == Some((site.at.node, site.at.input))
        && usage.matrix == Some((site.k, site.n))
        && usage.encoding.is_for_tables() == table
}

/// The ONNX type of codes.
fn code_type(kind: CodeKind) -> DataType {
    match kind {
        CodeKind::Int4 => DataType::Int4,
        CodeKind::Uint4 => DataType::Uint4,
        CodeKind::Int8 => DataType::Int8,
        CodeKind::Uint8 => DataType::Uint8,
    }
}

/// The ONNX type of stored scales.
fn scale_type(scales: ScaleStorage, symmetric: bool) -> DataType {
    match scales {
        ScaleStorage::Byte if symmetric => DataType::Int8,
        ScaleStorage::Byte => DataType::Uint8,
        ScaleStorage::F16 => DataType::Float16,
        ScaleStorage::F32 => DataType::Float,
    }
}

/// The type in which gathered rows are computed: float32 where ONNX Runtime lacks kernels for `delivered`.
fn row_type(delivered: DataType) -> DataType {
    if delivered == DataType::Float16 { DataType::Float16 } else { DataType::Float }
}

fn misfit(what: &str) -> Error {
    Error::caller("plan", format!("does not fit this model: {what}"))
        .help("make it again with `efq rewrite --dry-run --plan FILE`")
}

//! Fitting to statistics that an earlier run kept: no samples, and nothing is run.

use std::collections::{BTreeMap, HashMap};

use super::bands::Band;
use super::fit;
use super::shared::Shared;
use super::trial::Judges;
use super::{Calibrated, Likeness, Steps, runs_as_float};
use crate::engine::{enters, rows_name};
use crate::error::{Error, Result};
use crate::graph::{Form, Index, Inventory, Site, Values, WeightUse, bias};
use crate::onnx::Model;
use crate::plan::{Encoding, Plan};
use crate::progress::Progress;
use crate::statistics::Kept;

/// Fits the weights that `plan` wants fitted to the statistics of the original network.
///
/// Each layer is fitted to what reaches it in the original: what the layers before it lose is not made up for.
///
/// # Errors
/// Weights that cannot be read.
pub fn from_statistics(
    model: &Model,
    inventory: &Inventory,
    plan: &Plan,
    kept: &Kept,
    likeness: Likeness,
    progress: &dyn Progress,
) -> Result<Calibrated> {
    let index = Index::new(model.graph(), model.proto.ir_version());
    let mut by_site = HashMap::new();
    for (decision, (planned, weight)) in plan.decisions.iter().zip(&inventory.weights).enumerate() {
        for (usage, (planned, known)) in planned.uses.iter().zip(&weight.uses).enumerate() {
            if let (WeightUse::Site(site), Encoding::Blocks { scheme, algorithm }) = (known, planned.encoding)
                && algorithm.wants_statistics()
            {
                by_site.insert(*site, (decision, usage, scheme, algorithm));
            }
        }
    }
    let mut groups: BTreeMap<String, Vec<(usize, &Site)>> = BTreeMap::new();
    for (number, site) in inventory.sites.iter().enumerate() {
        let usable = site.form != Form::Gather && enters(model, site) && runs_as_float(site);
        if usable && by_site.contains_key(&number) {
            groups.entry(activation(model, site)).or_default().push((number, site));
        }
    }
    progress.stage("fitting", by_site.len() as u64);
    let mut found = Calibrated::default();
    let mut layers = BTreeMap::new();
    for (name, sites) in groups {
        let parts = kept
            .parts
            .get(&name)
            .filter(|(sums, _)| sites.first().is_some_and(|(_, site)| site.k == sums.width()));
        let width = sites.first().map_or(0, |(_, site)| site.k);
        let mut all = Band::without(width);
        if let Some(parts) = parts {
            (all.shared, all.judges) = (Shared::new(Some(parts.clone())), Judges::Sums(parts.1.clone()));
        }
        found.rows = found.rows.max(all.shared.rows());
        for (number, site) in sites {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let Some(&(decision, usage, scheme, algorithm)) = by_site.get(&number) else { continue };
            let values = Values::of(model, site)?;
            let matrix = values.matrix()?;
            let weight = matrix.values();
            let centred = bias(&index, site).is_some();
            let outcome = fit::fit(
                &matrix,
                &weight,
                scheme,
                algorithm,
                centred,
                likeness,
                Steps::default(),
                &mut all.shared,
                &all.judges,
                progress,
            );
            layers.insert(number, found.take(decision, usage, outcome));
            progress.advance(1);
        }
    }
    found.layers = layers.into_values().collect();
    Ok(found)
}

/// Name of the activation that a linear multiplies.
fn activation(model: &Model, site: &Site) -> String {
    model.graph().node.get(site.at.node).map_or_else(String::new, |node| rows_name(site, node))
}

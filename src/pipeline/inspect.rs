//! What is in a model, and what would be done with it.

use std::path::Path;

use super::notes::file;
use crate::error::Result;
use crate::graph::{Index, QuantizedForm, inventory, quantized};
use crate::onnx::load;
use crate::plan::choose;
use crate::report::{InspectedTensor, Inspection};
use crate::settings::Settings;

/// Lists every tensor of the model at `path` with what `settings` would do with it; nothing is written or run.
///
/// # Errors
/// A model that cannot be read, a rule that matches nothing.
pub fn inspect(path: &Path, settings: &Settings) -> Result<Inspection> {
    let model = load(path)?;
    let known = inventory(&model);
    let index = Index::new(model.graph(), model.proto.ir_version());
    let plan = choose(&model, "", &known, settings).map_err(|error| error.within(model.path().display()))?;
    let total: u64 = plan.decisions.iter().map(|decision| decision.bytes_before).sum();
    let mut tensors: Vec<InspectedTensor> = plan
        .decisions
        .iter()
        .map(|decision| InspectedTensor {
            role: decision.role,
            name: decision.tensor.clone(),
            place: decision.place.clone(),
            shape: decision.shape.clone(),
            data_type: decision.data_type.clone(),
            bytes: decision.bytes_before,
            share: decision.bytes_before as f64 / total.max(1) as f64,
            uses: decision.uses.iter().map(|usage| usage.node.clone()).collect(),
            operators: distinct(
                decision.uses.iter().map(|usage| {
                    let used = usage.slot.and_then(|(at, _)| Some(index.of(at).operator(index.node(at)?)));
                    used.unwrap_or_else(|| usage.node.clone())
                }),
                "",
            ),
            encoding: distinct(decision.encodings(), "float"),
            reason: distinct(decision.uses.iter().map(|usage| usage.reason.clone()), "nothing uses it"),
            bytes_after: decision.bytes_after,
        })
        .collect();
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.bytes));
    Ok(Inspection {
        schema: crate::report::SCHEMA,
        model: file(&model, model.path(), model.digest()),
        ir_version: model.proto.ir_version(),
        producer: format!("{} {}", model.proto.producer_name(), model.proto.producer_version())
            .trim()
            .to_owned(),
        quantized: quantized(&model).map(|found| match found.form {
            QuantizedForm::Efq => format!("by {}", found.subject.replace("efq.version", "efq")),
            form => format!("{}, {}", form.name(), found.subject),
        }),
        nodes: model.graph().node.len(),
        inputs: model.graph().input.iter().map(|value| value.name().to_owned()).collect(),
        outputs: model.graph().output.iter().map(|value| value.name().to_owned()).collect(),
        preset: settings.preset.clone(),
        tensors,
    })
}

/// Distinct texts in order, joined by ` + `.
pub(super) fn distinct(texts: impl Iterator<Item = String>, none: &str) -> String {
    let mut found: Vec<String> = Vec::new();
    for text in texts {
        if !found.contains(&text) {
            found.push(text);
        }
    }
    if found.is_empty() { none.to_owned() } else { found.join(" + ") }
}

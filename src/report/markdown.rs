//! The report as a page to file with a release.

use std::fmt::Write as _;

use super::escape::for_markdown;
use super::text::{count, interval, loss_in, shape, size, verdict_line};
use super::{Data, Report, Validation};
use crate::validate::{Measure, Verdict, figure, in_unit};

/// Renders `report`, every tensor included.
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "# efq report: {}\n", for_markdown(&report.original.path));
    if let Validation::Measured { deployed, .. } = &report.validation {
        let _ = writeln!(out, "**{}**\n", for_markdown(&verdict_line(&report.preset.name, deployed)));
    }
    let _ = writeln!(out, "| | file | bytes | opset | BLAKE3 |\n|---|---|---:|---|---|");
    for (name, file) in [("original", Some(&report.original)), ("result", report.result.as_ref())] {
        let Some(file) = file else { continue };
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} |",
            for_markdown(&file.path),
            file.bytes,
            file.opset,
            file.blake3
        );
    }
    let accepted = match &report.validation {
        Validation::Measured { deployed, .. } => {
            let most = in_unit(&figure(deployed.target), deployed.measure.unit());
            format!("a {} of at most {most}", deployed.measure.title())
        }
        _ => format!(
            "a loss of at most {} (points of accuracy, else percent), a likeness of at least {}",
            report.preset.accuracy_target, report.preset.min_cosine
        ),
    };
    let _ = writeln!(
        out,
        "\nPreset {}: {accepted}, decided by the {}. efq {}.\n",
        for_markdown(&report.preset.name),
        report.preset.decide_by,
        report.efq
    );
    if report.fusion.total > 0 {
        let _ = writeln!(
            out,
            "{} of {} linear layers are in the form that {} fuses.\n",
            report.fusion.fused,
            report.fusion.total,
            report.fusion.runtime()
        );
    }
    for (node, reason) in &report.fusion.unfused {
        let _ = writeln!(out, "- not fused: {}: {}", for_markdown(node), for_markdown(reason));
    }
    super::fitting::markdown(&mut out, report.fitting.as_ref());
    validation(&mut out, report);
    for warning in &report.warnings {
        let _ = writeln!(out, "- {}", for_markdown(warning));
    }
    if !report.repair.is_empty() {
        let _ = writeln!(
            out,
            "\n## Repair\n\n| tensor | from | to | bytes | loss after |\n|---|---|---|---:|---:|"
        );
        for step in &report.repair {
            let _ = writeln!(
                out,
                "| {} | {} | {} | +{} | {} |",
                for_markdown(&step.tensor),
                step.from,
                step.to,
                step.bytes,
                loss_in(step.loss_after, &step.unit)
            );
        }
    }
    tensors(&mut out, report);
    // Parts that are absent leave two blank lines.
    out.replace("\n\n\n", "\n\n").trim_end().to_owned() + "\n"
}

fn validation(out: &mut String, report: &Report) {
    let _ = writeln!(out, "\n## What it costs\n");
    match &report.validation {
        Validation::Skipped { reason } => {
            let _ = writeln!(out, "Not validated: {}.", for_markdown(reason));
        }
        Validation::Unavailable { reason } => {
            let _ = writeln!(out, "Could not be validated: {}.", for_markdown(reason));
        }
        Validation::Measured { output, deployed, weights_only, data, engine } => {
            let from = match data {
                Data::File { path, blake3, .. } => format!("{} (BLAKE3 {blake3})", for_markdown(path)),
                Data::Synthetic { seed, .. } => {
                    format!("synthetic inputs (seed {seed}), which say nothing about real ones")
                }
            };
            let _ = writeln!(
                out,
                "Output {} on {} of {from}; {engine}.\n",
                for_markdown(output),
                count(deployed.samples, "sample")
            );
            let _ = writeln!(out, "| | as deployed | weights alone |\n|---|---:|---:|");
            let mut row = |name: &str, value: &dyn Fn(&Verdict) -> Option<String>| {
                if let (Some(a), Some(b)) = (value(deployed), value(weights_only)) {
                    let _ = writeln!(out, "| {name} | {a} | {b} |");
                }
            };
            row(deployed.measure.title(), &|v| v.estimate.map(|loss| loss_in(loss, v.measure.unit())));
            row("95 % interval", &|v| v.interval.map(|_| interval(v.interval)));
            let number =
                |value: Option<f64>, decimals: usize| value.map(|value| format!("{value:.decimals$}"));
            row("accuracy before, %", &|v| number(v.accuracy.map(|(before, _)| before), 3));
            row("accuracy after, %", &|v| number(v.accuracy.map(|(_, after)| after), 3));
            if deployed.measure == Measure::Perplexity {
                row("perplexity before", &|v| number(v.perplexity.map(|(before, _)| before), 4));
                row("perplexity after", &|v| number(v.perplexity.map(|(_, after)| after), 4));
            }
            row("samples not counted", &|v| {
                Some(v.excluded).filter(|count| *count > 0).map(|count| count.to_string())
            });
            row("relative L2", &|v| number(v.rel_l2, 5));
            row("mean cosine", &|v| number(v.cosine, 6));
            row("KL, nats", &|v| number(v.kl, 6));
            row("predictions changed, %", &|v| number(v.changed, 3));
        }
    }
    out.push('\n');
}

fn tensors(out: &mut String, report: &Report) {
    if report.tensors.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n## Tensors\n\n| tensor | role | shape | stored as | before | after | SQNR dB | why |"
    );
    let _ = writeln!(out, "|---|---|---|---|---:|---:|---:|---|");
    for tensor in &report.tensors {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            for_markdown(&tensor.name),
            tensor.role.name(),
            shape(&tensor.shape),
            tensor.encoding,
            size(tensor.bytes_before),
            size(tensor.bytes_after),
            tensor.sqnr_db.map_or(String::new(), |db| format!("{db:.1}")),
            for_markdown(&tensor.reason)
        );
    }
}

//! The report as a person reads it in a terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::escape::middle;
use super::{Data, Grid, Report, Tensor, Validation, for_terminal};
use crate::validate::{self, Interval, Measure, Outcome, Verdict};

/// Tensors listed by name, without `verbose`.
const WORST: usize = 5;

/// Renders `report`; every tensor is listed if `verbose` is set.
pub fn text(report: &Report, verbose: bool) -> String {
    let mut out = String::new();
    files(&mut out, report);
    if !report.tensors.is_empty() {
        out.push('\n');
        decisions(&mut out, &report.tensors);
        let list = if verbose { all } else { worst };
        list(&mut out, &report.tensors);
    }
    fusion(&mut out, report);
    super::fitting::text(&mut out, report.fitting.as_ref());
    repair(&mut out, report);
    out.push('\n');
    validation(&mut out, report);
    for warning in &report.warnings {
        let _ = writeln!(out, "note: {}", for_terminal(warning));
    }
    out
}

fn files(out: &mut String, report: &Report) {
    let original = &report.original;
    let _ = writeln!(out, "{}  {}", for_terminal(&original.path), size(original.bytes));
    if let Some(result) = &report.result {
        let ratio = original.bytes as f64 / result.bytes.max(1) as f64;
        let name =
            if report.action == "dry-run" { "(dry run)".to_owned() } else { for_terminal(&result.path) };
        let than = match ratio {
            _ if original.bytes == result.bytes => "as large".to_owned(),
            1.0.. => format!("{ratio:.2} times smaller"),
            _ => format!("{:.2} times larger", 1.0 / ratio),
        };
        let _ = writeln!(out, "{name}  {}  {than}", size(result.bytes));
        if result.opset != original.opset {
            let _ = writeln!(out, "opset raised from {} to {}", original.opset, result.opset);
        }
    }
}

/// One line for each role and encoding, the most bytes first.
fn decisions(out: &mut String, tensors: &[Tensor]) {
    let mut groups: BTreeMap<(&str, &str), (usize, u64, u64, &str)> = BTreeMap::new();
    for tensor in tensors {
        let entry = groups.entry((tensor.role.name(), &tensor.encoding)).or_insert((0, 0, 0, &tensor.reason));
        entry.0 += 1;
        entry.1 += tensor.bytes_before;
        entry.2 += tensor.bytes_after;
        if entry.3 != tensor.reason {
            entry.3 = "several reasons, see -v";
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, (_, before, _, _))| std::cmp::Reverse(*before));
    let small: u64 = groups.iter().map(|(_, group)| group.1).sum::<u64>() / 1000;
    let mut rows =
        Grid::new(&["role", "tensors", "stored as", "before", "after", "why"]).right(&[1, 3, 4]).prose(5);
    let mut rest = (0, 0, 0);
    for ((role, encoding), (count, before, after, reason)) in groups {
        if before < small && encoding == "float" {
            rest = (rest.0 + count, rest.1 + before, rest.2 + after);
            continue;
        }
        let cells = [
            role.to_owned(),
            count.to_string(),
            encoding.to_owned(),
            size(before),
            size(after),
            for_terminal(reason),
        ];
        rows.row(cells);
    }
    if rest.0 > 0 {
        let cells =
            ["the rest".to_owned(), rest.0.to_string(), "float".to_owned(), size(rest.1), size(rest.2)];
        rows.row(cells.into_iter().chain(["biases, norms and numbers".to_owned()]));
    }
    let _ = writeln!(out, "{}", rows.render());
}

/// The tensors that keep least of their values.
fn worst(out: &mut String, tensors: &[Tensor]) {
    let mut listed: Vec<&Tensor> = tensors.iter().filter(|tensor| tensor.relative_error.is_some()).collect();
    listed.sort_by(|a, b| b.relative_error.unwrap_or(0.0).total_cmp(&a.relative_error.unwrap_or(0.0)));
    listed.truncate(WORST);
    if listed.is_empty() {
        return;
    }
    let mut rows = Grid::new(&["worst tensors", "shape", "stored as", "bytes", "SQNR dB", "rel. error"])
        .right(&[3, 4, 5])
        .names(&[0, 2]);
    listed.into_iter().for_each(|tensor| rows.row(tensor_row(tensor)));
    let _ = writeln!(out, "\n{}", rows.render());
}

/// Every tensor, under what became of it and why; the most bytes first.
fn all(out: &mut String, tensors: &[Tensor]) {
    let mut groups: BTreeMap<(&str, &str), Vec<&Tensor>> = BTreeMap::new();
    for tensor in tensors {
        groups.entry((&tensor.encoding, &tensor.reason)).or_default().push(tensor);
    }
    let bytes = |tensors: &[&Tensor], of: fn(&Tensor) -> u64| tensors.iter().map(|t| of(t)).sum::<u64>();
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, tensors)| std::cmp::Reverse(bytes(tensors, |tensor| tensor.bytes_before)));
    let mut rows =
        Grid::new(&["tensor", "shape", "bytes", "SQNR dB", "rel. error"]).right(&[2, 3, 4]).names(&[0]);
    for ((encoding, reason), tensors) in groups {
        let (before, after) = (bytes(&tensors, |t| t.bytes_before), bytes(&tensors, |t| t.bytes_after));
        rows.heading(heading(encoding, reason, tensors.len(), before, after));
        for tensor in tensors {
            let [name, shape, _, figures @ ..] = tensor_row(tensor);
            rows.row([name, shape].into_iter().chain(figures));
        }
    }
    let _ = writeln!(out, "\n{}", rows.render());
}

/// What became of some tensors and why, as the line over them.
pub(super) fn heading(encoding: &str, reason: &str, count: usize, before: u64, after: u64) -> String {
    let tensors = if count == 1 { "1 tensor".to_owned() } else { format!("{count} tensors") };
    let bytes = if before == after { size(before) } else { format!("{} → {}", size(before), size(after)) };
    format!("{encoding} ({}): {tensors}, {bytes}", for_terminal(reason))
}

fn tensor_row(tensor: &Tensor) -> [String; 6] {
    [
        for_terminal(&tensor.name),
        shape(&tensor.shape),
        tensor.encoding.clone(),
        size(tensor.bytes_after),
        figure(tensor.sqnr_db, 1, ""),
        figure(tensor.relative_error, 4, ""),
    ]
}

fn fusion(out: &mut String, report: &Report) {
    let fusion = &report.fusion;
    if fusion.total > 0 {
        let _ = writeln!(
            out,
            "\n{} of {} linear layers in the fused form ({})",
            fusion.fused,
            fusion.total,
            fusion.runtime()
        );
    }
    for (node, reason) in &fusion.unfused {
        let _ = writeln!(out, "not fused: {}: {}", for_terminal(node), for_terminal(reason));
    }
    if report.tied_bytes > 0 {
        let _ = writeln!(
            out,
            "weights with several uses are stored once for each: {} more",
            size(report.tied_bytes)
        );
    }
}

fn repair(out: &mut String, report: &Report) {
    for step in &report.repair {
        let _ = writeln!(
            out,
            "repaired: {}  {} → {}  +{}  loss then {}",
            middle(&for_terminal(&step.tensor), 40),
            step.from,
            step.to,
            size(step.bytes.unsigned_abs()),
            loss_in(step.loss_after, &step.unit)
        );
    }
}

fn validation(out: &mut String, report: &Report) {
    match &report.validation {
        Validation::Skipped { reason } => {
            let _ = writeln!(out, "not validated: {}", for_terminal(reason));
        }
        Validation::Unavailable { reason } => {
            let _ = writeln!(out, "could not be validated: {}", for_terminal(reason));
        }
        Validation::Measured { output, deployed, weights_only, data, engine } => {
            let mut rows = Grid::new(&["", "as deployed", "weights alone"]).right(&[1, 2]);
            let both = |f: &dyn Fn(&Verdict) -> String| [f(deployed), f(weights_only)];
            let mut row = |name: &str, cells: [String; 2]| {
                let [deployed, weights] = cells;
                if !deployed.is_empty() {
                    rows.row([name.to_owned(), deployed, weights]);
                }
            };
            row(
                deployed.measure.title(),
                both(&|v| v.estimate.map_or(String::new(), |loss| loss_in(loss, v.measure.unit()))),
            );
            row("95 % interval", both(&|v| interval(v.interval)));
            let pair = |pair: Option<(f64, f64)>, unit: &str| {
                pair.map_or(String::new(), |(before, after)| format!("{before:.3} → {after:.3}{unit}"))
            };
            let labelled = deployed.measure == Measure::Accuracy;
            let accuracy = |v: &Verdict| pair(v.accuracy, " %");
            row("accuracy", both(&|v| if labelled { accuracy(v) } else { String::new() }));
            let modelled = deployed.measure == Measure::Perplexity;
            row("perplexity", both(&|v| if modelled { pair(v.perplexity, "") } else { String::new() }));
            row("relative L2", both(&|v| figure(v.rel_l2, 4, "")));
            row("mean cosine", both(&|v| figure(v.cosine, 5, "")));
            row("KL (nats)", both(&|v| figure(v.kl, 5, "")));
            row("predictions changed", both(&|v| figure(v.changed, 2, " %")));
            let from = match data {
                Data::File { path, blake3, labelled } => format!(
                    "{}{} of {} (blake3 {}…)",
                    count(deployed.samples, "sample"),
                    if *labelled { " with labels" } else { "" },
                    for_terminal(path),
                    blake3.get(..12).unwrap_or(blake3)
                ),
                Data::Synthetic { seed, .. } => {
                    format!(
                        "{} (seed {seed}): they say nothing about real inputs",
                        count(deployed.samples, "synthetic sample")
                    )
                }
            };
            let _ = writeln!(out, "output '{}' on {from}\nrun by {engine}", for_terminal(output));
            let _ = writeln!(out, "{}\n", rows.render());
            if deployed.excluded + deployed.skipped > 0 {
                let (samples, positions) = (deployed.excluded, deployed.skipped);
                let _ = writeln!(
                    out,
                    "not counted: {} without anything to judge by, {} where the original is not finite",
                    count(samples, "sample"),
                    count(positions, "position")
                );
            }
            let _ = writeln!(out, "{}", verdict_line(&report.preset.name, deployed));
        }
    }
}

/// The verdict in one line.
pub(super) fn verdict_line(preset: &str, verdict: &Verdict) -> String {
    let word = match verdict.outcome {
        Outcome::Passed => "PASSED",
        Outcome::Failed => "FAILED",
        Outcome::Undecided => "UNDECIDED",
        Outcome::NotVerified => "NOT VERIFIED",
    };
    format!("{word} {}: {}", for_terminal(preset), for_terminal(&verdict.reason))
}

/// A loss with three decimals and its unit.
pub(super) fn loss_in(value: f64, unit: &str) -> String {
    format!("{} {unit}", loss(value))
}

/// A loss with three decimals; one that they do not show is told so.
fn loss(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        _ if value.abs() < 0.0005 => validate::figure(value),
        _ => format!("{value:.3}"),
    }
}

/// Both ends of an interval of the loss.
pub(super) fn interval(interval: Option<Interval>) -> String {
    interval.map_or("none".to_owned(), |it| format!("{} to {}", loss(it.low), loss(it.high)))
}

/// So many of a thing.
pub(super) fn count(number: impl Into<u64>, thing: &str) -> String {
    match number.into() {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

/// `value` with `decimals` and `unit`; empty if there is none.
pub(super) fn figure(value: Option<f64>, decimals: usize, unit: &str) -> String {
    value.map_or(String::new(), |value| format!("{value:.decimals$}{unit}"))
}

/// Bytes in the unit that keeps three or four digits: `13.9 MB` (10^6 bytes).
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

pub(super) fn shape(dims: &[usize]) -> String {
    let parts: Vec<String> = dims.iter().map(usize::to_string).collect();
    format!("[{}]", parts.join(","))
}

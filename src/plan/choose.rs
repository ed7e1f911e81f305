//! Rules first, then the defaults of the settings; what would not get smaller or must not be touched stays.

use std::collections::BTreeMap;

use super::{Decision, Encoding, PACKED_OPSET, Plan, SCHEMA, UsePlan};
use crate::error::{Error, Result};
use crate::graph::{Form, Index, Inventory, Site, Weight, WeightUse};
use crate::onnx::{Model, tensor};
use crate::preset::{Store, nearest};
use crate::quant::{Bits, Emit, PackedRows, Scheme};
use crate::role::Role;
use crate::sensitivity::{Reach, expected, reach};
use crate::settings::{Rule, Settings};

/// The largest block of a 4-bit table.
const TABLE_BLOCK: usize = 128;

/// Bytes that the nodes and names of an encoded weight take in the file, about.
fn overhead(encoding: Encoding) -> u64 {
    match encoding {
        Encoding::Float => 0,
        Encoding::PackedRows { .. } => 2048,
        Encoding::Blocks { .. } | Encoding::Rows { .. } => 256,
    }
}

/// Decides for every weight of `inventory` under `settings`.
///
/// # Errors
/// [`crate::error::Kind::Caller`] when a rule that must match matches nothing, or asks for what a weight
/// cannot be.
pub fn choose(model: &Model, digest: &str, inventory: &Inventory, settings: &Settings) -> Result<Plan> {
    choose_by(false, model, digest, inventory, settings)
}

/// As [`choose`], without a look at the linear weights that are encoded: they are taken to be ordinary. Who writes them
/// finds out, see [`crate::error::Kind::Unforeseen`].
///
/// # Errors
/// As [`choose`].
pub fn choose_unseen(
    model: &Model,
    digest: &str,
    inventory: &Inventory,
    settings: &Settings,
) -> Result<Plan> {
    choose_by(true, model, digest, inventory, settings)
}

fn choose_by(
    unseen: bool,
    model: &Model,
    digest: &str,
    inventory: &Inventory,
    settings: &Settings,
) -> Result<Plan> {
    let index = Index::new(model.graph(), model.proto.ir_version());
    let mut chooser =
        Chooser { unseen, model, index, inventory, settings, matched: vec![false; settings.rules.len()] };
    let mut decisions = Vec::with_capacity(inventory.weights.len());
    for weight in &inventory.weights {
        let mut decision = chooser.decide(weight)?;
        if unseen && !decision.is_encoded() {
            // Nothing will read it for its codes, so a look says here why it stays as it is.
            chooser.unseen = false;
            decision = chooser.decide(weight)?;
            chooser.unseen = true;
        }
        decisions.push(decision);
    }
    chooser.all_rules_matched()?;
    Ok(Plan {
        schema: SCHEMA,
        efq: env!("CARGO_PKG_VERSION").to_owned(),
        model_blake3: digest.to_owned(),
        preset: settings.preset.clone(),
        fitted_to: None,
        decisions,
    })
}

/// Payload bytes that are stored more than once because one weight has several encoded uses.
pub fn tied_bytes(plan: &Plan) -> u64 {
    let several = plan.decisions.iter().filter(|d| d.is_encoded() && d.uses.len() > 1);
    several
        .map(|decision| {
            let parts =
                decision.uses.iter().filter_map(|u| u.matrix.and_then(|(k, n)| u.encoding.bytes(k, n)));
            let smallest = parts.min().unwrap_or(0);
            decision.bytes_after.saturating_sub(smallest)
        })
        .sum()
}

pub(super) struct Chooser<'a> {
    /// Whether linear weights are taken to be ordinary.
    unseen: bool,
    pub(super) model: &'a Model,
    pub(super) index: Index<'a>,
    inventory: &'a Inventory,
    pub(super) settings: &'a Settings,
    matched: Vec<bool>,
}

impl Chooser<'_> {
    fn decide(&mut self, weight: &Weight) -> Result<Decision> {
        let mut uses = Vec::with_capacity(weight.uses.len());
        for usage in &weight.uses {
            uses.push(match usage {
                WeightUse::Other { operator, obstacle } => {
                    let operator = operator.clone();
                    let rule = self.note_matches(weight, weight.role, &operator, "");
                    let rule = rule
                        .and_then(|at| self.settings.rules.get(at))
                        .filter(|rule| rule.store != Store::Float);
                    let reason = match rule {
                        Some(rule) => format!("{} cannot be followed: {obstacle}", rule.origin),
                        None => obstacle.clone(),
                    };
                    UsePlan {
                        node: operator,
                        slot: None,
                        matrix: None,
                        encoding: Encoding::Float,
                        reason,
                        fixed: true,
                    }
                }
                WeightUse::Site(at) => {
                    let site = self.inventory.sites.get(*at);
                    let role = self.inventory.roles.get(*at).copied().unwrap_or(weight.role);
                    let site = site.ok_or_else(|| Error::format(&weight.name, "a use that is not there"))?;
                    self.site(weight, site, role)?
                }
            });
        }
        let mut decision = Decision {
            tensor: weight.name.clone(),
            place: weight.place.clone(),
            role: weight.role,
            shape: weight.dims.clone(),
            data_type: tensor::type_name(weight.data_type).to_owned(),
            bytes_before: weight.bytes,
            bytes_after: weight.bytes,
            uses,
            stored: None,
        };
        stay_when_not_smaller(&mut decision);
        self.store_small(weight, &mut decision)?;
        Ok(decision)
    }

    fn site(&mut self, weight: &Weight, site: &Site, role: Role) -> Result<UsePlan> {
        let node = self.index.node(site.at.node);
        let (operator, name) = node.map_or(("", ""), |node| (node.op_type(), node.name()));
        let rule = self.note_matches(weight, role, operator, name);
        let wish = match rule {
            Some(at) => self.by_rule(site, role, at),
            None => self.by_default(site, role),
        };
        let wish = self.smaller_rows(site, wish);
        let (encoding, reason) = self.within_reach(site, wish)?;
        Ok(UsePlan {
            node: self.index.subject(site.at.node),
            slot: Some((site.at.node, site.at.input)),
            matrix: Some((site.k, site.n)),
            encoding,
            reason,
            fixed: rule.is_some(),
        })
    }

    /// Marks every rule that matches and gives the first.
    fn note_matches(&mut self, weight: &Weight, role: Role, operator: &str, node: &str) -> Option<usize> {
        let mut first = None;
        for (at, rule) in self.settings.rules.iter().enumerate() {
            if rule.selector.matches(role, operator, &[&weight.name, node]) {
                if let Some(flag) = self.matched.get_mut(at) {
                    *flag = true;
                }
                first = first.or(Some(at));
            }
        }
        first
    }

    fn by_rule(&self, site: &Site, role: Role, at: usize) -> (Encoding, String) {
        let Some(rule) = self.settings.rules.get(at) else { return (Encoding::Float, String::new()) };
        let encoding = match (rule.store, &site.form) {
            (Store::Float, _) => Encoding::Float,
            (Store::Int4, Form::Gather) => self.packed_rows(site, role, Some(rule)),
            (Store::Int8, Form::Gather) => self.rows(),
            (Store::Int4, _) => self.blocks(site, Bits::Four, role, Some(rule)),
            (Store::Int8, _) => self.blocks(site, Bits::Eight, role, Some(rule)),
        };
        (encoding, rule.origin.clone())
    }

    fn by_default(&self, site: &Site, role: Role) -> (Encoding, String) {
        let settings = self.settings;
        let (store, what) = match site.form {
            Form::Gather => (settings.embeddings, "embeddings"),
            _ if role == Role::LmHead => (settings.head, "head"),
            _ => (Store::Int4, "linear"),
        };
        let encoding = match (store, &site.form) {
            (Store::Float, _) => Encoding::Float,
            (Store::Int4, Form::Gather) => self.packed_rows(site, role, None),
            (Store::Int8, Form::Gather) => self.rows(),
            (Store::Int8, _) => self.blocks(site, Bits::Eight, role, None),
            (Store::Int4, _) => self.blocks(site, Bits::Four, role, None),
        };
        (encoding, format!("{}: {what}", settings.preset))
    }

    fn rows(&self) -> Encoding {
        Encoding::Rows { scales: self.settings.scales.of_rows(), algorithm: self.settings.algorithm }
    }

    fn packed_rows(&self, site: &Site, role: Role, rule: Option<&Rule>) -> Encoding {
        let settings = self.settings;
        let block = rule.and_then(|rule| rule.block).unwrap_or(settings.block).for_role(role);
        let format = PackedRows::at_most(block.min(TABLE_BLOCK), site.n, settings.scales.of_rows());
        Encoding::PackedRows { format, algorithm: settings.algorithm }
    }

    /// INT8 rows instead of 4-bit ones where a table is so small that their nodes, or so narrow that their scales, take
    /// more than the codes save.
    fn smaller_rows(&self, site: &Site, (wish, reason): (Encoding, String)) -> (Encoding, String) {
        let in_file = |encoding: Encoding| encoding.bytes(site.k, site.n).map(|b| b + overhead(encoding));
        let rows = self.rows();
        let is_packed = matches!(wish, Encoding::PackedRows { .. });
        if is_packed && self.settings.emit == Emit::MatMulNBits && self.model.opset() < PACKED_OPSET {
            return (rows, format!("{reason}, as int8 below opset {PACKED_OPSET}"));
        }
        if is_packed && in_file(wish) >= in_file(rows) {
            return (rows, format!("{reason}, no larger as int8"));
        }
        (wish, reason)
    }

    fn blocks(&self, site: &Site, bits: Bits, role: Role, rule: Option<&Rule>) -> Encoding {
        let settings = self.settings;
        let block = rule.and_then(|rule| rule.block).unwrap_or(match bits {
            Bits::Four => settings.block,
            Bits::Eight => crate::settings::Block::Fixed(128),
        });
        let symmetric = rule.and_then(|rule| rule.symmetric).unwrap_or(match bits {
            Bits::Four => settings.symmetric,
            Bits::Eight => true,
        });
        let scheme = Scheme {
            bits,
            block: block.for_role(role),
            symmetric,
            scales: settings.scales,
            emit: settings.emit,
        };
        Encoding::Blocks { scheme: scheme.no_wider_than(site.k), algorithm: settings.algorithm }
    }

    /// Brings a wish to what the values allow: finite ones only, and scales of a type that holds them.
    fn within_reach(&self, site: &Site, (wish, reason): (Encoding, String)) -> Result<(Encoding, String)> {
        let Some((candidate, algorithm)) = wish.candidate() else { return Ok((wish, reason)) };
        let found = match expected(site, candidate).filter(|_| self.unseen) {
            Some(found) => found,
            None => reach(self.model, site, candidate)?,
        };
        Ok(match found {
            Reach::Fits(candidate) => (Encoding::of(candidate, algorithm), reason),
            Reach::NotFinite(row, column) => {
                (Encoding::Float, format!("a value that is not finite at [{row},{column}]"))
            }
            Reach::TooLarge => {
                (Encoding::Float, "values so large that sums of codes leave float32".to_owned())
            }
            Reach::ScalesTooFine => (Encoding::Float, "its scales do not fit float16".to_owned()),
        })
    }

    fn all_rules_matched(&self) -> Result<()> {
        let missed =
            self.settings.rules.iter().zip(&self.matched).find(|(rule, hit)| rule.required && !**hit);
        let Some((rule, _)) = missed else { return Ok(()) };
        let mut error = Error::caller(&rule.origin, "matches no tensor or node of this model");
        let wanted = rule.selector.pattern.as_ref().map(|pattern| pattern.as_str());
        let weights = self.inventory.weights.iter().map(|weight| weight.name.as_str());
        let graphs: Vec<_> = self.index.all().map(|here| here.graph()).collect();
        let nodes = graphs.iter().flat_map(|graph| &graph.node).map(|node| node.name());
        let names: Vec<&str> = weights.chain(nodes).filter(|name| !name.is_empty()).collect();
        if let Some(wanted) = wanted {
            let near = nearest(wanted, names.into_iter(), 3);
            if !near.is_empty() {
                error = error.help(format!("nearest: {}", near.join(", ")));
            } else {
                error = error.help("`efq inspect` lists the names");
            }
        } else {
            let mut roles: BTreeMap<Role, ()> = BTreeMap::new();
            roles.extend(self.inventory.weights.iter().map(|weight| (weight.role, ())));
            let present: Vec<&str> = roles.keys().map(|role| role.name()).collect();
            error = error.help(format!("roles in this model: {}", present.join(", ")));
        }
        Err(error)
    }
}

/// Keeps the tensor where encoding would not shrink the file.
fn stay_when_not_smaller(decision: &mut Decision) {
    decision.recount();
    if !decision.is_encoded() {
        return;
    }
    let nodes: u64 = decision.uses.iter().map(|usage| overhead(usage.encoding)).sum();
    if decision.bytes_after + nodes < decision.bytes_before {
        return;
    }
    let reason = if decision.keeps_original() {
        "another use keeps it in float, so a second copy would only add bytes".to_owned()
    } else {
        format!("would not get smaller: {} bytes", decision.bytes_after)
    };
    for usage in &mut decision.uses {
        if usage.encoding != Encoding::Float {
            usage.encoding = Encoding::Float;
            usage.reason.clone_from(&reason);
        }
    }
    decision.recount();
}

//! Tree → [`Preset`]: the schema.

use super::fault::{Fault, quoted};
use super::fields::{Field, Fields};
use super::tree::{self, Node};
use super::words::{AlgorithmName, BlockSize, DecideBy, Emit, Scales, Store};
use super::{Keep, Origin, Pattern, Preset, RoleSelector, Rule};
use crate::error::Result;
use crate::role::{Role, role_names, roles_named};

/// Bytes of a preset.
pub(super) const BYTES: usize = 1 << 20;
/// Rules of a preset.
const RULES: usize = 1000;

const KEYS: [&str; 16] = [
    "name",
    "description",
    "accuracy_target",
    "min_cosine",
    "decide_by",
    "block_size",
    "symmetric",
    "algorithm",
    "percentile",
    "scales",
    "emit",
    "embeddings",
    "head",
    "unfused",
    "keep",
    "rules",
];
const RULE_KEYS: [&str; 6] = ["role", "pattern", "operator", "store", "block_size", "symmetric"];

impl Preset {
    /// Reads the preset `text`; a byte order mark before it is skipped.
    ///
    /// # Errors
    /// Always of [`Kind::Caller`](crate::Kind::Caller), naming `origin` and, unless the whole text is at fault,
    /// line and column: text over 1 MiB, not well-formed, with anchors, aliases, tags, merge keys, repeated
    /// keys or a second document; keys, words or roles that do not exist; values of another type or out of
    /// range; a missing `name`; a rule without a selector or `store`, or with an invalid pattern.
    pub fn parse(text: &str, origin: Origin) -> Result<Self> {
        let file = origin.to_string();
        read(text, origin).map_err(|fault| fault.in_file(&file))
    }
}

fn read(text: &str, origin: Origin) -> Result<Preset, Fault> {
    if text.len() > BYTES {
        return Err(too_large());
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    preset(&tree::parse(text)?, origin)
}

/// The fault of a text over [`BYTES`].
pub(super) fn too_large() -> Fault {
    Fault::whole("more than 1 MiB, too much for a preset").help("check the path")
}

fn preset(root: &Node, origin: Origin) -> Result<Preset, Fault> {
    if root.is_null() {
        return Err(tree::empty());
    }
    let fields = Fields::of(root, "preset", &KEYS)?;
    let Some(name) = fields.get("name") else {
        return Err(Fault::whole("'name' is missing").help("add a line such as 'name: my_preset'"));
    };
    Ok(Preset {
        name: name.text()?.to_owned(),
        origin,
        description: fields.read("description", Field::text)?.unwrap_or_default().to_owned(),
        accuracy_target: fields.read("accuracy_target", accuracy_target)?.unwrap_or(1.0),
        min_cosine: fields.read("min_cosine", min_cosine)?.unwrap_or(0.95),
        decide_by: fields.read("decide_by", Field::choice)?.unwrap_or(DecideBy::Estimate),
        block_size: fields.read("block_size", Field::choice)?.unwrap_or(BlockSize::B64),
        symmetric: fields.read("symmetric", Field::flag)?.unwrap_or(false),
        algorithm: fields.read("algorithm", Field::choice)?.unwrap_or(AlgorithmName::Auto),
        percentile: fields.read("percentile", percentile)?.unwrap_or(99.9),
        scales: fields.read("scales", Field::choice)?.unwrap_or(Scales::Fp16),
        emit: fields.read("emit", Field::choice)?.unwrap_or(Emit::Qdq),
        embeddings: fields.read("embeddings", kept_or_stored)?.unwrap_or(Store::Int8),
        head: fields.read("head", kept_or_stored)?.unwrap_or(Store::Int4),
        unfused: fields.read("unfused", kept_or_int8)?.unwrap_or(Store::Float),
        keep: fields.read("keep", |field| field.list()?.map(keep).collect())?.unwrap_or_default(),
        rules: fields.read("rules", rules)?.unwrap_or_default(),
    })
}

fn accuracy_target(field: Field<'_>) -> Result<f64, Fault> {
    field.number("percent, above 0 and up to 100", |percent| percent > 0.0 && percent <= 100.0)
}

fn min_cosine(field: Field<'_>) -> Result<f64, Fault> {
    field.number("from 0 to 1", |cosine| (0.0..=1.0).contains(&cosine))
}

fn percentile(field: Field<'_>) -> Result<f32, Fault> {
    // Judged as f32, so that what was accepted is still in range after the conversion.
    let accept = |percent: f64| percent as f32 > 50.0 && percent as f32 <= 100.0;
    Ok(field.number("percent, above 50 and up to 100", accept)? as f32)
}

fn kept_or_stored(field: Field<'_>) -> Result<Store, Fault> {
    field.among(&[("keep", Store::Float), ("int8", Store::Int8), ("int4", Store::Int4)])
}

fn kept_or_int8(field: Field<'_>) -> Result<Store, Fault> {
    field.among(&[("keep", Store::Float), ("int8", Store::Int8)])
}

fn keep(field: Field<'_>) -> Result<Keep, Fault> {
    let (name, roles) = roles(field)?;
    Ok(Keep { line: field.place().line, name, roles })
}

fn roles(field: Field<'_>) -> Result<(String, Vec<Role>), Fault> {
    let name = field.word("a role or group")?;
    match roles_named(name) {
        Some(roles) => Ok((name.to_owned(), roles)),
        None => {
            let names: Vec<_> = role_names().collect();
            Err(field.fault(format!("names the unknown role {}", quoted(name))).allowed(name, &names))
        }
    }
}

fn rules(field: Field<'_>) -> Result<Vec<Rule>, Fault> {
    let mut rules = Vec::new();
    for item in field.list()? {
        if rules.len() == RULES {
            return Err(Fault::new(item.place(), format!("more than {RULES} rules"))
                .help("one pattern can match many names: \"{a,b}*\""));
        }
        rules.push(rule(item)?);
    }
    Ok(rules)
}

fn rule(item: Field<'_>) -> Result<Rule, Fault> {
    let fields = Fields::of(item.node(), "rule", &RULE_KEYS)?;
    let place = fields.place();
    let rule = Rule {
        line: place.line,
        role: fields.read("role", roles)?.map(|(name, roles)| RoleSelector { name, roles }),
        pattern: fields.read("pattern", pattern)?,
        operator: fields.read("operator", Field::text)?.map(str::to_owned),
        store: fields.read("store", Field::choice)?.ok_or_else(|| {
            Fault::new(place, "a rule does not say how to store").help("add 'store: int4', int8 or float")
        })?,
        block_size: fields.read("block_size", Field::choice)?,
        symmetric: fields.read("symmetric", Field::flag)?,
    };
    if rule.role.is_none() && rule.pattern.is_none() && rule.operator.is_none() {
        return Err(Fault::new(place, "a rule does not say which weights it is for")
            .help("add one or more of 'role', 'pattern', 'operator'"));
    }
    if rule.store == Store::Float
        && let Some(idle) = fields.get("block_size").or(fields.get("symmetric"))
    {
        return Err(idle.fault("means nothing with 'store: float'").help("remove it, or store int4 or int8"));
    }
    Ok(rule)
}

fn pattern(field: Field<'_>) -> Result<Pattern, Fault> {
    Pattern::compile(field.text()?).map_err(|reason| field.fault(reason))
}

//! Defaults, preset and options, combined once: no later room asks which preset it was.

use crate::error::{Error, Result};
use crate::preset::{self, AlgorithmName, BlockSize, DecideBy, Pattern, Preset, Scales, Store};
use crate::quant::{Algorithm, Emit, ScaleStorage};
use crate::role::{Role, roles_named};

/// What may be set beside the preset; `None` leaves the preset's value.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// How linears are fitted.
    pub algorithm: Option<AlgorithmName>,
    /// Rows that share a scale.
    pub block_size: Option<BlockSize>,
    /// Whether blocks go without a zero point.
    pub symmetric: Option<bool>,
    /// Type of the scales.
    pub scales: Option<Scales>,
    /// The node that takes a blocked weight.
    pub emit: Option<preset::Emit>,
    /// How tables are stored, whatever the preset keeps.
    pub embeddings: Option<Store>,
    /// How the head is stored, whatever the preset keeps.
    pub head: Option<Store>,
    /// How weights are stored that no fused product takes.
    pub unfused: Option<Store>,
    /// Tensors or nodes that stay as they are: globs over names, or roles.
    pub keep: Vec<String>,
    /// `PATTERN=int4|int8|float`: a glob over names, or a role.
    pub tensors: Vec<String>,
    /// Loss that is accepted, in percent.
    pub accuracy_target: Option<f64>,
    /// Least mean likeness or concordance that is accepted.
    pub min_cosine: Option<f64>,
    /// What the plan is made for.
    pub budget: Option<Budget>,
    /// Roles that the preset keeps in float and the budget may touch.
    pub lifted: Vec<Role>,
}

/// Everything that decides what a run does with a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Name of the preset, for reasons and reports.
    pub preset: String,
    /// One line on what the preset is for.
    pub description: String,
    /// Read in order, the first that matches a use decides.
    pub rules: Vec<Rule>,
    /// Rows of an INT4 weight that share a scale.
    pub block: Block,
    /// Whether INT4 blocks go without a zero point.
    pub symmetric: bool,
    /// Type of the scales where every one of a tensor is representable in it.
    pub scales: ScaleStorage,
    /// The node that takes a blocked weight.
    pub emit: Emit,
    /// How scales and zero points are chosen.
    pub algorithm: Algorithm,
    /// How tables are stored.
    pub embeddings: Store,
    /// How the head is stored.
    pub head: Store,
    /// How weights are stored that no fused product takes: as they are, or small ([`Store::Int8`]).
    pub unfused: Store,
    /// What the result may cost.
    pub target: Target,
    /// What the plan is made for, beside the rules.
    pub budget: Option<Budget>,
    /// What a budget leaves as it is.
    pub held: Held,
}

/// What was asked for of INT4 blocks by options: a budget chooses among what is left.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Held {
    /// Rows that share a scale.
    pub block: Option<Block>,
    /// Whether blocks go without a zero point.
    pub symmetric: Option<bool>,
}

/// A budget that the plan is made for: bytes are spent where they help most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Bytes of the whole file, side files included.
    Size(u64),
    /// Bits for each value of a stored tensor, scales and zero points included.
    BitsPerWeight(f64),
    /// Loss in the unit of the gate, in percent: the smallest file within it.
    Loss(f64),
}

impl Budget {
    /// Whether it is one of bytes, which the file holds or not, whatever is measured.
    pub fn is_of_bytes(self) -> bool {
        matches!(self, Budget::Size(_) | Budget::BitsPerWeight(_))
    }
}

/// What the result may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Accepted loss in percent.
    pub accuracy: f64,
    /// Accepted mean likeness or concordance, for outputs that are neither labelled nor logits.
    pub min_cosine: f64,
    /// Whether the interval's upper end must hold the target, and not only the estimate.
    pub by_interval: bool,
}

/// How many rows share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// As many in every tensor.
    Fixed(usize),
    /// By role: attention 32, feed-forward 128, else 64.
    ByRole,
}

impl Block {
    /// The block of a weight of `role`.
    pub fn for_role(self, role: Role) -> usize {
        match self {
            Block::Fixed(size) => size,
            Block::ByRole if role.is_attention() => 32,
            Block::ByRole if role.is_feed_forward() => 128,
            Block::ByRole => 64,
        }
    }
}

impl From<BlockSize> for Block {
    fn from(size: BlockSize) -> Self {
        size.fixed().map_or(Block::ByRole, Block::Fixed)
    }
}

/// What is done with the uses of weights that a selector matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Where it stands, as reasons and messages name it.
    pub origin: String,
    /// What it is for.
    pub selector: Selector,
    /// How the weight is stored.
    pub store: Store,
    /// Rows that share a scale, instead of the general number.
    pub block: Option<Block>,
    /// Whether blocks go without a zero point, instead of the general choice.
    pub symmetric: Option<bool>,
    /// Whether it is an error that nothing matches.
    pub required: bool,
}

/// Uses of weights: all that is given must match.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selector {
    /// One of these roles.
    pub roles: Option<Vec<Role>>,
    /// The name of the tensor or of the node.
    pub pattern: Option<Pattern>,
    /// The operator of the node.
    pub operator: Option<String>,
}

impl Selector {
    /// Whether the use of a tensor of `role` by an `operator` is meant; `names` are those of tensor and node.
    pub fn matches(&self, role: Role, operator: &str, names: &[&str]) -> bool {
        self.roles.as_ref().is_none_or(|roles| roles.contains(&role))
            && self.operator.as_ref().is_none_or(|wanted| wanted == operator)
            && self.pattern.as_ref().is_none_or(|p| names.iter().any(|n| !n.is_empty() && p.matches(n)))
    }

    /// A role, a group of roles, or a glob over names.
    fn parse(text: &str) -> Result<Self> {
        match roles_named(text) {
            Some(roles) => Ok(Self { roles: Some(roles), ..Self::default() }),
            None => Ok(Self { pattern: Some(Pattern::new(text)?), ..Self::default() }),
        }
    }
}

impl Settings {
    /// The settings of `preset` changed by `overrides`.
    ///
    /// # Errors
    /// [`crate::error::Kind::Caller`] for an option that cannot be read or is out of range.
    pub fn new(preset: &Preset, overrides: &Overrides) -> Result<Self> {
        let mut rules = Vec::new();
        for text in &overrides.tensors {
            rules.push(tensor_rule(text)?);
        }
        for text in &overrides.keep {
            let origin = format!("--keep '{text}'");
            let selector = Selector::parse(text).map_err(|error| error.within(&origin))?;
            rules.push(Rule {
                origin,
                selector,
                store: Store::Float,
                block: None,
                symmetric: None,
                required: true,
            });
        }
        rules.extend(preset.rules.iter().map(|rule| Rule {
            origin: format!("{}:{}", preset.origin, rule.line),
            selector: Selector {
                roles: rule.role.as_ref().map(|selector| selector.roles.clone()),
                pattern: rule.pattern.clone(),
                operator: rule.operator.clone(),
            },
            store: rule.store,
            block: rule.block_size.map(Block::from),
            symmetric: rule.symmetric,
            required: true,
        }));
        for keep in &preset.keep {
            let mut roles = keep.roles.clone();
            roles.retain(|role| match role {
                role if overrides.lifted.contains(role) => false,
                Role::LmHead => overrides.head.is_none(),
                role if role.is_embedding() => overrides.embeddings.is_none(),
                _ => true,
            });
            if roles.is_empty() {
                continue;
            }
            rules.push(Rule {
                origin: format!("{} keeps {}", preset.name, keep.name),
                selector: Selector { roles: Some(roles), ..Selector::default() },
                store: Store::Float,
                block: None,
                symmetric: None,
                required: false,
            });
        }
        let algorithm = match overrides.algorithm.unwrap_or(preset.algorithm) {
            AlgorithmName::Rtn => Algorithm::Rtn,
            AlgorithmName::Percentile => Algorithm::Percentile { percent: preset.percentile },
            AlgorithmName::Search => Algorithm::Search,
            AlgorithmName::Weighted => Algorithm::Weighted,
            AlgorithmName::Gptq => Algorithm::Gptq,
            AlgorithmName::Auto => Algorithm::Auto,
        };
        let scales = match overrides.scales.unwrap_or(preset.scales) {
            Scales::Fp16 => ScaleStorage::F16,
            Scales::Fp32 => ScaleStorage::F32,
            Scales::Int8 => ScaleStorage::Byte,
        };
        let target = Target {
            accuracy: match overrides.budget {
                Some(Budget::Loss(loss)) => loss,
                _ => overrides.accuracy_target.unwrap_or(preset.accuracy_target),
            },
            min_cosine: overrides.min_cosine.unwrap_or(match overrides.budget {
                Some(Budget::Loss(loss)) => 1.0 - loss / 100.0,
                _ => preset.min_cosine,
            }),
            by_interval: preset.decide_by == DecideBy::Interval,
        };
        match overrides.budget {
            Some(Budget::BitsPerWeight(bits)) if !(bits > 0.0 && bits <= 64.0) => {
                return Err(Error::caller("--target-bpw", "a number above 0 and up to 64 is expected"));
            }
            Some(Budget::Loss(loss)) if !(loss > 0.0 && loss <= 100.0) => {
                return Err(Error::caller("--target-loss", "a number above 0 and up to 100 is expected"));
            }
            Some(Budget::Loss(_)) if overrides.accuracy_target.is_some() => {
                return Err(Error::caller("--accuracy-target", "is what --target-loss sets too")
                    .help("leave one of them out"));
            }
            _ => {}
        }
        if !(target.accuracy > 0.0 && target.accuracy <= 100.0) {
            return Err(Error::caller("--accuracy-target", "a number above 0 and up to 100 is expected"));
        }
        if !(0.0..=1.0).contains(&target.min_cosine) {
            return Err(Error::caller("--min-cosine", "a number from 0 to 1 is expected"));
        }
        Ok(Self {
            preset: preset.name.clone(),
            description: preset.description.clone(),
            rules,
            block: overrides.block_size.unwrap_or(preset.block_size).into(),
            symmetric: overrides.symmetric.unwrap_or(preset.symmetric),
            scales,
            emit: match overrides.emit.unwrap_or(preset.emit) {
                preset::Emit::Qdq => Emit::Qdq,
                preset::Emit::MatMulNBits => Emit::MatMulNBits,
            },
            algorithm,
            embeddings: overrides.embeddings.unwrap_or(preset.embeddings),
            head: overrides.head.unwrap_or(preset.head),
            unfused: overrides.unfused.unwrap_or(preset.unfused),
            target,
            budget: overrides.budget,
            held: Held { block: overrides.block_size.map(Block::from), symmetric: overrides.symmetric },
        })
    }
}

fn tensor_rule(text: &str) -> Result<Rule> {
    let origin = format!("--tensor '{text}'");
    let (name, store) = text
        .rsplit_once('=')
        .ok_or_else(|| Error::caller(&origin, "PATTERN=int4, PATTERN=int8 or PATTERN=float is expected"))?;
    let store = match store {
        "int4" => Store::Int4,
        "int8" => Store::Int8,
        "float" => Store::Float,
        other => {
            return Err(Error::caller(&origin, format!("'{other}' is no way to store a tensor"))
                .help("int4, int8 or float"));
        }
    };
    let selector = Selector::parse(name).map_err(|error| error.within(&origin))?;
    Ok(Rule { origin, selector, store, block: None, symmetric: None, required: true })
}

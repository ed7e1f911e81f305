//! What a weight is for, and the words by which presets and options name it.

use serde::{Deserialize, Serialize};

/// What a weight is for in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    TokenEmbeddings,
    PositionEmbeddings,
    TokenTypeEmbeddings,
    /// The last linear before an output: classifier, decoder or detector head, not only of language models.
    LmHead,
    AttentionQuery,
    AttentionKey,
    AttentionValue,
    /// Query, key and value in one weight that is split afterwards.
    AttentionQkv,
    AttentionOutput,
    FeedForwardIn,
    FeedForwardOut,
    Convolution,
    Recurrent,
    Expert,
    Normalization,
    Bias,
    Other,
}

impl Role {
    /// Every role, in the order in which reports list them.
    pub const ALL: [Role; 17] = [
        Role::TokenEmbeddings,
        Role::PositionEmbeddings,
        Role::TokenTypeEmbeddings,
        Role::LmHead,
        Role::AttentionQuery,
        Role::AttentionKey,
        Role::AttentionValue,
        Role::AttentionQkv,
        Role::AttentionOutput,
        Role::FeedForwardIn,
        Role::FeedForwardOut,
        Role::Convolution,
        Role::Recurrent,
        Role::Expert,
        Role::Normalization,
        Role::Bias,
        Role::Other,
    ];

    /// The name in presets, options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Role::TokenEmbeddings => "token_embeddings",
            Role::PositionEmbeddings => "position_embeddings",
            Role::TokenTypeEmbeddings => "token_type_embeddings",
            Role::LmHead => "lm_head",
            Role::AttentionQuery => "attention_query",
            Role::AttentionKey => "attention_key",
            Role::AttentionValue => "attention_value",
            Role::AttentionQkv => "attention_qkv",
            Role::AttentionOutput => "attention_output",
            Role::FeedForwardIn => "feed_forward_in",
            Role::FeedForwardOut => "feed_forward_out",
            Role::Convolution => "convolution",
            Role::Recurrent => "recurrent",
            Role::Expert => "expert",
            Role::Normalization => "normalization",
            Role::Bias => "bias",
            Role::Other => "other",
        }
    }

    /// Whether the weight is a table that is gathered from.
    pub fn is_embedding(self) -> bool {
        matches!(self, Role::TokenEmbeddings | Role::PositionEmbeddings | Role::TokenTypeEmbeddings)
    }

    /// Whether the weight belongs to an attention layer's projections.
    pub fn is_attention(self) -> bool {
        matches!(
            self,
            Role::AttentionQuery
                | Role::AttentionKey
                | Role::AttentionValue
                | Role::AttentionQkv
                | Role::AttentionOutput
        )
    }

    /// Whether the weight belongs to a feed-forward layer.
    pub fn is_feed_forward(self) -> bool {
        matches!(self, Role::FeedForwardIn | Role::FeedForwardOut)
    }
}

/// A name for several roles, and whether a role is one of them.
type Group = (&'static str, fn(Role) -> bool);

/// The names of groups of roles that a preset or option may use beside the roles themselves.
const GROUPS: [Group; 3] = [
    ("embeddings", Role::is_embedding),
    ("attention", Role::is_attention),
    ("feed_forward", Role::is_feed_forward),
];

/// The roles that `name` (a role or a group) stands for; `None` if it is neither.
pub fn roles_named(name: &str) -> Option<Vec<Role>> {
    if let Some(role) = Role::ALL.into_iter().find(|role| role.name() == name) {
        return Some(vec![role]);
    }
    let (_, member) = GROUPS.iter().find(|(group, _)| *group == name)?;
    Some(Role::ALL.into_iter().filter(|role| member(*role)).collect())
}

/// Every name that [`roles_named`] knows.
pub fn role_names() -> impl Iterator<Item = &'static str> {
    Role::ALL.into_iter().map(Role::name).chain(GROUPS.iter().map(|(name, _)| *name))
}

//! What is called loss, by what the samples carry.

use serde::{Deserialize, Serialize};

/// What is called loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Accuracy of the original minus accuracy of the rewritten model, in percentage points.
    Accuracy,
    /// 100 × (PPL(rewritten) / PPL(original) − 1), where ln PPL is the mean negative log-likelihood of a
    /// labelled position.
    Perplexity,
    /// Mean over samples of the share of positions whose prediction changed, in percent. The accuracy
    /// lost is at most this, whatever the labels are.
    Changed,
    /// 100 × (1 − mean likeness), the likeness averaged over a sample's positions, then over samples: 2 r·c / (r² + c²)
    /// for vectors r and c, which is their cosine where both are as long, and less where they are not.
    Likeness,
    /// 100 × (1 − concordance correlation) of outputs that are single numbers, over all samples: of those a cosine
    /// tells the sign only (L. I. Lin, A concordance correlation coefficient to evaluate reproducibility, Biometrics 45
    /// (1989) 255-268).
    Concordance,
}

impl Measure {
    /// What the loss is, as the subject of a sentence.
    pub fn title(self) -> &'static str {
        match self {
            Self::Accuracy => "loss of accuracy",
            Self::Perplexity => "increase of perplexity",
            Self::Changed => "share of changed predictions",
            Self::Likeness => "distance of the outputs",
            Self::Concordance => "loss of concordance",
        }
    }

    /// The unit of the loss and of its target.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Accuracy => "points",
            Self::Perplexity | Self::Changed | Self::Likeness | Self::Concordance => "%",
        }
    }
}

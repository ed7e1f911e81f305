mod compare;
mod coverage;
mod judge;
mod random;

use super::*;

/// A sample of logits without labels.
fn logits<'a>(reference: &'a [f32], candidate: &'a [f32], width: usize) -> Sample<'a> {
    Sample { reference, candidate, width, logits: true, mask: None, label: Label::None }
}

//! One position: two vectors of the same width.

/// What the comparison of one position came to.
pub(super) enum Row {
    /// Both can be compared.
    Compared(Compared),
    /// The original is NaN or +∞ somewhere, −∞ where the candidate is not, or −∞ throughout.
    ReferenceNotFinite,
    /// The candidate is not finite in `elements` places that the original computes.
    CandidateNotFinite { elements: u64, reference_class: usize },
}

/// Distances of two vectors; places where both are −∞ (classes ruled out) are left out.
pub(super) struct Compared {
    /// Σ (c − r)².
    pub squared_error: f64,
    /// Σ r².
    pub squared_reference: f64,
    /// Σ c².
    pub squared_candidate: f64,
    /// 2 r·c / (r² + c²); 1 if both are zero.
    pub likeness: f64,
    /// r·c / (‖r‖‖c‖); 1 if both are zero, 0 if one is.
    pub cosine: f64,
    /// Largest value of the original; the first of equals.
    pub reference_class: usize,
    /// Largest value of the candidate; the first of equals.
    pub candidate_class: usize,
}

/// Compares the vectors of one position.
pub(super) fn compare(reference: &[f32], candidate: &[f32]) -> Row {
    let (mut squared_error, mut squared_reference, mut squared_candidate, mut dot) = (0.0, 0.0, 0.0, 0.0);
    let (mut broken, mut broken_reference) = (0, false);
    let (mut reference_best, mut candidate_best) = (Best::NONE, Best::NONE);
    for (index, (&r, &c)) in reference.iter().zip(candidate).enumerate() {
        reference_best.offer(index, r);
        candidate_best.offer(index, c);
        if r.is_finite() && c.is_finite() {
            let (r, c) = (f64::from(r), f64::from(c));
            squared_error += (c - r) * (c - r);
            squared_reference += r * r;
            squared_candidate += c * c;
            dot += r * c;
        } else if r.is_nan() || r == f32::INFINITY {
            broken_reference = true;
        } else if r.is_finite() || c.is_nan() || c == f32::INFINITY {
            broken += 1;
        } else if c.is_finite() {
            broken_reference = true;
        }
    }
    let Some(reference_class) = reference_best.class else { return Row::ReferenceNotFinite };
    if broken > 0 {
        return Row::CandidateNotFinite { elements: broken, reference_class };
    }
    let (false, Some(candidate_class)) = (broken_reference, candidate_best.class) else {
        return Row::ReferenceNotFinite;
    };
    let cosine = if squared_reference == 0.0 || squared_candidate == 0.0 {
        if squared_reference == squared_candidate { 1.0 } else { 0.0 }
    } else {
        // The root of the product, so that equal vectors give exactly 1.
        (dot / (squared_reference * squared_candidate).sqrt()).clamp(-1.0, 1.0)
    };
    let both = squared_reference + squared_candidate;
    let likeness = if both == 0.0 { 1.0 } else { 2.0 * dot / both };
    Row::Compared(Compared {
        squared_error,
        squared_reference,
        squared_candidate,
        likeness,
        cosine,
        reference_class,
        candidate_class,
    })
}

struct Best {
    class: Option<usize>,
    value: f32,
}

impl Best {
    const NONE: Self = Self { class: None, value: f32::NEG_INFINITY };

    fn offer(&mut self, index: usize, value: f32) {
        if value > self.value {
            *self = Self { class: Some(index), value };
        }
    }
}

/// ln Σ exp of both vectors, which must hold at least one finite value and neither NaN nor +∞.
pub(super) struct Softmax {
    reference: f64,
    candidate: f64,
    /// KL(original ‖ candidate) in nats.
    pub kl: f64,
}

impl Softmax {
    /// Normalizes both vectors; the classes are those of [`Compared`].
    pub fn new(reference: &[f32], candidate: &[f32], compared: &Compared) -> Self {
        let top = |values: &[f32], class: usize| values.get(class).map_or(0.0, |&value| f64::from(value));
        let reference_top = top(reference, compared.reference_class);
        let candidate_top = top(candidate, compared.candidate_class);
        let (mut reference_sum, mut candidate_sum, mut weighted) = (0.0, 0.0, 0.0);
        for (&r, &c) in reference.iter().zip(candidate) {
            if r == f32::NEG_INFINITY {
                continue;
            }
            let (r, c) = (f64::from(r) - reference_top, f64::from(c) - candidate_top);
            let weight = r.exp();
            reference_sum += weight;
            candidate_sum += c.exp();
            weighted += weight * (r - c);
        }
        let kl = weighted / reference_sum - reference_sum.ln() + candidate_sum.ln();
        Self {
            reference: reference_top + reference_sum.ln(),
            candidate: candidate_top + candidate_sum.ln(),
            // Rounding may leave it a hair below zero.
            kl: kl.max(0.0),
        }
    }

    /// Negative log-likelihoods in nats of a class with these logits.
    pub fn nll(&self, reference: f32, candidate: f32) -> (f64, f64) {
        (self.reference - f64::from(reference), self.candidate - f64::from(candidate))
    }
}

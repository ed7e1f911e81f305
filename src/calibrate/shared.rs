//! What is known of an activation, made ready for all weights that it is multiplied with.

use rayon::prelude::*;

use crate::quant::compensate::{Damping, Prepared};
use crate::statistics::{Moments, Sums};

/// Dampings that are tried, from a trusting one to one for few or other samples.
pub(super) const DAMPINGS: [Damping; 2] = [
    Damping { factor: 0.05, descent: 0.02, target: 0.2 },
    Damping { factor: 0.1, descent: 0.1, target: 1.0 },
];
/// The first of them that holds on to the original weight.
pub(super) const FIRM: usize = 1;

/// Rows for each input of a weight below which statistics are few.
const FEW: usize = 4;

/// What weights that share an input and a block share.
pub(super) struct Shared {
    /// Sums over the rows that take part, and over those held out.
    sums: Option<(Sums, Sums)>,
    /// By centring: means over all rows, and over those that take part.
    moments: [Option<(Moments, Moments)>; 2],
    /// By centring and damping: prepared from all rows, and from those that take part.
    prepared: [[[Option<Option<Prepared>>; 2]; 2]; 2],
}

impl Shared {
    pub fn new(sums: Option<(Sums, Sums)>) -> Self {
        Self { sums, moments: Default::default(), prepared: Default::default() }
    }

    /// Rows that take part.
    pub fn rows(&self) -> usize {
        self.sums.as_ref().map_or(0, |(sums, _)| sums.rows())
    }

    /// Whether there are fewer rows than tell inputs apart.
    pub fn is_few(&self, k: usize) -> bool {
        self.sums.as_ref().is_some_and(|(train, held)| train.rows() + held.rows() < FEW * k)
    }

    /// Prepares one damping on all rows.
    pub fn make(&mut self, centred: bool, damping: usize) {
        self.make_moments(centred);
        let at = usize::from(centred);
        let Some((all, _)) = &self.moments[at] else { return };
        self.prepared[at][damping][0]
            .get_or_insert_with(|| Prepared::new(&all.square, all.rewritten.len(), DAMPINGS[damping]));
    }

    /// Prepares the dampings `tried` on the rows that take part, side by side.
    pub fn make_trials(&mut self, centred: bool, tried: &[usize]) {
        self.make_moments(centred);
        let at = usize::from(centred);
        let Some((_, train)) = &self.moments[at] else { return };
        let slots = self.prepared[at].par_iter_mut().zip(&DAMPINGS).enumerate();
        slots.filter(|(damping, _)| tried.contains(damping)).for_each(|(_, (slots, damping))| {
            slots[1].get_or_insert_with(|| Prepared::new(&train.square, train.rewritten.len(), *damping));
        });
    }

    fn make_moments(&mut self, centred: bool) {
        let Some((train, held)) = &self.sums else { return };
        self.moments[usize::from(centred)].get_or_insert_with(|| {
            let mut all = train.clone();
            all.merge(held);
            (all.moments(centred), train.moments(centred))
        });
    }

    /// Moments and what was prepared of them: of all rows (`part` 0), or of those that take part (1).
    pub fn get(&self, centred: bool, damping: usize, part: usize) -> Option<(&Moments, &Prepared)> {
        let at = usize::from(centred);
        let moments = self.moments[at].as_ref()?;
        let prepared = self.prepared[at][damping][part].as_ref()?.as_ref()?;
        Some((if part == 0 { &moments.0 } else { &moments.1 }, prepared))
    }
}

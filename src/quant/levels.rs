//! The integers a scheme may use and the scales it may store.

use super::scheme::{Bits, ScaleStorage, Scheme};

/// Codes are `lowest..=highest`; a value is `(code - zero) * scale`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels {
    pub lowest: f32,
    pub highest: f32,
    pub symmetric: bool,
    pub bits: Bits,
    pub scales: ScaleStorage,
}

impl Levels {
    pub fn of(scheme: Scheme) -> Self {
        let (lowest, highest) = match (scheme.bits, scheme.symmetric) {
            (Bits::Four, true) => (-8.0, 7.0),
            (Bits::Four, false) => (0.0, 15.0),
            (Bits::Eight, true) => (-127.0, 127.0),
            (Bits::Eight, false) => (0.0, 255.0),
        };
        Levels { lowest, highest, symmetric: scheme.symmetric, bits: scheme.bits, scales: scheme.scales }
    }

    /// The largest distance of a code from the zero point over all zero points: 8, 15, 127 or 255.
    pub fn reach(&self) -> f32 {
        self.highest.max(-self.lowest)
    }

    /// The least scale ever chosen for a block whose largest magnitude is `max_abs`.
    ///
    /// At 4 bits clipping half of the range can pay off, at 8 bits clipping hardly ever does.
    #[inline(always)]
    pub fn least_scale(&self, max_abs: f32) -> f32 {
        let share = match self.bits {
            Bits::Four => 0.5,
            Bits::Eight => 0.8,
        };
        max_abs * (share / self.reach())
    }
}

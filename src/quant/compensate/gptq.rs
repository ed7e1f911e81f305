//! GPTQ (arXiv 2210.17323) with a fixed grid, rows in the order of their moments.

use faer::mat::MatRef;

use super::prepared::Prepared;
use super::strip::Strip;
use crate::linalg;
use crate::quant::rounding::{bound, round};

/// Rows between two updates of the rows that follow.
const PANEL: usize = 64;

/// Rounds row by row and, with `carry`, moves the rows that follow so that they make up for the error.
pub(super) fn codes(strip: &Strip, prepared: &Prepared, carry: bool) -> Vec<f32> {
    let (k, s) = (strip.k, strip.width);
    let upper = &prepared.upper;
    let mut rest = Vec::with_capacity(k * s);
    for row in &prepared.order {
        rest.extend_from_slice(&strip.target[row * s..(row + 1) * s]);
    }
    let mut codes = vec![0.0; k * s];
    let mut errors = vec![0.0f32; PANEL * s];
    for top in (0..k).step_by(PANEL) {
        let bottom = k.min(top + PANEL);
        for i in top..bottom {
            let row = prepared.order[i];
            let at = row / strip.block * s;
            let (scales, zeros) = (&strip.scales[at..at + s], &strip.zeros[at..at + s]);
            let inverse = 1.0 / upper[i * k + i];
            let error = &mut errors[(i - top) * s..(i - top + 1) * s];
            let (done, after) = rest.split_at_mut((i + 1) * s);
            let values = &done[i * s..];
            let out = &mut codes[row * s..(row + 1) * s];
            for c in 0..s {
                let (scale, zero) = (scales[c], zeros[c]);
                let d = round(bound(values[c] / scale, strip.lowest - zero, strip.highest - zero));
                out[c] = d + zero;
                error[c] = (values[c] - d * scale) * inverse;
            }
            for j in if carry { i + 1..bottom } else { 0..0 } {
                let factor = upper[i * k + j];
                let values = &mut after[(j - i - 1) * s..(j - i) * s];
                for c in 0..s {
                    values[c] -= factor * error[c];
                }
            }
        }
        if !carry {
            continue;
        }
        let rows = bottom - top;
        let part = MatRef::from_row_major_slice(upper, k, k).submatrix(top, bottom, rows, k - bottom);
        linalg::add_product(&mut rest[bottom * s..], part.transpose(), &errors[..rows * s], s, -1.0);
    }
    codes
}

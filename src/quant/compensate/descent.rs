//! Coordinate descent over codes (COMQ, arXiv 2403.07134; CDQuant, arXiv 2406.17542).

use faer::mat::MatRef;

use super::prepared::Prepared;
use super::strip::Strip;
use crate::linalg;
use crate::quant::rounding::{bound, round};

/// Rows between two updates of the gradient of all.
const PANEL: usize = 64;

/// One sweep: each code goes where the error is least while the others stay. Gives the error eᵀHe afterwards,
/// over all columns.
pub(super) fn sweep(strip: &Strip, codes: &mut [f32], prepared: &Prepared) -> f64 {
    let (k, s) = (strip.k, strip.width);
    let moments = MatRef::from_row_major_slice(&prepared.ordered, k, k);
    let mut difference = vec![0.0f32; k * s];
    for (to, row) in difference.chunks_exact_mut(s).zip(&prepared.order) {
        let at = row / strip.block * s;
        for c in 0..s {
            let value = (codes[row * s + c] - strip.zeros[at + c]) * strip.scales[at + c];
            to[c] = value - strip.target[row * s + c];
        }
    }
    // G = H (Ŵ - W*), rows in order.
    let mut gradient = vec![0.0; k * s];
    linalg::add_product(&mut gradient, moments, &difference, s, 1.0);
    let mut steps = vec![0.0f32; PANEL * s];
    for top in (0..k).step_by(PANEL) {
        let bottom = k.min(top + PANEL);
        let rows = bottom - top;
        for i in top..bottom {
            let row = prepared.order[i];
            let at = row / strip.block * s;
            let inverse = 1.0 / prepared.ordered[i * k + i];
            let step = &mut steps[(i - top) * s..(i - top + 1) * s];
            for c in 0..s {
                let (scale, zero) = (strip.scales[at + c], strip.zeros[at + c]);
                let old = codes[row * s + c];
                let wanted = old - zero - gradient[i * s + c] * inverse / scale;
                let d = round(bound(wanted, strip.lowest - zero, strip.highest - zero));
                codes[row * s + c] = d + zero;
                step[c] = scale * (d + zero - old);
                difference[i * s + c] += step[c];
            }
            for j in top..bottom {
                let factor = prepared.ordered[i * k + j];
                let gradient = &mut gradient[j * s..(j + 1) * s];
                for c in 0..s {
                    gradient[c] += factor * step[c];
                }
            }
        }
        let part = |first: usize, count: usize| moments.submatrix(first, top, count, rows);
        let steps = &steps[..rows * s];
        linalg::add_product(&mut gradient[..top * s], part(0, top), steps, s, 1.0);
        linalg::add_product(&mut gradient[bottom * s..], part(bottom, k - bottom), steps, s, 1.0);
    }
    let products = difference.iter().zip(&gradient);
    products.map(|(e, g)| f64::from(*e) * f64::from(*g)).sum()
}

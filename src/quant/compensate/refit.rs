//! All scales of a column at once, by least squares under H.

use faer::Side;
use faer::mat::{Mat, MatRef};

use super::prepared::Prepared;
use super::strip::Strip;
use crate::linalg;

/// Weight of the old scales in the system, in parts of its mean diagonal.
const RIDGE: f64 = 1e-6;

/// Replaces the scales by those of the least error for these codes; `aim` is H W*.
///
/// With d_b the code distances of block b, the system is M s = r with M[b,b'] = d_bᵀ H d_b' and
/// r[b] = d_bᵀ (H W*). A scale that cannot be stored stays as it was.
pub(super) fn scales(strip: &mut Strip, codes: &[f32], aim: &[f32], prepared: &Prepared) {
    let (k, s, block) = (strip.k, strip.width, strip.block);
    let blocks = k.div_ceil(block);
    let moments = MatRef::from_row_major_slice(&prepared.natural, k, k);
    let mut distances = Vec::with_capacity(k * s);
    for (row, codes) in codes.chunks_exact(s).enumerate() {
        let zeros = &strip.zeros[row / block * s..(row / block + 1) * s];
        distances.extend(codes.iter().zip(zeros).map(|(code, zero)| code - zero));
    }
    // Lower triangle of M for every column, and r.
    let mut system = vec![0.0f64; blocks * blocks * s];
    let mut right = vec![0.0f64; blocks * s];
    let mut spread = Vec::new();
    let mut sums = vec![0.0f32; s];
    for b in 0..blocks {
        let (top, bottom) = (b * block, k.min((b + 1) * block));
        let own = &distances[top * s..bottom * s];
        spread.clear();
        spread.resize((k - top) * s, 0.0);
        linalg::add_product(&mut spread, moments.submatrix(top, top, k - top, bottom - top), own, s, 1.0);
        for other in b..blocks {
            let (first, last) = (other * block, k.min((other + 1) * block));
            sums.fill(0.0);
            for row in first..last {
                let (d, t) =
                    (&distances[row * s..(row + 1) * s], &spread[(row - top) * s..(row - top + 1) * s]);
                for c in 0..s {
                    sums[c] += d[c] * t[c];
                }
            }
            for c in 0..s {
                system[(c * blocks + other) * blocks + b] = f64::from(sums[c]);
            }
        }
        for row in top..bottom {
            for c in 0..s {
                right[c * blocks + b] += f64::from(distances[row * s + c]) * f64::from(aim[row * s + c]);
            }
        }
    }
    for c in 0..s {
        let own = &system[c * blocks * blocks..(c + 1) * blocks * blocks];
        let mean = (0..blocks).map(|b| own[b * blocks + b]).sum::<f64>() / blocks as f64;
        let ridge = RIDGE * mean;
        if !(ridge.is_finite() && ridge > 0.0) {
            continue;
        }
        let matrix = Mat::<f64>::from_fn(blocks, blocks, |i, j| {
            own[i.max(j) * blocks + i.min(j)] + if i == j { ridge } else { 0.0 }
        });
        let Ok(factor) = matrix.llt(Side::Lower) else { continue };
        let mut solution = Mat::<f64>::from_fn(blocks, 1, |b, _| {
            right[c * blocks + b] + ridge * f64::from(strip.scales[b * s + c])
        });
        faer::linalg::solvers::SolveCore::solve_in_place_with_conj(
            &factor,
            faer::Conj::No,
            solution.as_mut(),
        );
        for b in 0..blocks {
            if let Some(scale) = strip.storable(b * s + c, solution[(b, 0)] as f32) {
                strip.scales[b * s + c] = scale;
            }
        }
    }
}

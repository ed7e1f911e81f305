//! Products of dense row-major matrices, in bands of a fixed number of rows: the order of every sum, and so
//! every bit of a result, is the same for any number of threads.

use faer::linalg::matmul::matmul;
use faer::mat::{MatMut, MatRef};
use faer::{Accum, Par};
use rayon::prelude::*;

/// Rows of a band.
const BAND: usize = 256;
/// Rows of a band of a Gram matrix: few of them have as many as a product.
const GRAM_BAND: usize = 96;

/// `out = a · b`, or `out += a · b`; `a` is `[m,k]`, `b` is `[k,n]`, `out` is `[m,n]`.
///
/// # Panics
/// When a slice does not have the length of its matrix.
pub fn product(out: &mut [f32], a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize), add: bool) {
    assert!(a.len() == m * k && b.len() == k * n && out.len() == m * n);
    if out.is_empty() {
        return;
    }
    let right = MatRef::from_row_major_slice(b, k, n);
    let accumulate = if add { Accum::Add } else { Accum::Replace };
    out.par_chunks_mut(BAND * n).zip(a.par_chunks((BAND * k).max(1))).for_each(|(out, a)| {
        let rows = out.len() / n;
        let left = MatRef::from_row_major_slice(a, rows, k);
        matmul(MatMut::from_row_major_slice_mut(out, rows, n), accumulate, left, right, 1.0, Par::Seq);
    });
}

/// `out += aᵀ · b`; `a` is `[t,m]`, `b` is `[t,n]`, `out` is `[m,n]`. With `upper`, only what lies on or right
/// of the diagonal is right.
///
/// # Panics
/// When a slice does not have the length of its matrix.
pub fn add_gram(out: &mut [f32], a: &[f32], b: &[f32], (t, m, n): (usize, usize, usize), upper: bool) {
    assert!(a.len() == t * m && b.len() == t * n && out.len() == m * n);
    if out.is_empty() || t == 0 {
        return;
    }
    let (left, right) = (MatRef::from_row_major_slice(a, t, m), MatRef::from_row_major_slice(b, t, n));
    out.par_chunks_mut(GRAM_BAND * n).enumerate().for_each(|(band, out)| {
        let rows = out.len() / n;
        let top = band * GRAM_BAND;
        let first = if upper { top.min(n) } else { 0 };
        let out = MatMut::from_row_major_slice_mut(out, rows, n);
        let part = left.subcols(top, rows).transpose();
        matmul(
            out.subcols_mut(first, n - first),
            Accum::Add,
            part,
            right.subcols(first, n - first),
            1.0,
            Par::Seq,
        );
    });
}

/// `out += factor · a · b` on one thread, with a transposed or strided left operand.
pub fn add_product(out: &mut [f32], a: MatRef<'_, f32>, b: &[f32], n: usize, factor: f32) {
    let (m, k) = (a.nrows(), a.ncols());
    assert!(b.len() == k * n && out.len() == m * n);
    if out.is_empty() || k == 0 {
        return;
    }
    let right = MatRef::from_row_major_slice(b, k, n);
    matmul(MatMut::from_row_major_slice_mut(out, m, n), Accum::Add, a, right, factor, Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|at| ((at * 37 % 101) as f32 - 50.0) * step).collect()
    }

    #[test]
    fn products_agree_with_their_definition() {
        let (m, k, n) = (300, 17, 9);
        let (a, b) = (numbers(m * k, 0.25), numbers(k * n, 0.5));
        let mut out = vec![1.0; m * n];
        product(&mut out, &a, &b, (m, k, n), true);
        let mut gram = vec![0.0; k * k];
        add_gram(&mut gram, &a, &a, (m, k, k), false);
        for i in [0, 255, 256, 299] {
            for j in 0..n {
                let sum: f32 = (0..k).map(|x| a[i * k + x] * b[x * n + j]).sum();
                assert!((out[i * n + j] - sum - 1.0).abs() < 1e-2 * sum.abs().max(1.0));
            }
        }
        for (i, j) in [(0, 0), (3, 16), (16, 3)] {
            let sum: f32 = (0..m).map(|t| a[t * k + i] * a[t * k + j]).sum();
            assert!((gram[i * k + j] - sum).abs() < 1e-3 * sum.abs().max(1.0));
        }
    }
}

//! Second moments of the activations of a linear: what a fit of its weight needs to know of them, in memory
//! that does not grow with the number of samples.
//!
//! X are the rows that reach the layer in the original, X̂ those in the rewritten network.

mod kept;

use rayon::prelude::*;

use crate::linalg;

pub use kept::{Kept, Parts};

/// Rows that are summed on one thread: the order of sums is the same for any number of threads.
const CHUNK: usize = 1024;

/// Sums over rows, still open.
#[derive(Debug, Clone)]
pub struct Sums {
    k: usize,
    rows: usize,
    /// Σ X̂ᵀX̂, `[K,K]`, right on and above the diagonal.
    square: Vec<f32>,
    /// Σ X̂ᵀ(X - X̂), `[K,K]`.
    drift: Vec<f32>,
    rewritten: Vec<f64>,
    original: Vec<f64>,
}

/// Means over rows.
#[derive(Debug, Clone)]
pub struct Moments {
    /// X̂ᵀX̂/n, `[K,K]`; with the means taken off where they were asked to be.
    pub square: Vec<f32>,
    /// X̂ᵀ(X - X̂)/n, `[K,K]`; likewise.
    pub drift: Vec<f32>,
    /// Mean of X̂, `[K]`.
    pub rewritten: Vec<f32>,
    /// Mean of X, `[K]`.
    pub original: Vec<f32>,
}

impl Sums {
    /// Nothing yet, of activations of width `k`.
    pub fn new(k: usize) -> Self {
        Self {
            k,
            rows: 0,
            square: vec![0.0; k * k],
            drift: vec![0.0; k * k],
            rewritten: vec![0.0; k],
            original: vec![0.0; k],
        }
    }

    /// Width of the rows, K.
    pub fn width(&self) -> usize {
        self.k
    }

    /// Rows that were added.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds rows, `[t,K]` each, of both networks.
    pub fn add(&mut self, rewritten: &[f32], original: &[f32]) {
        let k = self.k.max(1);
        let t = rewritten.len() / k;
        let difference: Vec<f32> = original.par_iter().zip(rewritten).map(|(x, y)| x - y).collect();
        rayon::join(
            || linalg::add_gram(&mut self.square, rewritten, rewritten, (t, k, k), true),
            || linalg::add_gram(&mut self.drift, rewritten, &difference, (t, k, k), false),
        );
        for (sums, rows) in [(&mut self.rewritten, rewritten), (&mut self.original, original)] {
            let parts: Vec<Vec<f64>> = rows.par_chunks(CHUNK * k).map(|rows| column_sums(rows, k)).collect();
            for part in parts {
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        }
        self.rows += t;
    }

    /// ‖X E + s‖² over the rows X for errors E `[K,n]` and a shift s `[n]`; of one network only, where X̂ is X.
    pub fn distance(&self, errors: &[f32], n: usize, shift: Option<&[f32]>) -> f64 {
        let k = self.k;
        let mut products = vec![0.0; k * n];
        let mut square = self.square.clone();
        for i in 0..k {
            for j in 0..i {
                square[i * k + j] = square[j * k + i];
            }
        }
        linalg::product(&mut products, &square, errors, (k, k, n), false);
        let mut total: f64 = products.iter().zip(errors).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        if let Some(shift) = shift {
            for (row, sum) in errors.chunks_exact(n.max(1)).zip(&self.original) {
                total += row
                    .iter()
                    .zip(shift)
                    .map(|(e, s)| 2.0 * sum * f64::from(*e) * f64::from(*s))
                    .sum::<f64>();
            }
            total += self.rows as f64 * shift.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>();
        }
        total.max(0.0)
    }

    /// Adds the sums of other rows.
    pub fn merge(&mut self, other: &Sums) {
        for (to, from) in [(&mut self.square, &other.square), (&mut self.drift, &other.drift)] {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        for (to, from) in [(&mut self.rewritten, &other.rewritten), (&mut self.original, &other.original)] {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        self.rows += other.rows;
    }

    /// Lets the rows count as `rows` of the same mean moments.
    pub fn weigh_as(&mut self, rows: usize) {
        if self.rows == 0 {
            return;
        }
        let factor = rows as f64 / self.rows as f64;
        for sums in [&mut self.square, &mut self.drift] {
            sums.par_iter_mut().for_each(|sum| *sum *= factor as f32);
        }
        for sums in [&mut self.rewritten, &mut self.original] {
            sums.iter_mut().for_each(|sum| *sum *= factor);
        }
        self.rows = rows;
    }

    /// The means; `centred` takes those of X̂ and X off, for a layer whose bias makes up for them.
    pub fn moments(&self, centred: bool) -> Moments {
        let k = self.k;
        let rows = self.rows.max(1) as f64;
        let mean = |sums: &[f64]| -> Vec<f32> { sums.iter().map(|sum| (sum / rows) as f32).collect() };
        let (rewritten, original) = (mean(&self.rewritten), mean(&self.original));
        let mut square = vec![0.0; k * k];
        let mut drift = vec![0.0; k * k];
        let off = if centred { 1.0 } else { 0.0 };
        let lines = square.par_chunks_mut(k.max(1)).zip(drift.par_chunks_mut(k.max(1))).enumerate();
        lines.for_each(|(i, (square, drift))| {
            let mean = off * f64::from(rewritten[i]);
            for j in 0..k {
                let (low, high) = (i.min(j), i.max(j));
                let sum = f64::from(self.square[low * k + high]) / rows;
                square[j] = (sum - mean * f64::from(rewritten[j])) as f32;
                let sum = f64::from(self.drift[i * k + j]) / rows;
                drift[j] = (sum - mean * (f64::from(original[j]) - f64::from(rewritten[j]))) as f32;
            }
        });
        Moments { square, drift, rewritten, original }
    }
}

fn column_sums(rows: &[f32], k: usize) -> Vec<f64> {
    let mut sums = vec![0.0; k];
    for row in rows.chunks_exact(k) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_that_of_the_rows() {
        let rows = [1.0, 2.0, 3.0, 6.0, -1.0, 0.5];
        let mut sums = Sums::new(2);
        sums.add(&rows, &rows);
        let (errors, shift) = ([0.1, -0.2, 0.3, 0.05], [0.5, -0.25]);
        let expected: f64 = rows
            .chunks_exact(2)
            .flat_map(|x| {
                (0..2).map(|c| f64::from(x[0] * errors[c] + x[1] * errors[2 + c] + shift[c]).powi(2))
            })
            .sum();
        assert!((sums.distance(&errors, 2, Some(&shift)) - expected).abs() < 1e-5);
    }

    #[test]
    fn weighing_keeps_the_means() {
        let mut sums = Sums::new(2);
        sums.add(&[1.0, 2.0, 3.0, 6.0, 2.0, 1.0], &[2.0, 2.0, 4.0, 6.0, 1.0, 0.0]);
        let before = sums.moments(true);
        sums.weigh_as(6);
        let after = sums.moments(true);
        assert_eq!(sums.rows(), 6);
        assert_eq!(
            (before.square, before.drift, before.original),
            (after.square, after.drift, after.original)
        );
    }

    #[test]
    fn centred_moments_are_covariances() {
        let mut sums = Sums::new(2);
        sums.add(&[1.0, 2.0, 3.0, 6.0], &[2.0, 2.0, 4.0, 6.0]);
        let mut other = Sums::new(2);
        other.add(&[5.0, 1.0], &[6.0, 1.0]);
        sums.merge(&other);
        let found = sums.moments(true);
        assert_eq!(found.rewritten, [3.0, 3.0]);
        assert_eq!(found.original, [4.0, 3.0]);
        let variance =
            |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).map(|(x, y)| (x - 3.0) * (y - 3.0)).sum::<f32>() / 3.0;
        let (x, y) = ([1.0, 3.0, 5.0], [2.0, 6.0, 1.0]);
        for (at, expected) in
            [variance(x, x), variance(x, y), variance(y, x), variance(y, y)].iter().enumerate()
        {
            assert!((found.square[at] - expected).abs() < 1e-5, "{found:?}");
        }
        // The drift is the same in every row: with its mean off, nothing is left.
        assert!(found.drift.iter().all(|value| value.abs() < 1e-5), "{found:?}");
    }
}

//! Ids that look a little like text to an encoder: tokens that were trained, the frequent ones often, and
//! some that belong together.

use std::cmp::Ordering;
use std::ops::Range;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::linalg;
use crate::quant::Matrix;

/// A row of the table shorter than this share of the median row was hardly trained.
const LIVE: f32 = 0.6;
/// Fewer trained rows than this, and all are taken.
const LEAST_LIVE: usize = 16;
/// Token `r` in the order of ids has probability in proportion to `1 / (r + HEAD)`.
const HEAD: f64 = 10.0;
/// Tokens of a topic: the nearest to its centre.
const NEAREST: usize = 100;
/// Share of a sequence that comes from its topics.
const SHARE: Range<f64> = 0.4..0.5;
/// Topics that are made for all sequences.
const TOPICS: usize = 512;
/// Values of a table in which topics are still looked for.
const TABLE: usize = 1 << 28;
/// Rows of a table that are read at once.
const CHUNK: usize = 2048;

/// What one input of ids is drawn from.
pub(super) struct Vocabulary {
    /// In ascending order.
    live: Vec<i64>,
    /// Sums of the weights of `live` up to and with each.
    sums: Vec<f64>,
    topics: Vec<Vec<i64>>,
}

impl Vocabulary {
    /// Of ids below `rows` about which nothing is known.
    pub fn plain(rows: usize) -> Self {
        Self::over((0..rows.max(1) as i64).collect(), Vec::new())
    }

    /// Of the rows of `table` below `rows`, for about `count` sequences.
    pub fn of(table: &Matrix<'_>, rows: usize, count: usize, rng: &mut ChaCha8Rng) -> Self {
        let rows = rows.min(table.k());
        let norms = norms(table, rows);
        let mut sorted: Vec<f32> = norms.iter().copied().filter(|norm| norm.is_finite()).collect();
        sorted.sort_by(f32::total_cmp);
        let least = LIVE * sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let live: Vec<i64> = (0..)
            .zip(&norms)
            .filter(|(_, norm)| **norm > least && norm.is_finite())
            .map(|(id, _)| id)
            .collect();
        if live.len() < LEAST_LIVE.min(rows) {
            return Self::plain(rows);
        }
        let fits = rows.checked_mul(table.n()).is_some_and(|values| values <= TABLE);
        let nearest = NEAREST.min(live.len() / 8);
        let topics = if fits && nearest > 1 {
            let centres: Vec<i64> =
                (0..TOPICS.min(2 * count)).map(|_| live[rng.random_range(0..live.len())]).collect();
            topics(table, &norms, least, &centres, nearest)
        } else {
            Vec::new()
        };
        Self::over(live, topics)
    }

    fn over(live: Vec<i64>, topics: Vec<Vec<i64>>) -> Self {
        let mut sum = 0.0;
        let weights = (0..live.len()).map(|rank| {
            sum += 1.0 / (rank as f64 + HEAD);
            sum
        });
        Self { sums: weights.collect(), live, topics }
    }

    /// A sequence of `length` ids.
    pub fn sequence(&self, length: usize, rng: &mut ChaCha8Rng) -> Vec<i64> {
        let share = rng.random_range(SHARE);
        let pick = |rng: &mut ChaCha8Rng| match self.topics.len() {
            0 => &[][..],
            many => &self.topics[rng.random_range(0..many)],
        };
        let topics = [pick(rng), pick(rng)];
        (0..length)
            .map(|_| {
                let topic = topics[rng.random_range(0..2)];
                if !topic.is_empty() && rng.random_range(0.0..1.0) < share {
                    return topic[rng.random_range(0..topic.len())];
                }
                let at = rng.random_range(0.0..self.sums.last().copied().unwrap_or(1.0));
                let rank = self.sums.partition_point(|sum| *sum <= at);
                self.live.get(rank).or(self.live.last()).copied().unwrap_or(0)
            })
            .collect()
    }
}

/// Rows `range` of `table`, one after another.
fn read(table: &Matrix<'_>, range: Range<usize>) -> Vec<f32> {
    let mut values = vec![0.0; range.len() * table.n()];
    table.tile(range, 0..table.n(), &mut values);
    values
}

fn chunks(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(CHUNK).map(move |start| start..rows.min(start + CHUNK))
}

fn norms(table: &Matrix<'_>, rows: usize) -> Vec<f32> {
    let width = table.n().max(1);
    chunks(rows)
        .flat_map(|range| {
            let values = read(table, range);
            let norms: Vec<f32> =
                values.chunks_exact(width).map(|row| row.iter().map(|v| v * v).sum::<f32>().sqrt()).collect();
            norms
        })
        .collect()
}

/// For each of `centres` the `nearest` ids by cosine among those whose norm exceeds `least`.
fn topics(table: &Matrix<'_>, norms: &[f32], least: f32, centres: &[i64], nearest: usize) -> Vec<Vec<i64>> {
    let (width, count) = (table.n(), centres.len());
    let mut right = vec![0.0; width * count];
    for (at, centre) in centres.iter().enumerate() {
        let row = read(table, *centre as usize..*centre as usize + 1);
        row.iter().enumerate().for_each(|(i, value)| right[i * count + at] = *value);
    }
    let farther = |a: &(f32, i64), b: &(f32, i64)| -> Ordering { b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)) };
    let mut found: Vec<Vec<(f32, i64)>> = vec![Vec::new(); count];
    for range in chunks(norms.len()) {
        let values = read(table, range.clone());
        let mut products = vec![0.0; range.len() * count];
        linalg::product(&mut products, &values, &right, (range.len(), width, count), false);
        found.par_iter_mut().enumerate().for_each(|(at, found)| {
            for (row, id) in range.clone().enumerate() {
                if norms[id] > least && norms[id].is_finite() {
                    found.push((products[row * count + at] / norms[id], id as i64));
                }
            }
            if found.len() > nearest {
                found.select_nth_unstable_by(nearest - 1, farther);
                found.truncate(nearest);
            }
        });
    }
    let ids = |mut found: Vec<(f32, i64)>| -> Vec<i64> {
        found.sort_by(farther);
        found.into_iter().map(|(_, id)| id).collect()
    };
    found.into_iter().map(ids).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::quant::{Element, Layout};

    /// 400 rows of width 8; the first 50 are short, row 60 is no number; rows of one residue modulo 8 agree.
    fn table() -> Vec<u8> {
        let value = |row: usize, column: usize| match row {
            0..50 => 0.01,
            60 => f32::NAN,
            _ if row % 8 == column => 1.0,
            _ => 0.01 * (row * 7 % 11) as f32,
        };
        (0..400).flat_map(|row| (0..8).flat_map(move |column| value(row, column).to_le_bytes())).collect()
    }

    #[test]
    fn only_trained_ids_are_drawn_and_low_ones_often() {
        let bytes = table();
        let table = Matrix::new(&bytes, Element::F32, Layout::row_major(400, 8)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let known = Vocabulary::of(&table, 390, 10, &mut rng);
        let ids = known.sequence(20_000, &mut rng);
        assert!(ids.iter().all(|id| (50..390).contains(id) && *id != 60), "{ids:?}");
        let low = ids.iter().filter(|id| **id < 100).count();
        let high = ids.iter().filter(|id| **id >= 340).count();
        assert!(low > 2 * high, "{low} {high}");
        let mut again = ChaCha8Rng::seed_from_u64(1);
        let other = Vocabulary::of(&table, 390, 10, &mut again);
        assert_eq!(other.sequence(20_000, &mut again), ids);
    }

    #[test]
    fn a_topic_is_what_lies_near() {
        let bytes = table();
        let table = Matrix::new(&bytes, Element::F32, Layout::row_major(400, 8)).unwrap();
        let norms = norms(&table, 400);
        for topic in topics(&table, &norms, 0.5, &[100, 203], 20).iter().zip([100, 203]) {
            assert!(topic.0.iter().all(|id| id % 8 == topic.1 % 8), "{topic:?}");
            assert_eq!(topic.0.len(), 20);
        }
    }

    #[test]
    fn a_table_of_zeros_gives_all_ids() {
        let bytes = vec![0u8; 40 * 8 * 4];
        let table = Matrix::new(&bytes, Element::F32, Layout::row_major(40, 8)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let ids = Vocabulary::of(&table, 40, 10, &mut rng).sequence(2000, &mut rng);
        assert!((0..40).all(|id| ids.contains(&id)));
    }
}

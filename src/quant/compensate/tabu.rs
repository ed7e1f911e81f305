//! Tabu search over codes (Glover, "Tabu Search, Part I", 1989): one code at a time moves by one, to where the error is
//! least or rises least, and may not move again for a while. So a column leaves the optimum in which coordinate descent
//! ends; the best codes on the way are kept.

use faer::mat::MatRef;

use super::prepared::Prepared;
use super::strip::Strip;
use crate::linalg;
use crate::quant::simd::{Kernel, Simd};

const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Moves for which a code that has moved stays: this many, and up to `SPREAD` more in turn, so that moves do not repeat
/// in a circle.
const TENURE: usize = 8;
const SPREAD: usize = 8;

/// An improvement by less of the column's error is none.
const LEAST_GAIN: f64 = 1e-7;

/// Improves the codes of every column by K/2 moves; scales and zero points stay.
pub(super) fn search(simd: Simd, strip: &Strip, codes: &mut [f32], prepared: &Prepared) {
    let (k, s) = (strip.k, strip.width);
    let moments = MatRef::from_row_major_slice(&prepared.natural, k, k);
    let mut difference = Vec::with_capacity(k * s);
    for (row, (codes, target)) in codes.chunks_exact(s).zip(strip.target.chunks_exact(s)).enumerate() {
        let at = row / strip.block * s;
        let grid = strip.scales[at..at + s].iter().zip(&strip.zeros[at..at + s]);
        let values = codes.iter().zip(grid).map(|(code, (scale, zero))| (code - zero) * scale);
        difference.extend(values.zip(target).map(|(value, target)| value - target));
    }
    let mut gradient = vec![0.0; k * s];
    linalg::add_product(&mut gradient, moments, &difference, s, 1.0);
    let chunks = k.div_ceil(LANES);
    let mut column = Column { cells: vec![Cell::default(); chunks], best: vec![[0.0; LANES]; chunks] };
    for c in 0..s {
        let mut error = 0.0;
        column.cells.fill(Cell::default());
        for row in 0..k {
            let scale = strip.scales[row / strip.block * s + c];
            let cell = &mut column.cells[row / LANES];
            let l = row % LANES;
            cell.code[l] = codes[row * s + c];
            cell.scale[l] = scale;
            cell.gradient[l] = gradient[row * s + c];
            cell.curvature[l] = prepared.natural[row * k + row] * scale * scale;
            error += f64::from(difference[row * s + c]) * f64::from(gradient[row * s + c]);
        }
        simd.run(Moves { column: &mut column, moments: &prepared.natural, k, strip, error });
        for row in 0..k {
            codes[row * s + c] = column.best[row / LANES][row % LANES];
        }
    }
}

/// What is known of some rows of a column; the curvature of lanes beyond its end keeps them where they are.
#[derive(Clone, Copy)]
struct Cell {
    code: Lanes,
    scale: Lanes,
    /// Of the error, by the decoded value, halved.
    gradient: Lanes,
    /// What a move by one adds to the error beside the gradient's part.
    curvature: Lanes,
    /// The move from which on it may move.
    free: [u32; LANES],
}

impl Default for Cell {
    fn default() -> Self {
        let zeros = [0.0; LANES];
        Cell {
            code: zeros,
            scale: zeros,
            gradient: zeros,
            curvature: [f32::INFINITY; LANES],
            free: [0; LANES],
        }
    }
}

struct Column {
    cells: Vec<Cell>,
    best: Vec<Lanes>,
}

struct Moves<'a> {
    column: &'a mut Column,
    moments: &'a [f32],
    k: usize,
    strip: &'a Strip,
    /// Of the column at the start.
    error: f64,
}

impl Kernel for Moves<'_> {
    type Output = ();

    #[expect(clippy::needless_range_loop, reason = "loops over lanes are written alike")]
    #[inline(always)]
    fn run(self) {
        let Moves { column: Column { cells, best }, moments, k, strip, error } = self;
        let keep = |best: &mut [Lanes], cells: &[Cell]| {
            best.iter_mut().zip(cells).for_each(|(best, cell)| *best = cell.code);
        };
        keep(best, cells);
        // The change of the error so far, and the least of it.
        let (mut change, mut least) = (0.0f64, 0.0f64);
        let mut moved: Option<(usize, f32)> = None;
        for step in 0..k / 2 {
            // What is not free may still move to where the error has not been.
            let limit = (least - LEAST_GAIN * error - change) as f32;
            let (mut cost, mut place) = ([f32::INFINITY; LANES], [0u32; LANES]);
            let (row, factor) = match moved {
                Some((row, factor)) => (&moments[row * k..(row + 1) * k], factor),
                None => (&moments[..0], 0.0),
            };
            for (at, cell) in cells.iter_mut().enumerate() {
                let start = (at * LANES).min(row.len());
                let mut moment = [0.0; LANES];
                match row[start..].first_chunk::<LANES>() {
                    Some(full) => moment = *full,
                    None => moment[..row.len() - start].copy_from_slice(&row[start..]),
                }
                for l in 0..LANES {
                    cell.gradient[l] += factor * moment[l];
                }
                let mut wanted = [0.0; LANES];
                for l in 0..LANES {
                    let slope = 2.0 * cell.gradient[l] * cell.scale[l];
                    let next = cell.code[l] + if slope > 0.0 { -1.0 } else { 1.0 };
                    let here = cell.curvature[l] - slope.abs();
                    let here = if next < strip.lowest { f32::INFINITY } else { here };
                    wanted[l] = if next > strip.highest { f32::INFINITY } else { here };
                }
                for l in 0..LANES {
                    let held = if cell.free[l] > step as u32 { limit } else { f32::INFINITY };
                    wanted[l] = if wanted[l] < held { wanted[l] } else { f32::INFINITY };
                }
                let mut better = [0u32; LANES];
                for l in 0..LANES {
                    better[l] = if wanted[l] < cost[l] { u32::MAX } else { 0 };
                }
                for l in 0..LANES {
                    cost[l] = if wanted[l] < cost[l] { wanted[l] } else { cost[l] };
                }
                for l in 0..LANES {
                    place[l] = (place[l] & !better[l]) | (at as u32 & better[l]);
                }
            }
            let row = |l: usize| place[l] as usize * LANES + l;
            let lane = (0..LANES).min_by(|a, b| cost[*a].total_cmp(&cost[*b]).then(row(*a).cmp(&row(*b))));
            let Some(l) = lane.filter(|l| cost[*l] < f32::INFINITY) else {
                moved = None;
                continue;
            };
            let cell = &mut cells[place[l] as usize];
            let direction = if cell.gradient[l] * cell.scale[l] > 0.0 { -1.0 } else { 1.0 };
            cell.code[l] += direction;
            cell.free[l] = (step + 1 + TENURE + step % SPREAD) as u32;
            moved = Some((row(l), direction * cell.scale[l]));
            change += f64::from(cost[l]);
            if change < least - LEAST_GAIN * error {
                least = change;
                keep(best, cells);
            }
        }
    }
}

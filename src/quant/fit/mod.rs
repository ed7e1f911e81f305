//! Choosing a scale and a zero point for every block of every column.

mod panel;
mod percentile;
mod rtn;
mod search;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    grid::Grid,
    levels::Levels,
    matrix::Matrix,
    scheme::Scheme,
    simd::{Kernel, Simd},
};
use panel::{LANES, Lanes, Panel};

/// How scales and zero points are chosen.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// The range of the block, extended to include 0, is divided evenly.
    Rtn,
    /// As `Rtn`, after clipping values at this percentile (0 to 100) of the magnitudes of the block.
    Percentile { percent: f32 },
    /// The least squared error over a table of scales and zero points, each refitted by least squares.
    Search,
    /// `Search` in which an error counts with the mean square of the activations that it meets, see [`fit_weighted`], where
    /// that is better on samples it has not seen, or else `Search`.
    Weighted,
    /// The least squared error of the outputs over the statistics of the activations, see
    /// [`compensate`](super::compensate); as `Search` where there are none.
    Gptq,
    /// `Gptq` or `Weighted`, whichever is better on samples it has not seen, or else `Search`.
    Auto,
}

impl Algorithm {
    /// Whether statistics of activations are made use of.
    pub fn wants_statistics(self) -> bool {
        matches!(self, Algorithm::Weighted | Algorithm::Gptq | Algorithm::Auto)
    }
}

/// Columns of the unit of parallel work.
pub(super) const TASK_COLUMNS: usize = 256;

/// Fits the grid of `matrix`, whose values must be finite (see [`survey`](super::survey())).
///
/// For values that are not, the scales are unspecified. The result does not depend on the number of
/// threads nor on the machine.
pub fn fit(matrix: &Matrix, scheme: Scheme, algorithm: Algorithm) -> Grid {
    fit_on(Simd::detect(), matrix, scheme, algorithm, None)
}

/// [`fit`] by [`Algorithm::Search`], for the squared error of the outputs where inputs are not correlated: `weights`, `[K]`,
/// are the mean squares of the inputs, which an error in their rows counts with.
pub fn fit_weighted(matrix: &Matrix, scheme: Scheme, weights: &[f32]) -> Grid {
    fit_on(Simd::detect(), matrix, scheme, Algorithm::Search, Some(weights))
}

pub(super) fn fit_on(
    simd: Simd,
    matrix: &Matrix,
    scheme: Scheme,
    algorithm: Algorithm,
    weights: Option<&[f32]>,
) -> Grid {
    let (k, n) = (matrix.k(), matrix.n());
    let count = scheme.blocks(k) * n;
    let mut grid = Grid { scales: vec![0.0; count], zeros: vec![0.0; count], unit: None };
    if count == 0 {
        return grid;
    }
    let levels = Levels::of(scheme);
    let rows = grid.scales.par_chunks_mut(n).zip(grid.zeros.par_chunks_mut(n)).enumerate();
    let strips = rows.flat_map(|(block, (scales, zeros))| {
        let strips = scales.par_chunks_mut(TASK_COLUMNS).zip(zeros.par_chunks_mut(TASK_COLUMNS));
        strips.enumerate().map(move |(strip, slots)| (block, strip * TASK_COLUMNS, slots))
    });
    strips.for_each_init(Scratch::default, |scratch, (block, left, (scales, zeros))| {
        let top = block * scheme.block;
        let height = scheme.block.min(k - top);
        let width = tile_width(height).min(TASK_COLUMNS);
        for (index, (scales, zeros)) in scales.chunks_mut(width).zip(zeros.chunks_mut(width)).enumerate() {
            let left = left + index * width;
            scratch.tile.resize(height * scales.len(), 0.0);
            matrix.tile(top..top + height, left..left + scales.len(), &mut scratch.tile);
            let weights = weights.map(|weights| &weights[top..top + height]);
            scratch.fitter.fit(simd, &scratch.tile, &levels, algorithm, weights, (scales, zeros));
        }
    });
    grid.in_units(scheme)
}

/// Values of a tile: 64 KiB.
const TILE_VALUES: usize = 16384;

/// Columns of a tile of `height` rows: tall blocks are cut into narrower tiles, to stay in the second-level cache.
pub(super) fn tile_width(height: usize) -> usize {
    (TILE_VALUES / height.max(1)).max(1).next_multiple_of(LANES)
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    tile: Vec<f32>,
    fitter: Fitter,
}

/// Fits tiles one after the other.
#[derive(Default)]
pub(super) struct Fitter {
    panel: Panel,
    magnitudes: Vec<f32>,
    extent: Extent,
}

/// The extremes, over some columns, of the largest magnitude of a column that is not all zero.
pub(super) struct Extent {
    least: Lanes,
    most: Lanes,
}

impl Default for Extent {
    fn default() -> Self {
        Self { least: [f32::INFINITY; LANES], most: [0.0; LANES] }
    }
}

impl Extent {
    #[inline(always)]
    fn add(&mut self, panel: &Panel) {
        for l in 0..LANES {
            let magnitude = panel.magnitude(l);
            let nonzero = if magnitude > 0.0 { magnitude } else { f32::INFINITY };
            self.least[l] = if nonzero < self.least[l] { nonzero } else { self.least[l] };
            self.most[l] = if magnitude > self.most[l] { magnitude } else { self.most[l] };
        }
    }

    /// The least, infinite where all is zero, and the largest.
    pub fn ends(&self) -> (f32, f32) {
        let least = self.least.iter().copied().fold(f32::INFINITY, f32::min);
        (least, self.most.iter().copied().fold(0.0, f32::max))
    }
}

impl Fitter {
    /// The extent of what was fitted since this was asked last.
    pub fn take_extent(&mut self) -> Extent {
        std::mem::take(&mut self.extent)
    }

    /// Chooses a scale and a zero point for every column of `tile`, which is one block high.
    pub fn fit(
        &mut self,
        simd: Simd,
        tile: &[f32],
        levels: &Levels,
        algorithm: Algorithm,
        weights: Option<&[f32]>,
        (scales, zeros): (&mut [f32], &mut [f32]),
    ) {
        let Self { panel, magnitudes, extent } = self;
        simd.run(FitTile { tile, panel, extent, levels, algorithm, weights, magnitudes, scales, zeros });
    }
}

/// One scale and zero point for each column of a panel; the scale in the unit of the panel.
#[derive(Clone, Copy)]
struct Choice {
    scale: Lanes,
    zero: Lanes,
}

/// Fits one block of rows of `scales.len()` columns, the first of which is `left`.
struct FitTile<'a> {
    tile: &'a [f32],
    panel: &'a mut Panel,
    extent: &'a mut Extent,
    levels: &'a Levels,
    algorithm: Algorithm,
    /// How much errors in the rows count, for a search.
    weights: Option<&'a [f32]>,
    magnitudes: &'a mut Vec<f32>,
    scales: &'a mut [f32],
    zeros: &'a mut [f32],
}

impl Kernel for FitTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.scales.len();
        let slots = self.scales.chunks_mut(LANES).zip(self.zeros.chunks_mut(LANES));
        for (start, (scales, zeros)) in (0..).step_by(LANES).zip(slots) {
            self.panel.measure(self.tile, width, start, scales.len());
            self.extent.add(self.panel);
            let choice = match self.algorithm {
                Algorithm::Rtn => rtn::fit(self.panel, self.levels),
                Algorithm::Percentile { percent } => {
                    self.panel.load(self.tile, width, start, scales.len());
                    percentile::fit(self.panel, self.levels, percent, self.magnitudes)
                }
                Algorithm::Search | Algorithm::Weighted | Algorithm::Gptq | Algorithm::Auto => {
                    self.panel.load(self.tile, width, start, scales.len());
                    match self.weights {
                        Some(weights) => {
                            self.panel.weigh(weights);
                            search::fit::<true>(self.panel, self.levels)
                        }
                        None => search::fit::<false>(self.panel, self.levels),
                    }
                }
            };
            let choice = self.panel.finish(choice, self.levels);
            scales.copy_from_slice(&choice.scale[..scales.len()]);
            zeros.copy_from_slice(&choice.zero[..zeros.len()]);
        }
    }
}

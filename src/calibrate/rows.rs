//! The rows of an activation over all samples, one after another.

use std::ops::Range;

use rayon::prelude::*;

use super::product;
use crate::engine::{Value, round_rows};

/// Activations `[rows,width]` of all samples.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub width: usize,
    pub values: Vec<f32>,
    /// The rows of each sample.
    ranges: Vec<Range<usize>>,
    shapes: Vec<Vec<usize>>,
}

/// Products `[rows,n]` of all samples.
pub(super) struct Products {
    n: usize,
    values: Vec<f32>,
    ranges: Vec<Range<usize>>,
    shapes: Vec<Vec<usize>>,
}

impl Rows {
    /// `None` when a value does not end in an axis of `width`.
    pub fn of(values: &[&Value], width: usize) -> Option<Self> {
        let mut rows = Self { width, values: Vec::new(), ranges: Vec::new(), shapes: Vec::new() };
        let mut end = 0;
        let mut parts = Vec::with_capacity(values.len());
        for value in values {
            if width == 0 || value.shape().last() != Some(&width) {
                return None;
            }
            let floats = value.as_floats()?;
            let start = end;
            end += floats.len() / width;
            parts.push(floats);
            rows.ranges.push(start..end);
            rows.shapes.push(value.shape().to_vec());
        }
        rows.values = parts.concat();
        Some(rows)
    }

    /// Rounds every row as the deployed kernel does, by `block`.
    pub fn round(&mut self, block: usize) {
        let width = self.width;
        self.values.par_chunks_mut(width.max(1)).for_each(|row| round_rows(row, width, block));
    }

    /// Some columns of every row.
    pub fn columns(&self, columns: &Range<usize>) -> Rows {
        let rows = self.values.chunks_exact(self.width.max(1));
        let values = rows.filter_map(|row| row.get(columns.clone())).flatten().copied().collect();
        Rows { width: columns.len(), values, ranges: self.ranges.clone(), shapes: self.shapes.clone() }
    }

    /// The rows of the chosen samples that are no padding.
    pub fn counted(&self, masks: &[Option<Vec<bool>>], chosen: &dyn Fn(usize) -> bool) -> Vec<f32> {
        let mut taken = Vec::new();
        for (at, range) in self.ranges.iter().enumerate().filter(|(at, _)| chosen(*at)) {
            // A mask speaks of the rows where there are as many.
            let mask = masks.get(at).and_then(Option::as_ref).filter(|mask| mask.len() == range.len());
            for (position, row) in range.clone().enumerate() {
                if mask.is_none_or(|mask| mask.get(position) == Some(&true)) {
                    taken.push(row);
                }
            }
        }
        let mut found = vec![0.0; taken.len() * self.width];
        found.par_chunks_exact_mut(self.width.max(1)).zip(taken).for_each(|(to, row)| {
            to.copy_from_slice(&self.values[row * self.width..(row + 1) * self.width]);
        });
        found
    }

    /// The products with a weight `[width,n]`, and a shift on every row.
    pub fn products(&self, weight: &[f32], n: usize, shift: Option<&[f32]>) -> Products {
        let mut values = product(&self.values, weight, self.width, n);
        if let Some(shift) = shift {
            values.par_chunks_exact_mut(n.max(1)).for_each(|row| {
                row.iter_mut().zip(shift).for_each(|(value, shift)| *value += shift);
            });
        }
        Products { n, values, ranges: self.ranges.clone(), shapes: self.shapes.clone() }
    }
}

impl Products {
    /// The products of rows that are no padding.
    pub fn counted(&self, masks: &[Option<Vec<bool>>]) -> Vec<f32> {
        let Self { n, values, ranges, shapes } = self;
        let rows = Rows { width: *n, values: values.clone(), ranges: ranges.clone(), shapes: shapes.clone() };
        rows.counted(masks, &|_| true)
    }

    /// The product of sample `at`.
    pub fn value(&self, at: usize) -> Option<Value> {
        let range = self.ranges.get(at)?;
        let mut shape = self.shapes.get(at)?.clone();
        *shape.last_mut()? = self.n;
        Value::from_floats(&shape, self.values.get(range.start * self.n..range.end * self.n)?)
    }
}

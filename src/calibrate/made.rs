//! What stands in the place of the cuts of a stage, once their weights are chosen.

use rayon::prelude::*;

use super::reach::Both;
use super::rows::Products;
use super::runs::Pair;
use super::table;
use crate::engine::{Cut, Value};
use crate::error::{Error, Result};

/// A table or linears, to be put into the runs.
pub(super) enum Made<'a> {
    Table {
        cut: &'a Cut,
        sizes: (usize, usize),
        table: Vec<f32>,
        /// As it comes back, where that is another.
        back: Option<Vec<f32>>,
    },
    /// Linears that share an input of this width, and see the same rows.
    Linears { input: &'a str, width: usize, block: Option<usize>, list: Vec<Linear<'a>> },
}

/// A linear with its weight `[K,N]`.
pub(super) struct Linear<'a> {
    pub cut: &'a Cut,
    pub n: usize,
    pub weight: Vec<f32>,
    /// As it comes back, with what is added to the bias.
    pub back: Option<(Vec<f32>, Option<Vec<f32>>)>,
}

impl Made<'_> {
    /// Puts the products and rows into `pairs`.
    ///
    /// # Errors
    /// Ids outside of their table, or an activation of another form.
    pub fn put(&self, pairs: &mut [Pair]) -> Result<()> {
        match self {
            Made::Table { cut, sizes, table, back } => {
                pairs.par_iter_mut().try_for_each(|pair| gather(pair, cut, *sizes, table, back.as_deref()))
            }
            Made::Linears { input, width, block, list } => {
                let both = Both::of(pairs, input, *width)?;
                let seen = list.iter().any(|linear| linear.back.is_some()).then(|| both.seen(*block));
                for linear in list {
                    let Linear { cut, n, weight, back } = linear;
                    let reference = both.original.products(weight, *n, None);
                    let products = match (back, &seen) {
                        (Some((back, shift)), Some(seen)) => Some(seen.products(back, *n, shift.as_deref())),
                        _ => both.rewritten.as_ref().map(|rows| rows.products(weight, *n, None)),
                    };
                    hand_on(pairs, cut, &reference, products.as_ref());
                }
                Ok(())
            }
        }
    }
}

fn gather(
    pair: &mut Pair,
    cut: &Cut,
    sizes: (usize, usize),
    table: &[f32],
    back: Option<&[f32]>,
) -> Result<()> {
    let lost = || {
        Error::unsupported(
            "runtime",
            format!("ids '{}' lie outside their table of {} rows", cut.input, sizes.0),
        )
        .help("the samples are for another model, or made with another tokenizer")
    };
    if back.is_some() || pair.rewritten.is_some() {
        let run = pair.part();
        let value = table::rows(run, cut, back.unwrap_or(table), sizes).ok_or_else(lost)?;
        run.put(&cut.output, value);
    }
    let value = table::rows(&pair.original, cut, table, sizes).ok_or_else(lost)?;
    pair.original.put(&cut.output, value);
    Ok(())
}

fn hand_on(pairs: &mut [Pair], cut: &Cut, reference: &Products, rewritten: Option<&Products>) {
    let put = |run: &mut crate::engine::Run, value: Option<Value>| {
        value.into_iter().for_each(|value| run.put(&cut.output, value));
    };
    pairs.par_iter_mut().enumerate().for_each(|(at, pair)| {
        if let Some(products) = rewritten {
            put(pair.part(), products.value(at));
        }
        put(&mut pair.original, reference.value(at));
    });
}

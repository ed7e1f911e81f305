//! The runs of all samples, in batches: where memory does not hold them all, each batch waits in a temporary file
//! while the others have their turn.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};
use std::ops::Range;

use rayon::prelude::*;

use crate::data::Sample;
use crate::engine::{Parked, Run, Stages};
use crate::error::{Error, Result};

/// Two runs of one sample; `rewritten` is absent while it is the same.
pub(super) struct Pair {
    pub original: Run,
    pub rewritten: Option<Run>,
}

impl Pair {
    /// The run of the rewritten network.
    pub fn rewritten(&self) -> &Run {
        self.rewritten.as_ref().unwrap_or(&self.original)
    }

    /// The same, from here on apart from the original.
    pub fn part(&mut self) -> &mut Run {
        self.rewritten.get_or_insert_with(|| self.original.clone())
    }

    /// The runs that there are.
    pub fn each(&mut self) -> impl Iterator<Item = &mut Run> {
        std::iter::once(&mut self.original).chain(&mut self.rewritten)
    }
}

/// Where the runs of a batch are.
enum Place {
    Ahead,
    Here(Vec<Pair>),
    Parked(File, Vec<(Parked, Option<Parked>)>),
}

/// The runs of all samples.
pub(super) struct Runs<'a> {
    samples: Vec<&'a Sample>,
    batches: Vec<(Range<usize>, Place)>,
}

impl<'a> Runs<'a> {
    /// Runs of `samples`, of which so many are in memory at once.
    pub fn new(samples: Vec<&'a Sample>, at_once: usize) -> Self {
        let at_once = at_once.max(1);
        let batch = |first| (first..samples.len().min(first + at_once), Place::Ahead);
        let batches = (0..samples.len()).step_by(at_once).map(batch).collect();
        Self { samples, batches }
    }

    /// Hands the runs to `work`, batch by batch, each with the numbers of its samples; the `last` visit keeps none.
    ///
    /// # Errors
    /// Those of `work`, and a temporary folder that cannot be written.
    pub fn visit(
        &mut self,
        stages: &Stages,
        last: bool,
        mut work: impl FnMut(Range<usize>, &mut [Pair]) -> Result<()>,
    ) -> Result<()> {
        let alone = self.batches.len() == 1;
        for (range, place) in &mut self.batches {
            let (mut pairs, file) = match std::mem::replace(place, Place::Ahead) {
                Place::Here(pairs) => (pairs, None),
                Place::Parked(mut file, parked) => (fetched(&mut file, &parked).map_err(lost)?, Some(file)),
                Place::Ahead => {
                    let start =
                        |sample: &&Sample| Ok(Pair { original: stages.start(sample)?, rewritten: None });
                    let samples = self.samples.get(range.clone()).unwrap_or_default();
                    (samples.par_iter().map(start).collect::<Result<_>>()?, None)
                }
            };
            work(range.clone(), &mut pairs)?;
            if alone {
                *place = Place::Here(pairs);
            } else if !last {
                *place = parked(file, &pairs).map_err(lost)?;
            }
        }
        Ok(())
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::io(&std::env::temp_dir(), &error).help(
        "activations that --max-memory does not hold go to the temporary folder: TMPDIR names another, \
         fewer calibration samples need less of it",
    )
}

fn parked(file: Option<File>, pairs: &[Pair]) -> std::io::Result<Place> {
    let mut file = file.map_or_else(tempfile::tempfile, Ok)?;
    file.rewind()?;
    let mut to = BufWriter::with_capacity(1 << 20, &file);
    let mut list = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let original = pair.original.park(None, &mut to)?;
        let rewritten =
            pair.rewritten.as_ref().map(|run| run.park(Some(&pair.original), &mut to)).transpose()?;
        list.push((original, rewritten));
    }
    to.flush()?;
    drop(to);
    Ok(Place::Parked(file, list))
}

fn fetched(file: &mut File, list: &[(Parked, Option<Parked>)]) -> std::io::Result<Vec<Pair>> {
    file.rewind()?;
    let mut from = BufReader::with_capacity(1 << 20, file);
    list.iter()
        .map(|(original, rewritten)| {
            let original = original.fetch(None, &mut from)?;
            let rewritten =
                rewritten.as_ref().map(|run| run.fetch(Some(&original), &mut from)).transpose()?;
            Ok(Pair { original, rewritten })
        })
        .collect()
}

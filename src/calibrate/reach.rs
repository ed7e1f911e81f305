//! What reaches the linears that share an input, summed up batch by batch.

use std::collections::BTreeMap;
use std::ops::Range;

use super::bands::Band;
use super::rows::Rows;
use super::runs::Pair;
use super::shared::Shared;
use super::trial::Judges;
use super::weight_beside;
use crate::engine::{Cut, Value};
use crate::error::{Error, Result};
use crate::statistics::{Parts, Sums};

/// Values of held-out rows that are kept to judge by, of each network.
const MOST_JUDGED: usize = 16 << 20;

/// Which samples are which.
pub(super) struct Parties {
    /// By sample, which positions count.
    pub masks: Vec<Option<Vec<bool>>>,
    /// By sample, whether it judges.
    pub held_out: Vec<bool>,
    /// Samples that were given; those made up beside them follow.
    pub given: usize,
}

impl Parties {
    fn holds_out(&self, at: usize) -> bool {
        self.held_out.get(at) == Some(&true)
    }
}

/// The linears that share an input.
pub(super) struct Reach<'a> {
    pub width: usize,
    /// In which the inputs are summed up.
    bands: Vec<Range<usize>>,
    /// By the block in which the kernel rounds: what a weight sees depends on it. Without one are linears that stay
    /// float.
    groups: BTreeMap<Option<usize>, Group<'a>>,
    /// Of the original network, where they are to be kept.
    kept: Option<Seen>,
    input: &'a str,
}

/// Linears that see the same rows.
struct Group<'a> {
    cuts: Vec<&'a Cut>,
    /// By band; none where nothing is to be fitted.
    seen: Vec<Seen>,
}

/// Sums over the rows of a batch after another.
struct Seen {
    train: Sums,
    judging: Sums,
    /// The same over samples made up beside.
    made: Option<(Sums, Sums)>,
    judges: (Vec<f32>, Vec<f32>),
    /// Values of those that are kept, of each network.
    most_judged: usize,
}

/// The rows that reach a cut in a batch.
pub(super) struct Both {
    pub original: Rows,
    /// Absent while they are the same.
    pub rewritten: Option<Rows>,
}

impl Both {
    /// The rows at `input`, of `width` each.
    ///
    /// # Errors
    /// An activation of another form.
    pub fn of(pairs: &[Pair], input: &str, width: usize) -> Result<Self> {
        let rows = |values: Option<Vec<&Value>>| {
            values.and_then(|values| Rows::of(&values, width)).ok_or_else(|| {
                Error::unsupported("runtime", format!("activations '{input}' are not rows of {width}"))
            })
        };
        let original = rows(pairs.iter().map(|pair| pair.original.get(input)).collect())?;
        let apart = pairs.iter().any(|pair| pair.rewritten.is_some());
        let rewritten = || rows(pairs.iter().map(|pair| pair.rewritten().get(input)).collect());
        Ok(Self { original, rewritten: apart.then(rewritten).transpose()? })
    }

    /// What the weight sees: the kernel rounds by `block`, if it does.
    pub fn seen(&self, block: Option<usize>) -> Rows {
        let mut seen = self.rewritten.as_ref().unwrap_or(&self.original).clone();
        if let Some(block) = block {
            seen.round(block);
        }
        seen
    }
}

impl<'a> Reach<'a> {
    /// Nothing yet at `input`, of `width` in these bands; `keep` asks for the sums of the original network, which are
    /// those of a single band.
    pub fn new(input: &'a str, width: usize, bands: Vec<Range<usize>>, keep: bool, made: bool) -> Self {
        let kept = (keep && bands.len() == 1).then(|| Seen::new(width, width, made));
        Self { width, bands, groups: BTreeMap::new(), kept, input }
    }

    /// Adds a linear; `wanted` asks for sums over what it sees.
    pub fn join(&mut self, cut: &'a Cut, block: Option<usize>, wanted: bool, made: bool) {
        let group = self.groups.entry(block).or_insert_with(|| Group { cuts: Vec::new(), seen: Vec::new() });
        group.cuts.push(cut);
        if wanted && group.seen.is_empty() {
            group.seen = self.bands.iter().map(|band| Seen::new(band.len(), self.width, made)).collect();
        }
    }

    /// Adds the rows of a batch, which is of the samples `range`.
    pub fn add(
        &mut self,
        range: &Range<usize>,
        pairs: &[Pair],
        parties: &Parties,
        kernel: bool,
    ) -> Result<()> {
        if self.kept.is_none() && self.groups.values().all(|group| group.seen.is_empty()) {
            return Ok(());
        }
        let both = Both::of(pairs, self.input, self.width)?;
        if let Some(kept) = &mut self.kept {
            kept.add(range, &both.original, &both.original, parties, false);
        }
        for (block, group) in &mut self.groups {
            if let [seen] = &mut group.seen[..] {
                seen.add(range, &both.seen(block.filter(|_| kernel)), &both.original, parties, true);
            } else if !group.seen.is_empty() {
                let rows = both.seen(block.filter(|_| kernel));
                for (band, seen) in self.bands.iter().zip(&mut group.seen) {
                    seen.add(range, &rows.columns(band), &both.original.columns(band), parties, true);
                }
            }
        }
        Ok(())
    }

    /// The sums of the original network, with the name of the activation.
    pub fn take_kept(&mut self) -> Option<(String, Parts)> {
        self.kept.take().map(|kept| (self.input.to_owned(), kept.parts().0))
    }

    /// What the linears of each block saw, by band.
    pub fn take_groups(&mut self) -> Vec<(Option<usize>, Vec<&'a Cut>, Vec<Band>)> {
        let groups = std::mem::take(&mut self.groups).into_iter();
        let of = |(block, group): (Option<usize>, Group<'a>)| {
            let seen = self.bands.iter().cloned().zip(group.seen);
            let bands = seen.map(|(inputs, seen)| {
                let (parts, judges) = seen.parts();
                Band { inputs, shared: Shared::new(Some(parts)), judges }
            });
            (block, group.cuts, bands.collect())
        };
        groups.map(of).collect()
    }
}

impl Seen {
    /// Of a band of `width` inputs of `all`.
    fn new(width: usize, all: usize, made: bool) -> Self {
        let sums = || Sums::new(width);
        let made = made.then(|| (sums(), sums()));
        let most_judged = (MOST_JUDGED / all.max(1)).max(1) * width;
        Self { train: sums(), judging: sums(), made, judges: Default::default(), most_judged }
    }

    fn add(&mut self, range: &Range<usize>, seen: &Rows, original: &Rows, parties: &Parties, judged: bool) {
        let masks = parties.masks.get(range.clone()).unwrap_or_default();
        let sum = |sums: &mut Sums, chosen: &dyn Fn(usize) -> bool| {
            let chosen = |at: usize| chosen(range.start + at);
            sums.add(&seen.counted(masks, &chosen), &original.counted(masks, &chosen));
        };
        let given = |at: usize| at < parties.given;
        sum(&mut self.train, &|at| given(at) && !parties.holds_out(at));
        sum(&mut self.judging, &|at| given(at) && parties.holds_out(at));
        if let Some((made, judging)) = &mut self.made {
            sum(made, &|at| !given(at) && !parties.holds_out(at));
            sum(judging, &|at| !given(at) && parties.holds_out(at));
        }
        if judged && self.judges.0.len() < self.most_judged {
            let held = |at: usize| parties.holds_out(range.start + at);
            self.judges.0.extend(seen.counted(masks, &held));
            self.judges.1.extend(original.counted(masks, &held));
        }
    }

    /// Sums over the rows that take part, and over those held out; and the rows that judge.
    fn parts(self) -> (Parts, Judges) {
        let Self { mut train, mut judging, made, judges: (mut seen, mut original), most_judged } = self;
        if let Some((mut made, mut made_judging)) = made {
            let weight = weight_beside(train.rows() + judging.rows());
            let all = made.rows() + made_judging.rows();
            for part in [&mut made, &mut made_judging] {
                part.weigh_as((part.rows() * weight).checked_div(all).unwrap_or(0).min(part.rows()));
            }
            train.merge(&made);
            judging.merge(&made_judging);
        }
        seen.truncate(most_judged);
        original.truncate(most_judged);
        ((train, judging), Judges::Rows(seen, original))
    }
}

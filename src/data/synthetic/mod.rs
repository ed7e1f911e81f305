//! Samples from what a model tells of its inputs, for one that comes without data: ids of its vocabulary by a
//! rank law, with topics; images with the spectrum of photographs; masks of ones; lengths that fit the tables
//! of positions. They say nothing about real inputs, but weights can be fitted to them.

mod images;
mod tokens;

use std::collections::BTreeMap;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::inputs::{Dim, InputSpec, inputs};
use super::tables::{Tables, input_behind};
use super::{Array, Label, Made, Origin, Sample, Samples};
use crate::error::{Error, Result};
use crate::graph::{Form, Index, Inventory, Values};
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;
use crate::role::Role;

use images::{BYTES, Span};
use tokens::Vocabulary;

/// Lengths of free sequences: the shortest, the longest, and how many from one to the other.
const LENGTHS: (usize, usize, usize) = (6, 64, 12);
/// Different lengths that few samples have.
const FEW_LENGTHS: usize = 4;
/// Tokens of a text that the model is to write itself, at most.
const WINDOW: usize = 128;
/// Length of the past of a cache.
const PAST: usize = 8;
/// Height and width of an image whose size is free.
const IMAGE: usize = 64;
/// Elements of one input that are still made up.
const ELEMENTS: usize = 1 << 26;

/// Samples for a calibration at most, by what they are.
const SEQUENCES: usize = 1536;
const PICTURES: usize = 512;
/// Samples for a calibration at least, however large the model.
const LEAST: usize = 64;
/// Rows of activations that a calibration takes at most, ...
const ROWS: usize = 24_000;
/// ... values of its widest activation, ...
const VALUES: usize = 80 << 20;
/// ... and products of one pass through all linears.
const PRODUCTS: usize = 2_500 << 30;

/// Makes `count` samples for `model`; the same ones for the same seed.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] for inputs that cannot be made up: unknown rank, strings, huge sizes.
pub fn synthetic(model: &Model, inventory: &Inventory, count: usize, seed: u64) -> Result<Samples> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let maker = Maker::new(model, inventory, count, &mut rng)?;
    let step = LENGTHS.2 / FEW_LENGTHS;
    let lengths: Vec<usize> = maker.lengths().into_iter().skip(step - 1).step_by(step).collect();
    maker.samples(count, &lengths, rng, seed)
}

/// Makes as many samples as weights are well fitted to in reasonable time; the same ones for the same seed, and
/// others than [`synthetic`] makes for it.
///
/// # Errors
/// As [`synthetic`].
pub fn synthetic_calibration(model: &Model, inventory: &Inventory, seed: u64) -> Result<Samples> {
    let mut rng = stream(seed);
    let maker = Maker::new(model, inventory, SEQUENCES, &mut rng)?;
    let lengths = maker.lengths();
    let (most, rows) = maker.size_of_samples(&lengths);
    let count = (maker.budget(inventory, 1) / rows.max(1)).clamp(LEAST, most);
    maker.samples(count, &lengths, rng, seed)
}

/// The beginnings of texts for a language model to write: random tokens in one input, whose values are ids.
#[derive(Debug, Clone)]
pub struct Drafts {
    /// All of one length.
    pub samples: Samples,
    /// The input that holds the ids.
    pub input: String,
    /// Ids are below this.
    pub vocabulary: usize,
}

/// Makes drafts that are to be run `passes` times each; `None` for a model that takes no sequence of ids, or
/// several.
///
/// # Errors
/// As [`synthetic`].
pub fn drafts(model: &Model, inventory: &Inventory, passes: usize, seed: u64) -> Result<Option<Drafts>> {
    let mut rng = stream(seed);
    let maker = Maker::new(model, inventory, LEAST, &mut rng)?;
    let [(input, _)] = maker.vocabularies.iter().collect::<Vec<_>>()[..] else { return Ok(None) };
    let (input, vocabulary) = (input.clone(), maker.tables.rows.get(input).copied().unwrap_or(0));
    let length = maker.longest(WINDOW);
    let most = ROWS / length.max(1);
    let count =
        (maker.budget(inventory, passes) / length.max(1)).clamp(LEAST / 2, most.clamp(LEAST, 2 * WINDOW));
    let mut samples = maker.samples(count, &[length], rng, seed)?;
    samples.origin = Origin::Synthetic { seed, made: Made::Texts };
    Ok(Some(Drafts { samples, input, vocabulary }))
}

/// Random numbers of calibration.
fn stream(seed: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(1);
    rng
}

/// What all samples of a model have in common.
struct Maker {
    specs: Vec<InputSpec>,
    tables: Tables,
    /// By input of ids.
    vocabularies: BTreeMap<String, Vocabulary>,
    /// By input of images.
    spans: BTreeMap<String, Vec<Span>>,
}

impl Maker {
    fn new(model: &Model, inventory: &Inventory, count: usize, rng: &mut ChaCha8Rng) -> Result<Self> {
        let specs = inputs(model)?;
        let tables = Tables::of(model, inventory);
        let index = Index::new(model.graph(), model.proto.ir_version());
        let mut vocabularies = BTreeMap::new();
        let sites = inventory.sites.iter().zip(&inventory.roles);
        for (site, _) in
            sites.filter(|(site, role)| matches!(site.form, Form::Gather) && **role == Role::TokenEmbeddings)
        {
            let ids = index.node(site.at.node).and_then(|node| node.input.get(1));
            let Some(input) = ids.and_then(|ids| input_behind(&index, ids)) else { continue };
            let rows = tables.rows.get(&input).copied().unwrap_or(site.k);
            if vocabularies.contains_key(&input) {
                continue;
            }
            let values = Values::of(model, site)?;
            vocabularies.insert(input, Vocabulary::of(&values.matrix()?, rows, count, rng));
        }
        let mut spans = BTreeMap::new();
        for spec in &specs {
            if let Some(channels) = spec.dims.as_deref().and_then(channels) {
                spans.insert(spec.name.clone(), images::spans(model, &index, &spec.name, channels));
            }
        }
        Ok(Self { specs, tables, vocabularies, spans })
    }

    /// The longest sequence up to `most`.
    fn longest(&self, most: usize) -> usize {
        // Tables of positions may begin with rows that are none; their number is then no round one.
        let free = |rows: usize| if rows.is_multiple_of(8) { rows } else { rows.saturating_sub(4) };
        self.tables.positions.map_or(most, |rows| most.min(free(rows)).max(1))
    }

    fn lengths(&self) -> Vec<usize> {
        let (first, last, many) = LENGTHS;
        let last = self.tables.positions.map_or(last, |rows| last.min(rows.saturating_sub(4))).max(1);
        let first = first.min(last);
        (0..many).map(|at| first + (last - first) * at / (many - 1)).collect()
    }

    /// How many samples are wanted at most, and the rows of activations that one brings on average.
    fn size_of_samples(&self, lengths: &[usize]) -> (usize, usize) {
        let mean = lengths.iter().sum::<usize>() / lengths.len().max(1);
        let (mut rows, mut pictures) = (1, false);
        for spec in &self.specs {
            let dims = spec.dims.as_deref().unwrap_or_default();
            let sizes: Vec<usize> =
                dims.iter().enumerate().map(|(axis, dim)| size(dims, axis, dim, mean)).collect();
            let is_ids = self.tables.rows.contains_key(&spec.name);
            rows = rows.max(match sizes[..] {
                // Patches of 16 pixels each way, or smaller ones on small images.
                [_, a, b, c] if self.spans.contains_key(&spec.name) => {
                    pictures = true;
                    (a * b * c / channels(dims).unwrap_or(1).max(1) / 256).max(64)
                }
                [_, length] if is_ids => length,
                [.., rows, _] if sizes.len() > 2 => rows,
                _ => 1,
            });
        }
        (if pictures { PICTURES } else { SEQUENCES }, rows)
    }

    /// Rows of activations that a calibration can afford, with so many passes through the network.
    fn budget(&self, inventory: &Inventory, passes: usize) -> usize {
        let linears = inventory.sites.iter().filter(|site| !matches!(site.form, Form::Gather));
        let (widest, products) = linears.fold((1, 1), |(widest, products): (usize, usize), site| {
            (widest.max(site.k), products.saturating_add(site.k.saturating_mul(site.n)))
        });
        ROWS.min(VALUES / widest).min(PRODUCTS / products.saturating_mul(passes.max(1)))
    }

    fn samples(&self, count: usize, lengths: &[usize], mut rng: ChaCha8Rng, seed: u64) -> Result<Samples> {
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            let length = lengths.get(rng.random_range(0..lengths.len().max(1))).copied().unwrap_or(1);
            let mut taken = Vec::with_capacity(self.specs.len());
            for spec in &self.specs {
                taken.push((spec.name.clone(), self.array(spec, length, &mut rng)?));
            }
            list.push(Sample { inputs: taken, label: Label::None });
        }
        let made = match (self.vocabularies.is_empty(), self.spans.is_empty()) {
            (false, _) => Made::Sequences,
            (true, false) => Made::Images,
            (true, true) => Made::Values,
        };
        Ok(Samples { list, origin: Origin::Synthetic { seed, made }, remarks: Vec::new() })
    }

    fn array(&self, spec: &InputSpec, length: usize, rng: &mut ChaCha8Rng) -> Result<Array> {
        let unsupported = |what: &str| {
            Err(Error::unsupported(format!("input '{}'", spec.name), format!("{what}: it cannot be made up"))
                .help("give samples with --data"))
        };
        let Some(dims) = &spec.dims else { return unsupported("its rank is not declared") };
        let shape: Vec<usize> =
            dims.iter().enumerate().map(|(axis, dim)| size(dims, axis, dim, length)).collect();
        let Some(count) = shape
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size))
            .filter(|count| *count <= ELEMENTS)
        else {
            return unsupported(&format!("{shape:?} elements"));
        };
        use DataType as D;
        let bytes: Vec<u8> = match spec.data_type {
            D::Float | D::Double | D::Float16 => {
                let values = match self.spans.get(&spec.name) {
                    Some(spans) => pictures(&shape, spans, rng),
                    None => normal(count, rng),
                };
                match spec.data_type {
                    D::Float => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    D::Double => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
                    _ => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
                }
            }
            D::Int64 => self.integers(spec, &shape, rng).iter().flat_map(|v| v.to_le_bytes()).collect(),
            D::Int32 => {
                self.integers(spec, &shape, rng).iter().flat_map(|v| (*v as i32).to_le_bytes()).collect()
            }
            D::Bool => vec![1; count],
            D::Uint8 if self.spans.contains_key(&spec.name) => {
                pictures(&shape, &[BYTES], rng).iter().map(|value| value.round() as u8).collect()
            }
            D::Uint8 | D::Int8 => (0..count).map(|_| rng.random_range(0..100)).collect(),
            _ => return unsupported("its element type"),
        };
        Ok(Array { data_type: spec.data_type, shape, bytes: bytes.into() })
    }

    fn integers(&self, spec: &InputSpec, shape: &[usize], rng: &mut ChaCha8Rng) -> Vec<i64> {
        let count: usize = shape.iter().product();
        let name = spec.name.to_lowercase();
        let width = shape.last().copied().unwrap_or(1).max(1);
        if name.contains("mask") {
            return vec![1; count];
        }
        if name.contains("token_type") || name.contains("segment") {
            return vec![0; count];
        }
        let rows = self.tables.rows.get(&spec.name).copied().unwrap_or(usize::MAX).max(1);
        if name.contains("position") {
            return (0..count).map(|at| (at % width % rows) as i64).collect();
        }
        match (self.vocabularies.get(&spec.name), rows) {
            (Some(known), _) => known.sequence(count, rng),
            (None, usize::MAX) => vec![1; count],
            (None, rows) => (0..count).map(|_| rng.random_range(0..rows) as i64).collect(),
        }
    }
}

/// The size of an axis, where sequences have `length`.
fn size(dims: &[Dim], axis: usize, dim: &Dim, length: usize) -> usize {
    match dim {
        Dim::Fixed(size) => *size,
        Dim::Free(name) => {
            let lower = name.to_lowercase();
            if lower.contains("batch") || (axis == 0 && !lower.contains("seq")) {
                1
            } else if lower.contains('+') || lower.contains("total") {
                length + PAST
            } else if lower.contains("past") {
                PAST
            } else if dims.len() == 4 && axis >= 2 && !lower.contains("seq") {
                IMAGE
            } else {
                length
            }
        }
    }
}

/// The channels of an image, at axis 1 or at the end; `None` where `dims` are not those of one.
fn channels(dims: &[Dim]) -> Option<usize> {
    let named =
        |dim: &Dim| matches!(dim, Dim::Free(name) if ["past", "seq"].iter().any(|part| name.contains(part)));
    if dims.len() != 4 || dims.iter().any(named) {
        return None;
    }
    let small = |dim: &Dim| matches!(dim, Dim::Fixed(1 | 3));
    let flat = |dim: &Dim| matches!(dim, Dim::Fixed(1));
    let at = if small(&dims[1]) && !(flat(&dims[2]) || flat(&dims[3])) {
        1
    } else if small(&dims[3]) && !(flat(&dims[1]) || flat(&dims[2])) {
        3
    } else {
        return None;
    };
    match dims[at] {
        Dim::Fixed(channels) => Some(channels),
        Dim::Free(_) => None,
    }
}

/// A batch of images, each in one of `spans`.
fn pictures(shape: &[usize], spans: &[Span], rng: &mut ChaCha8Rng) -> Vec<f32> {
    let &[batch, second, third, last] = shape else { return Vec::new() };
    let at_end = !matches!(second, 1 | 3);
    let (channels, height, width) = if at_end { (last, second, third) } else { (second, third, last) };
    let mut values = Vec::with_capacity(batch * channels * height * width);
    for _ in 0..batch {
        let span = spans[rng.random_range(0..spans.len())];
        let planes = images::image((channels, height, width), span, rng);
        if at_end {
            let pixels = height * width;
            values.extend((0..planes.len()).map(|at| planes[at % channels * pixels + at / channels]));
        } else {
            values.extend(planes);
        }
    }
    values
}

/// Standard normal values (Box-Muller).
fn normal(count: usize, rng: &mut impl Rng) -> Vec<f32> {
    (0..count)
        .map(|_| {
            let radius = (-2.0 * rng.random_range(f64::MIN_POSITIVE..1.0).ln()).sqrt();
            (radius * (std::f64::consts::TAU * rng.random_range(0.0..1.0)).cos()) as f32
        })
        .collect()
}

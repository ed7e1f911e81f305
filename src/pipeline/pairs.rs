//! What a rewritten model has in the place of the weights of its original.
//!
//! Matched by the names of values, which a rewrite keeps: the product that leads to the result of a linear, through
//! sums with constants and changes of axes, and the rows under the name that the table's Gather gave them.

use std::collections::HashMap;

use crate::calibrate::Change;
use crate::data::Sample;
use crate::engine::{Runner, Value, Variant, fusion};
use crate::error::{Error, Result};
use crate::graph::{Form, Index, Scales, Site, Values, bias, inventory, operand, stored};
use crate::onnx::proto::{NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{Checked, Model, node, tensor};
use crate::plan::Encoding;
use crate::quant::{Algorithm, Bits, Emit, PackedRows, ScaleStorage, Scheme};

/// Sums and changes of axes between a product and the value that has the old name, at most.
const SUMS: usize = 3;

/// A rewritten model beside its original.
pub(super) struct Pairs<'a> {
    original: &'a Checked<Model>,
    rewritten: &'a Checked<Model>,
    /// The rewritten one with its weights decoded.
    decoded: &'a Model,
    before: Index<'a>,
    after: Index<'a>,
    plain: Index<'a>,
    /// The linears of the decoded one by their nodes.
    linears: HashMap<usize, Site>,
    /// The block in which activations are rounded, by the name of the product.
    rounded: HashMap<&'a str, usize>,
}

impl<'a> Pairs<'a> {
    /// `decoded` is what [`crate::engine::floats`] makes of `rewritten`.
    pub fn new(original: &'a Checked<Model>, rewritten: &'a Checked<Model>, decoded: &'a Model) -> Self {
        let sites = inventory(decoded).sites;
        let mut linears = HashMap::new();
        for site in sites {
            linears.entry(site.at.node).or_insert(site);
        }
        let index = |model: &'a Model| Index::new(model.graph(), model.proto.ir_version());
        let nodes = &rewritten.graph().node;
        let block = |fused: &crate::engine::Fused| {
            let name = nodes.get(fused.node)?.output.first()?;
            Some((name.as_str(), fused.rounded?))
        };
        let rounded = fusion(rewritten).fused.iter().filter_map(block).collect();
        Self {
            original,
            rewritten,
            decoded,
            before: index(original),
            after: index(rewritten),
            plain: index(decoded),
            linears,
            rounded,
        }
    }

    /// What takes the place of the weight of `site`, and how it is stored where that is a form of efq; `None` where it
    /// is the same or nothing stands for it.
    ///
    /// # Errors
    /// A weight of another shape.
    pub fn of(&self, site: &Site, samples: &[Sample]) -> Result<Option<(Change, Option<Encoding>)>> {
        let Some(node) = self.original.graph().node.get(site.at.node) else { return Ok(None) };
        let result = node.output.first().map_or("", String::as_str);
        if site.form == Form::Gather {
            self.table(site, node, result, samples)
        } else {
            self.linear(site, result)
        }
    }

    fn linear(&self, site: &Site, result: &str) -> Result<Option<(Change, Option<Encoding>)>> {
        let Some((product, new)) = self.product(result) else { return Ok(None) };
        if (new.k, new.n) != (site.k, site.n) {
            let what =
                format!("multiplies by [{},{}] where the original has [{},{}]", new.k, new.n, site.k, site.n);
            return Err(Error::format(format!("'{result}'"), what).help("these are two different models"));
        }
        let weight = Values::of(self.decoded, new)?.matrix()?.values();
        let name = |node: &'_ NodeProto| node.output.first().cloned().unwrap_or_default();
        let rounded =
            [name(product).as_str(), result].iter().find_map(|name| self.rounded.get(name)).copied();
        let same = weight == Values::of(self.original, site)?.matrix()?.values();
        if same && rounded.is_none() {
            return Ok(None);
        }
        let shift = self.shift(site);
        let input = product.input.get(new.at.input).map_or("", String::as_str);
        let index = &self.after;
        let stored = match index.producer(input).or_else(|| index.producer(&name(product))) {
            Some((_, node)) if node.op_type() == "MatMulNBits" => nbits(index, node),
            Some((_, node)) => blocks(index, node),
            None => index.producer(result).and_then(|(_, node)| nbits(index, node)),
        };
        Ok(Some((Change::Linear { weight, shift, rounded }, stored)))
    }

    /// The node and site of the product that `result` is the sum of.
    fn product<'s>(&'s self, result: &'s str) -> Option<(&'s NodeProto, &'s Site)> {
        let mut name = result;
        for _ in 0..=SUMS {
            let (at, node) = self.plain.producer(name)?;
            if let Some(site) = self.linears.get(&at) {
                return Some((node, site));
            }
            if !["Add", "Sub", "Transpose", "Reshape"].iter().any(|op| node::is(node, op)) {
                return None;
            }
            name = node.input.iter().find(|input| operand(&self.plain, input).is_none())?;
        }
        None
    }

    /// What the rewritten model adds to the bias of `site`; `None` for nothing.
    fn shift(&self, site: &Site) -> Option<Vec<f32>> {
        let (own, index) = (&self.before, &self.plain);
        let found = bias(own, site)?;
        let node = own.node(found.node)?;
        let beta = match site.form {
            Form::Gemm { beta, .. } => beta,
            _ => 1.0,
        };
        let before = vector(self.original, own, node.input.get(found.input)?, site.n)?;
        let (_, sum) = index.producer(node.output.first()?)?;
        let sign = match sum.op_type() {
            "Add" => 1.0,
            "Sub" => -1.0,
            _ => return None,
        };
        let constant = sum.input.iter().find(|input| operand(index, input).is_some())?;
        let after = vector(self.decoded, index, constant, site.n)?;
        let shift: Vec<f32> = after.iter().zip(&before).map(|(a, b)| sign * a - beta * b).collect();
        shift.iter().any(|value| *value != 0.0).then_some(shift)
    }

    fn table(
        &self,
        site: &Site,
        node: &NodeProto,
        result: &str,
        samples: &[Sample],
    ) -> Result<Option<(Change, Option<Encoding>)>> {
        let Some((_, made)) = self.after.producer(result) else { return Ok(None) };
        if made.op_type() == "Gather" {
            return Ok(None);
        }
        let runner = Runner::new(self.rewritten, result, Variant::WeightsOnly)?;
        let rows = |sample: &Sample| {
            let output = runner.run(sample)?;
            let lost = || Error::unsupported("runtime", format!("'{result}' has no rows"));
            Value::from_floats(&output.shape, &output.values).ok_or_else(lost)
        };
        let rows: Vec<Value> = samples.iter().map(rows).collect::<Result<_>>()?;
        let ids = node.input.get(1).map_or("", String::as_str);
        Ok(Some((Change::Rows(rows), coded_rows(&self.after, ids, site))))
    }
}

/// The constant vector `name`, one value for each of `n` columns.
fn vector(model: &Model, index: &Index<'_>, name: &str, n: usize) -> Option<Vec<f32>> {
    let found = operand(index, name).filter(|found| found.is_bias(n, 2))?;
    found.by_column(&tensor::floats(stored(model, &found)?)?, n)
}

/// Type of scales.
fn scales_of(index: &Index<'_>, name: Option<&String>) -> Option<ScaleStorage> {
    let scales = Scales::of(index, name?)?;
    Some(if scales.unit.is_some() { ScaleStorage::Byte } else { storage(scales.stored) })
}

fn storage(tensor: &TensorProto) -> ScaleStorage {
    if tensor::data_type(tensor) == Some(DataType::Float16) { ScaleStorage::F16 } else { ScaleStorage::F32 }
}

fn has(node: &NodeProto, input: usize) -> bool {
    node.input.get(input).is_some_and(|name| !name.is_empty())
}

/// The form of a weight behind a DequantizeLinear.
fn blocks(index: &Index<'_>, node: &NodeProto) -> Option<Encoding> {
    let (_, codes) = index.initializer(node.input.first()?)?;
    let bits = match tensor::data_type(codes)? {
        DataType::Int4 | DataType::Uint4 => Bits::Four,
        DataType::Int8 | DataType::Uint8 => Bits::Eight,
        _ => return None,
    };
    let block = usize::try_from(node::int(node, "block_size", 0)).ok().filter(|block| *block > 0)?;
    let (scales, symmetric) = (scales_of(index, node.input.get(1))?, !has(node, 2));
    let scheme = Scheme { bits, block, symmetric, scales, emit: Emit::Qdq };
    Some(Encoding::Blocks { scheme, algorithm: Algorithm::Search })
}

/// The form of a weight in a MatMulNBits.
fn nbits(index: &Index<'_>, node: &NodeProto) -> Option<Encoding> {
    let bits = match node::int(node, "bits", 4) {
        4 => Bits::Four,
        8 => Bits::Eight,
        _ => return None,
    };
    let block = usize::try_from(node::int(node, "block_size", 0)).ok().filter(|block| *block > 0)?;
    let (scales, symmetric) = (scales_of(index, node.input.get(2))?, !has(node, 3));
    let scheme = Scheme { bits, block, symmetric, scales, emit: Emit::MatMulNBits };
    Some(Encoding::Blocks { scheme, algorithm: Algorithm::Search })
}

/// The form of a table of which rows are gathered by `ids`.
fn coded_rows(index: &Index<'_>, ids: &str, site: &Site) -> Option<Encoding> {
    let gathered: Vec<&TensorProto> = index
        .consumers(ids)
        .iter()
        .filter_map(|slot| index.node(slot.node).filter(|node| node::is(node, "Gather")))
        .filter_map(|node| index.initializer(node.input.first()?).map(|(_, tensor)| tensor))
        .filter(|tensor| tensor.dims.first().is_some_and(|rows| usize::try_from(*rows) == Ok(site.k)))
        .collect();
    let is_codes = |tensor: &&&TensorProto| tensor::data_type(tensor) == Some(DataType::Int8);
    let codes = tensor::shape(gathered.iter().find(is_codes)?).ok()?;
    let scales = gathered.iter().find(|tensor| !is_codes(tensor)).map_or(ScaleStorage::F16, |t| storage(t));
    let algorithm = Algorithm::Search;
    match codes.as_slice() {
        [_, width] if *width == site.n => Some(Encoding::Rows { scales, algorithm }),
        [_, _, block] => {
            Some(Encoding::PackedRows { format: PackedRows { block: *block, scales }, algorithm })
        }
        _ => None,
    }
}

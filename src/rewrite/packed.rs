//! An embedding table in 4 bits: packed rows are gathered, taken apart, and multiplied by their gathered scales.
//!
//! The table is u8 `[rows,pairs,block]`; byte `g = low + 16 * high` holds a code of the first half of its row in
//! `low` and one of the second half in `high`, each plus 8. Behind the Gather:
//!
//! ```text
//! high  = Cast<u8>(DequantizeLinear(g, 1/16))      u8 [...,pairs,block], the fraction is cut off
//! low   = g - 16 * high                            u8
//! codes = DequantizeLinear(Concat<-2>(low, high), 1, 8)    float [...,2*pairs,block]
//! row   = Reshape(codes * Gather(scales, ids), [...,width])
//! ```
//!
//! The work stays in bytes until the last two steps: 8x128 rows of 384 take 1.25 times as long as INT8 rows do,
//! float arithmetic takes 2.1 times as long (ONNX Runtime 1.32).

use super::edit::Edit;
use super::scale_type;
use crate::error::Result;
use crate::graph::{Site, Values, rank};
use crate::onnx::proto::{AttributeProto, NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{node, tensor};
use crate::quant::{Algorithm, PackedRows};

/// The first operator set that subtracts and multiplies bytes.
pub(super) const OPSET: i64 = 14;

/// How far [`rank`] looks back from the ids.
const STEPS: usize = 32;

pub(super) fn encode(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    format: PackedRows,
    algorithm: Algorithm,
    key: (usize, usize),
) -> Result<()> {
    let (rows, width) = (site.k, site.n);
    let (pairs, padded) = (format.pairs(width), format.padded(width));
    let delivered = site.operand.delivered;
    let original = edit.node(site.at.node).cloned().unwrap_or_default();
    let ids = original.input.get(1).cloned().unwrap_or_default();
    let output = original.output.first().cloned().unwrap_or_default();
    let rank = rank(&edit.index, &ids, STEPS);

    let table = edit.name(&format!("{weight}_quantized"));
    let table_scales = edit.name(&format!("{weight}_scale"));
    let scale_type = scale_type(format.scales);
    let parts = vec![
        (table.clone(), DataType::Uint8, vec![rows, pairs, format.block]),
        (table_scales.clone(), scale_type, vec![rows, 2 * pairs, 1]),
    ];
    let values = Values::of(edit.model, site)?;
    let errors = edit.errors.clone();
    edit.promise(
        parts,
        Box::new(move || {
            let (codes, scales, error) = format.quantize(&values.matrix()?, algorithm);
            errors.push(key.0, key.1, error);
            Ok(vec![codes, scales])
        }),
    );

    let mut chain = Chain { edit, stem: output.clone(), nodes: Vec::new() };
    let gather = || original.attribute.clone();
    let to = |kind: DataType| vec![node::int_attribute("to", kind as i64)];
    let axis = |axis| vec![node::int_attribute("axis", axis)];
    let pair = chain.step("Gather", "pairs", &[&table, &ids], gather());
    let sixteenth = chain.constant("sixteenth", DataType::Float, &[], &0.0625_f32.to_le_bytes());
    let shifted = chain.step("DequantizeLinear", "shifted", &[&pair, &sixteenth], vec![]);
    let high = chain.step("Cast", "high", &[&shifted], to(DataType::Uint8));
    let sixteen = chain.constant("sixteen", DataType::Uint8, &[], &[16]);
    let above = chain.step("Mul", "above", &[&high, &sixteen], vec![]);
    let low = chain.step("Sub", "low", &[&pair, &above], vec![]);
    let whole = chain.step("Concat", "codes", &[&low, &high], axis(-2));
    let one = chain.constant("one", DataType::Float, &[], &1.0_f32.to_le_bytes());
    let zero = chain.constant("zero_point", DataType::Uint8, &[], &[8]);
    let mut codes = chain.step("DequantizeLinear", "codes_float", &[&whole, &one, &zero], vec![]);
    if delivered != DataType::Float {
        codes = chain.step("Cast", "codes_cast", &[&codes], to(delivered));
    }
    let mut scales = chain.step("Gather", "scales", &[&table_scales, &ids], gather());
    if scale_type != delivered {
        scales = chain.step("Cast", "scales_float", &[&scales], to(delivered));
    }
    let blocks = chain.step("Mul", "blocks", &[&codes, &scales], vec![]);
    let last = |op: &str, inputs: &[&str]| node::build(op, original.name(), inputs, &[&output], vec![]);
    let shape = match rank {
        // 0 stands for the size that is there.
        Some(rank) => {
            let sizes: Vec<i64> = std::iter::repeat_n(0, rank).chain([size(padded)]).collect();
            chain.integers("shape", &sizes)
        }
        None => {
            let outer = chain.step("Shape", "ids_shape", &[&ids], vec![]);
            let inner = chain.integers("width", &[size(padded)]);
            chain.step("Concat", "shape", &[&outer, &inner], axis(0))
        }
    };
    if padded == width {
        chain.nodes.push(last("Reshape", &[&blocks, &shape]));
    } else {
        let whole = chain.step("Reshape", "padded", &[&blocks, &shape], vec![]);
        let [start, end, axes] = [("start", 0), ("end", size(width)), ("axes", -1)]
            .map(|(what, value)| chain.integers(what, &[value]));
        chain.nodes.push(last("Slice", &[&whole, &start, &end, &axes]));
    }
    let nodes = chain.nodes;
    edit.replace(site.at.node, nodes);
    Ok(())
}

fn size(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Nodes one after the other, named after the value that they make in the end.
struct Chain<'a, 'm> {
    edit: &'a mut Edit<'m>,
    stem: String,
    nodes: Vec<NodeProto>,
}

impl Chain<'_, '_> {
    /// Adds a node; gives the name of its result.
    fn step(&mut self, op: &str, what: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let result = self.edit.name(&format!("{}_{what}", self.stem));
        let name = self.edit.name(&format!("{}_{what}_{op}", self.stem));
        self.nodes.push(node::build(op, &name, inputs, &[&result], attributes));
        result
    }

    /// Adds a constant; gives its name.
    fn constant(&mut self, what: &str, kind: DataType, dims: &[usize], raw: &[u8]) -> String {
        let name = self.edit.name(&format!("{}_{what}", self.stem));
        let tensor: TensorProto = tensor::from_raw(&name, kind, dims, raw.to_vec());
        self.edit.add(tensor);
        name
    }

    fn integers(&mut self, what: &str, values: &[i64]) -> String {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(what, DataType::Int64, &[values.len()], &raw)
    }
}

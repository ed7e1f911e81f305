//! Constants seen through the chains that exporters put between a weight and its use: Identity, Cast,
//! Transpose, Reshape, Flatten, Squeeze and Unsqueeze become strides on the stored tensor.

use super::index::{Index, Path};
use crate::limits;
use crate::onnx::proto::{NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{node, tensor};

/// Longest chain that is followed.
const CHAIN: usize = 16;

/// Where a constant is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// Number of an initializer in the model, see [`Index`].
    Initializer(usize),
    /// Number of a Constant node in the model.
    Constant(usize),
    /// Number of a weight among those of the model's functions, which stand in no graph.
    Function(usize),
    /// A sparse tensor, which is listed and nothing else.
    Sparse,
}

/// A constant as a consumer sees it: a strided view of the stored elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operand {
    /// Where the elements are.
    pub origin: Origin,
    /// The graph that holds them, and the index of the initializer or node there.
    pub(super) home: (Path, usize),
    /// Type in which they are stored.
    pub stored: DataType,
    /// Type that the consumer receives.
    pub delivered: DataType,
    /// Sizes as the consumer sees them.
    pub dims: Vec<usize>,
    /// Elements to step in the stored tensor, by dimension.
    pub strides: Vec<usize>,
}

impl Operand {
    fn dense(index: &Index<'_>, origin: Origin, stored: &TensorProto) -> Option<Self> {
        let home = index.home_of(origin)?;
        let data_type = tensor::data_type(stored)?;
        let dims = tensor::shape(stored).ok()?;
        let strides = row_major(&dims);
        Some(Self { origin, home, stored: data_type, delivered: data_type, dims, strides })
    }
}

/// The stored tensor of `origin`.
pub fn stored<'g>(index: &Index<'g>, origin: Origin) -> Option<&'g TensorProto> {
    match origin {
        Origin::Initializer(at) => index.stored(at),
        Origin::Constant(at) => constant_tensor(index.node(at)?),
        Origin::Function(_) | Origin::Sparse => None,
    }
}

/// The tensor of a Constant node that has one.
pub(super) fn constant_tensor(node: &NodeProto) -> Option<&TensorProto> {
    node::is(node, "Constant").then(|| node::attribute(node, "value")?.t.as_ref())?
}

/// The constant that `value` is, or `None` if it is computed at run time or may be overridden.
pub fn operand(index: &Index<'_>, value: &str) -> Option<Operand> {
    resolve(index, value, CHAIN)
}

/// Integers of a shape or axes input that is stored as they are; chains are not followed, which bounds the
/// depth of chains whose shapes are chains.
pub(super) fn stored_integers(index: &Index<'_>, value: &str) -> Option<Vec<i64>> {
    match index.initializer(value) {
        Some(_) if index.is_overridable(value) => None,
        Some((_, tensor)) => tensor::integers(tensor),
        None => tensor::integers(constant_tensor(index.producer(value)?.1)?),
    }
    .filter(|integers| integers.len() <= limits::RANK)
}

fn resolve(index: &Index<'_>, value: &str, left: usize) -> Option<Operand> {
    if let Some((at, stored)) = index.initializer(value) {
        return if index.is_overridable(value) {
            None
        } else {
            Operand::dense(index, Origin::Initializer(at), stored)
        };
    }
    let (at, producer) = index.producer(value)?;
    if left == 0 || !node::is_default_domain(producer) {
        return None;
    }
    if let Some(stored) = constant_tensor(producer) {
        return Operand::dense(index, Origin::Constant(at), stored);
    }
    // A body may hide a name that the chain uses outside.
    let index = &index.of(at);
    let inner = || resolve(index, producer.input.first()?, left - 1);
    match producer.op_type() {
        "Identity" => inner(),
        "Cast" => cast(inner()?, producer),
        "Transpose" => transpose(inner()?, producer),
        "Reshape" => {
            let sizes = match node::ints(producer, "shape") {
                Some(sizes) => sizes.to_vec(),
                None => stored_integers(index, producer.input.get(1)?)?,
            };
            reshape(inner()?, producer, &sizes)
        }
        "Flatten" => flatten(inner()?, node::int(producer, "axis", 1)),
        "Squeeze" => squeeze(inner()?, axes(index, producer)),
        "Unsqueeze" => unsqueeze(inner()?, &axes(index, producer)?),
        _ => None,
    }
}

fn axes(index: &Index<'_>, producer: &NodeProto) -> Option<Vec<i64>> {
    match node::ints(producer, "axes") {
        Some(axes) => Some(axes.to_vec()),
        None => stored_integers(index, producer.input.get(1).filter(|name| !name.is_empty())?),
    }
}

/// A cast is seen through where no value of the stored type is lost.
fn cast(mut inner: Operand, producer: &NodeProto) -> Option<Operand> {
    use DataType as D;
    let to = DataType::try_from(i32::try_from(node::int(producer, "to", 0)).ok()?).ok()?;
    let exact = match (inner.delivered, to) {
        (from, to) if from == to => true,
        (D::Float16 | D::Bfloat16, D::Float | D::Double) | (D::Float, D::Double) => true,
        // The decoder gives float32 in any case.
        (D::Double, D::Float) => true,
        _ => false,
    };
    inner.delivered = to;
    exact.then_some(inner)
}

fn transpose(inner: Operand, producer: &NodeProto) -> Option<Operand> {
    let rank = inner.dims.len();
    let order: Vec<usize> = match node::ints(producer, "perm") {
        Some(perm) => perm.iter().map(|p| usize::try_from(*p).ok()).collect::<Option<_>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut seen = order.clone();
    seen.sort_unstable();
    if !seen.iter().copied().eq(0..rank) {
        return None;
    }
    let pick = |from: &[usize]| order.iter().map(|p| from.get(*p).copied()).collect::<Option<Vec<_>>>();
    Some(Operand { dims: pick(&inner.dims)?, strides: pick(&inner.strides)?, ..inner })
}

fn reshape(inner: Operand, producer: &NodeProto, sizes: &[i64]) -> Option<Operand> {
    let total: usize = inner.dims.iter().product();
    let keep_zero = node::int(producer, "allowzero", 0) != 0;
    let mut dims = Vec::with_capacity(sizes.len());
    let mut open = None;
    for (at, size) in sizes.iter().enumerate() {
        dims.push(match size {
            -1 if open.is_none() => {
                open = Some(at);
                1
            }
            0 if !keep_zero => *inner.dims.get(at)?,
            size => usize::try_from(*size).ok()?,
        });
    }
    let known = dims.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim))?;
    if let Some(at) = open {
        *dims.get_mut(at)? = total.checked_div(known)?;
    }
    let product = dims.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim))?;
    if product == 0 && dims != inner.dims {
        return None;
    }
    regroup(inner, dims, product == total)
}

fn flatten(inner: Operand, axis: i64) -> Option<Operand> {
    let rank = i64::try_from(inner.dims.len()).ok()?;
    let at = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
    let (rows, columns) = inner.dims.split_at_checked(at)?;
    let dims = vec![rows.iter().product(), columns.iter().product()];
    regroup(inner, dims, true)
}

/// The view with other sizes, where they need no copy: each new axis lies within axes that lie one behind the other.
fn regroup(inner: Operand, dims: Vec<usize>, same_number: bool) -> Option<Operand> {
    if !same_number {
        return None;
    }
    if dims.contains(&0) {
        return Some(Operand { strides: row_major(&dims), dims, ..inner });
    }
    let mut runs = runs(&inner.dims, &inner.strides);
    let (mut size, mut stride) = runs.pop().unwrap_or((1, 1));
    let mut strides = Vec::with_capacity(dims.len());
    for dim in dims.iter().rev() {
        if *dim > 1 && size == 1 {
            (size, stride) = runs.pop()?;
        }
        if !size.is_multiple_of(*dim) {
            return None;
        }
        strides.push(stride);
        (size, stride) = (size / dim, stride.saturating_mul(*dim));
    }
    strides.reverse();
    Some(Operand { strides, dims, ..inner })
}

/// Sizes and strides with every axis joined to the one that it lies before, and those of size 1 left out.
pub(super) fn runs(dims: &[usize], strides: &[usize]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (dim, stride) in dims.iter().copied().zip(strides.iter().copied()).filter(|(dim, _)| *dim != 1) {
        match runs.last_mut() {
            Some(last) if Some(last.1) == dim.checked_mul(stride) => {
                *last = (last.0.saturating_mul(dim), stride);
            }
            _ => runs.push((dim, stride)),
        }
    }
    runs
}

fn squeeze(inner: Operand, axes: Option<Vec<i64>>) -> Option<Operand> {
    let rank = inner.dims.len();
    let drop: Vec<usize> = match axes {
        Some(axes) => axes.iter().map(|axis| position(*axis, rank)).collect::<Option<_>>()?,
        None => (0..rank).filter(|at| inner.dims.get(*at) == Some(&1)).collect(),
    };
    if drop.iter().any(|at| inner.dims.get(*at) != Some(&1)) {
        return None;
    }
    let keep = |from: &[usize]| {
        from.iter().enumerate().filter(|(at, _)| !drop.contains(at)).map(|(_, v)| *v).collect()
    };
    Some(Operand { dims: keep(&inner.dims), strides: keep(&inner.strides), ..inner })
}

fn unsqueeze(inner: Operand, axes: &[i64]) -> Option<Operand> {
    let rank = inner.dims.len() + axes.len();
    if rank > limits::RANK {
        return None;
    }
    let mut at: Vec<usize> = axes.iter().map(|axis| position(*axis, rank)).collect::<Option<_>>()?;
    at.sort_unstable();
    at.dedup();
    if at.len() != axes.len() {
        return None;
    }
    let (mut dims, mut strides) = (inner.dims.clone(), inner.strides.clone());
    for axis in at {
        if axis > dims.len() {
            return None;
        }
        strides.insert(axis, strides.get(axis).zip(dims.get(axis)).map_or(1, |(s, d)| s.saturating_mul(*d)));
        dims.insert(axis, 1);
    }
    Some(Operand { dims, strides, ..inner })
}

fn position(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis + rank } else { axis };
    (0..rank).contains(&axis).then_some(axis as usize)
}

fn row_major(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; dims.len()];
    for at in (1..dims.len()).rev() {
        strides[at - 1] = strides[at].saturating_mul(dims[at].max(1));
    }
    strides
}

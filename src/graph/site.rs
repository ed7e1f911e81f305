//! Sites: every use of a stored weight that can be replaced by a quantized one, and, for every other use,
//! the reason why not.

use std::collections::HashMap;

use super::arrangement::{Arrangement, Frame};
use super::beside::{is_dequantized, is_quantized_next};
use super::index::{Index, Use};
use super::operand::{Operand, Origin, operand, stored};
use super::quantized::is_quantized;
use super::rank::rank;
use super::roles;
use super::twins::{Twins, twins};
use crate::limits;
use crate::onnx::proto::{NodeProto, SparseTensorProto, TensorProto, tensor_proto::DataType};
use crate::onnx::tensor::is_float;
use crate::onnx::{Model, node, tensor};
use crate::role::Role;

/// Constant nodes below this many elements are numbers of the graph, not weights.
pub(super) const CONSTANT_ELEMENTS: usize = 512;

/// The operation that uses a weight, with what its encoding must take over.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// `Y = X · W`: a MatMul, or an Einsum that is one.
    MatMul,
    /// `Y = alpha · X · W + beta · C` (the transposition of W already resolved into its view).
    Gemm { alpha: f32, beta: f32 },
    /// Rows of the table W, by axis 0.
    Gather,
}

/// A use of a weight that efq can encode.
#[derive(Debug, Clone)]
pub struct Site {
    /// The slot, in the main graph or in a body.
    pub at: Use,
    /// What the node computes.
    pub form: Form,
    /// What makes X rows of K values, and the result of rows of N, where they are not that.
    pub arrangement: Option<Arrangement>,
    /// The weight as this node sees it.
    pub operand: Operand,
    /// Rows: the dimension summed over, or the entries of a table.
    pub k: usize,
    /// Columns: the outputs of a linear, or the width of a table.
    pub n: usize,
}

impl Site {
    /// The operand of `node`, which the site is of, that is not the weight.
    pub fn activation<'n>(&self, node: &'n NodeProto) -> &'n str {
        node.input.get(1usize.saturating_sub(self.at.input)).map_or("", String::as_str)
    }

    /// The nodes around the plain product that stands for `node`; `name` gives names that are free.
    pub fn frame(&self, node: &NodeProto, name: &mut dyn FnMut(&str) -> String) -> Frame {
        let result = node.output.first().map_or("", String::as_str);
        let none = Arrangement::default();
        self.arrangement.as_ref().unwrap_or(&none).frame(self.activation(node), result, name)
    }
}

/// One use of a weight.
#[derive(Debug, Clone, PartialEq)]
pub enum WeightUse {
    /// Index into [`Inventory::sites`].
    Site(usize),
    /// A use that stays as it is.
    Other {
        /// Operator, or "graph output"; with the body that it stands in.
        operator: String,
        /// Why it cannot be encoded.
        obstacle: String,
    },
}

/// A stored tensor: an initializer, a Constant node of 512 elements or more, or a sparse one.
#[derive(Debug, Clone)]
pub struct Weight {
    /// Where it is stored.
    pub origin: Origin,
    /// Its name; that of its output for a Constant node.
    pub name: String,
    /// The body or function that it is stored in, as `then_branch of If 'cond'`; `None` in the main graph.
    pub place: Option<String>,
    /// Sizes as stored.
    pub dims: Vec<usize>,
    /// Type as stored.
    pub data_type: DataType,
    /// Payload bytes.
    pub bytes: u64,
    /// What it is for; of several uses, the first.
    pub role: Role,
    /// Every use, in bodies too.
    pub uses: Vec<WeightUse>,
}

/// Every weight of a model, and every site.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Initializers in file order, then Constant nodes in node order, then sparse tensors; of the main graph first, then of
    /// bodies, then of functions.
    pub weights: Vec<Weight>,
    /// In the order of their nodes' numbers.
    pub sites: Vec<Site>,
    /// Role of each site.
    pub roles: Vec<Role>,
    /// Weights with the same values.
    pub twins: Vec<Twins>,
}

impl Inventory {
    /// The role of a site.
    pub fn role(&self, site: usize) -> Role {
        self.roles.get(site).copied().unwrap_or(Role::Other)
    }
}

/// Finds the weights of `model`, in bodies too, and the sites that use them.
pub fn inventory(model: &Model) -> Inventory {
    let index = Index::new(model.graph(), model.proto.ir_version());
    let mut sites = Vec::new();
    let mut obstacles = HashMap::new();
    for here in index.all() {
        for (at, node) in here.nodes() {
            match candidate(&here, at, node) {
                Candidate::None => {}
                Candidate::Site(site) => sites.push(*site),
                Candidate::Obstacle(input, why) => {
                    obstacles.insert(Use { node: at, input }, why);
                }
            }
        }
    }
    let by_use: HashMap<Use, usize> = sites.iter().enumerate().map(|(i, site)| (site.at, i)).collect();
    let roles = roles::assign(&index, &sites);
    let mut weights = Vec::new();
    for here in index.all() {
        let initializers = here.initializers().map(|(at, _)| Origin::Initializer(at));
        let constants = here.nodes().map(|(at, _)| Origin::Constant(at));
        for origin in initializers.chain(constants) {
            let Some(tensor) = stored(&here, origin) else { continue };
            let Some(found) = Found::dense(&here, origin, tensor) else { continue };
            weights.extend(weight(&here, found, &by_use, &obstacles, &roles));
        }
        for found in sparse(&here) {
            weights.extend(weight(&here, found, &by_use, &obstacles, &roles));
        }
    }
    weights.extend(super::functions::weights(model));
    let twins = twins(&index, &weights);
    Inventory { weights, sites, roles: roles.sites, twins }
}

/// A stored tensor before its uses are known.
struct Found {
    origin: Origin,
    name: String,
    dims: Vec<usize>,
    data_type: DataType,
    bytes: u64,
}

impl Found {
    fn dense(index: &Index<'_>, origin: Origin, tensor: &TensorProto) -> Option<Self> {
        let data_type = tensor::data_type(tensor)?;
        let dims = tensor::shape(tensor).ok()?;
        let name = match origin {
            Origin::Constant(at) => {
                let is_weight = is_float(data_type) && dims.iter().product::<usize>() >= CONSTANT_ELEMENTS;
                index.node(at)?.output.first().filter(|_| is_weight)?.clone()
            }
            _ => tensor.name().to_owned(),
        };
        let bytes = tensor::payload_len(tensor).ok()? as u64;
        Some(Self { origin, name, dims, data_type, bytes })
    }
}

/// The sparse tensors of the graph that `index` looks from.
fn sparse(index: &Index<'_>) -> Vec<Found> {
    let found = |name: &str, sparse: &SparseTensorProto| {
        let values = sparse.values.as_ref()?;
        let shell = TensorProto { dims: sparse.dims.clone(), ..Default::default() };
        let bytes = [Some(values), sparse.indices.as_ref()].into_iter().flatten().map(tensor::payload_len);
        Some(Found {
            origin: Origin::Sparse,
            name: name.to_owned(),
            dims: tensor::shape(&shell).ok()?,
            data_type: tensor::data_type(values)?,
            bytes: bytes.sum::<crate::error::Result<usize>>().ok()? as u64,
        })
    };
    let of_graph = index.graph().sparse_initializer.iter();
    let of_graph = of_graph.filter_map(|sparse| found(sparse.values.as_ref()?.name(), sparse));
    let of_nodes = index.nodes().filter(|(_, node)| node::is(node, "Constant")).filter_map(|(_, node)| {
        found(node.output.first()?, node::attribute(node, "sparse_value")?.sparse_tensor.as_ref()?)
    });
    of_graph.chain(of_nodes).collect()
}

fn weight(
    index: &Index<'_>,
    found: Found,
    by_use: &HashMap<Use, usize>,
    obstacles: &HashMap<Use, String>,
    roles: &roles::Roles,
) -> Option<Weight> {
    let Found { origin, name, dims, data_type, bytes } = found;
    let mut leaves = Vec::new();
    leaf_uses(index, &name, 0, &mut leaves);
    leaves.sort();
    let mut role = None;
    let mut uses = Vec::new();
    for leaf in leaves {
        let (operator, obstacle) = match leaf {
            Leaf::Output => ("graph output".to_owned(), "it is a graph output".to_owned()),
            Leaf::Returned(at) => {
                let operator = index.node(at).map_or("", |node| node.op_type());
                (operator.to_owned(), format!("returned by the body of {operator}"))
            }
            Leaf::Slot(slot) => {
                let found = by_use.get(&slot);
                role = role.or_else(|| match found {
                    Some(site) => roles.sites.get(*site).copied(),
                    None => Some(roles::of_slot(&index.of(slot.node), slot, &dims)),
                });
                if let Some(site) = found {
                    uses.push(WeightUse::Site(*site));
                    continue;
                }
                let node = index.node(slot.node)?;
                let why = match origin {
                    Origin::Sparse => Some("sparse: as dense floats it would take more bytes".to_owned()),
                    _ => obstacles.get(&slot).cloned(),
                };
                let operator = index.of(slot.node).operator(node);
                (operator, why.unwrap_or_else(|| reason(node, data_type, dims.len())))
            }
        };
        uses.push(WeightUse::Other { operator, obstacle });
    }
    let place = index.place();
    Some(Weight { origin, name, place, dims, data_type, bytes, role: role.unwrap_or(Role::Other), uses })
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Leaf {
    Slot(Use),
    Returned(usize),
    Output,
}

/// The uses of `value` at the ends of the chains that [`operand`] sees through.
fn leaf_uses(index: &Index<'_>, value: &str, depth: usize, found: &mut Vec<Leaf>) {
    if index.is_output(value) {
        found.push(index.owner().map_or(Leaf::Output, Leaf::Returned));
    }
    found.extend(index.returned_by(value).iter().map(|at| Leaf::Returned(*at)));
    for slot in index.consumers(value).iter().chain(index.captured_at(value)) {
        let here = index.of(slot.node);
        let through = index.node(slot.node).filter(|node| {
            slot.input == 0
                && depth < 16
                && node::is_default_domain(node)
                && matches!(
                    node.op_type(),
                    "Identity" | "Cast" | "Transpose" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze"
                )
        });
        match through.and_then(|node| node.output.first()) {
            Some(next) if operand(&here, next).is_some() => leaf_uses(&here, next, depth + 1, found),
            _ => found.push(Leaf::Slot(*slot)),
        }
    }
}

enum Candidate {
    None,
    Site(Box<Site>),
    Obstacle(usize, String),
}

fn candidate(index: &Index<'_>, at: usize, node: &NodeProto) -> Candidate {
    if !node::is_default_domain(node) {
        return Candidate::None;
    }
    let first = |is_left: bool| usize::from(!is_left);
    let (input, form) = match node.op_type() {
        "MatMul" => (first(is_left(index, node)), Form::MatMul),
        "Gemm" => {
            let (alpha, beta) = (node::float(node, "alpha", 1.0), node::float(node, "beta", 1.0));
            (first(is_left(index, node)), Form::Gemm { alpha, beta })
        }
        "Gather" => (0, Form::Gather),
        "Einsum" if node.input.len() == 2 => {
            let is_first = node.input.first().is_some_and(|name| operand(index, name).is_some());
            (first(is_first), Form::MatMul)
        }
        _ => return Candidate::None,
    };
    let Some(mut weight) = node.input.get(input).and_then(|name| operand(index, name)) else {
        return overridable(index, node, input);
    };
    let at = Use { node: at, input };
    let other = node.input.get(1 - input).map_or("", String::as_str);
    if operand(index, other).is_some() {
        return Candidate::Obstacle(input, "both operands are constant: it is folded at load".to_owned());
    }
    let refused = |why: &str| Candidate::Obstacle(input, why.to_owned());
    if !is_float(weight.stored) {
        return refused("not a floating-point tensor");
    }
    // Gathered rows are cast to any type; products need a kernel.
    if !matches!(weight.delivered, DataType::Float | DataType::Float16) && form != Form::Gather {
        return refused("ONNX Runtime has quantized products of float32 and float16 only");
    }
    let mut arrangement = None;
    let known = || rank(index, other, 32).filter(|rank| *rank <= limits::RANK);
    match node.op_type() {
        "Einsum" => match super::einsum::layer(node, input, &weight, known()) {
            Ok(found) => (arrangement, weight) = found,
            Err(why) => return Candidate::Obstacle(input, why),
        },
        "MatMul" if is_matrix(&weight.dims) && (input == 0 || weight.dims.len() > 2) => {
            match product(input, weight, known()) {
                Ok(found) => (arrangement, weight) = found,
                Err(why) => return refused(why),
            }
        }
        _ => {}
    }
    if weight.dims.len() != 2 {
        return refused(&format!("{} dimensions: only matrices are encoded", weight.dims.len()));
    }
    if weight.dims.contains(&0) {
        return refused("it is empty");
    }
    match form {
        Form::Gather if !matches!(node::int(node, "axis", 0), 0 | -2) => {
            return refused("gathered by another axis than rows");
        }
        Form::Gemm { alpha, beta } => {
            if !alpha.is_finite() || !beta.is_finite() {
                return refused("Gemm with a factor that is not finite");
            }
            (arrangement, weight) = gemm(node, input, weight);
        }
        _ => {}
    }
    if !matches!(form, Form::Gather) {
        if is_dequantized(index, other, weight.delivered) {
            return refused("its activation is quantized already");
        }
        let output = node.output.first().map_or("", String::as_str);
        let is_bias = |next: &NodeProto| {
            node::is(next, "Add") && next.input.iter().any(|name| operand(index, name).is_some())
        };
        if is_quantized_next(index, output, weight.delivered, &is_bias) {
            return refused("its output is quantized already");
        }
    }
    let (k, n) = (weight.dims[0], weight.dims[1]);
    Candidate::Site(Box::new(Site { at, form, arrangement, operand: weight, k, n }))
}

/// Whether the left operand alone is a stored matrix.
fn is_left(index: &Index<'_>, node: &NodeProto) -> bool {
    let stored = |at: usize| node.input.get(at).and_then(|name| operand(index, name));
    stored(0).is_some_and(|found| is_matrix(&found.dims)) && stored(1).is_none()
}

/// Whether these are sizes of one matrix.
fn is_matrix(dims: &[usize]) -> bool {
    dims.len() > 1 && dims.iter().rev().skip(2).all(|dim| *dim == 1)
}

/// The weight of a MatMul that is on the left, or one matrix of a higher rank; the other operand is of `rank`.
fn product(
    input: usize,
    mut weight: Operand,
    rank: Option<usize>,
) -> Result<(Option<Arrangement>, Operand), &'static str> {
    let ones = weight.dims.len().saturating_sub(2);
    let Some(rank) = rank.filter(|rank| *rank > 0) else {
        return Err(match input {
            0 => {
                "the left operand of a MatMul whose right one has no known rank: infer the model's shapes first"
            }
            _ => {
                "of a higher rank than 2, and that of its activation is not known: infer the model's shapes first"
            }
        });
    };
    if ones > 0 && rank < weight.dims.len() {
        return Err("of a higher rank than its activation");
    }
    weight.dims.drain(..ones);
    weight.strides.drain(..ones);
    if input != 0 {
        return Ok((None, weight));
    }
    swap(&mut weight);
    Ok((Some(Arrangement::turned(rank, sizes(&weight), true, true)), weight))
}

/// The weight of a Gemm: of its B as it is or transposed, of its A for the transposed product.
fn gemm(node: &NodeProto, input: usize, mut weight: Operand) -> (Option<Arrangement>, Operand) {
    let turned = |name: &str| node::int(node, name, 0) != 0;
    let (a, b) = (turned("transA"), turned("transB"));
    if if input == 0 { !a } else { b } {
        swap(&mut weight);
    }
    let (before, after) = if input == 0 { (!b, true) } else { (a, false) };
    let arrangement = Arrangement::turned(2, sizes(&weight), before, after);
    ((before || after).then_some(arrangement), weight)
}

fn swap(weight: &mut Operand) {
    weight.dims.reverse();
    weight.strides.reverse();
}

fn sizes(weight: &Operand) -> (usize, usize) {
    (weight.dims.first().copied().unwrap_or(1), weight.dims.get(1).copied().unwrap_or(1))
}

fn overridable(index: &Index<'_>, node: &NodeProto, input: usize) -> Candidate {
    match node.input.get(input) {
        Some(name) if index.initializer(name).is_some() && index.is_overridable(name) => Candidate::Obstacle(
            input,
            "also a graph input, so a caller may replace it: --freeze-inputs makes it a constant".to_owned(),
        ),
        _ => Candidate::None,
    }
}

fn reason(node: &NodeProto, data_type: DataType, rank: usize) -> String {
    if is_quantized(node) {
        return "quantized already".to_owned();
    }
    if !is_float(data_type) {
        return format!("{} is not a weight type", tensor::type_name(data_type));
    }
    match node.op_type() {
        _ if rank < 2 => "vectors and numbers stay".to_owned(),
        op => format!("{op} operands are not encoded"),
    }
}

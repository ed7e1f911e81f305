//! tract behind a small face: a lowered graph, a plan for each input shape, and no panic that gets out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use prost::Message as _;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::internal::{InferenceFact, InferenceModelExt, ToDim};

use super::{Variant, activation, cumsum, lower, modulo, switch};
use crate::data::{Array, Sample};
use crate::error::{Error, Kind, Result, one_line};
use crate::onnx::proto::{ModelProto, tensor_proto::DataType};
use crate::onnx::{Checked, Model};
use crate::panics;

/// The measured output for one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Sizes.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub values: Vec<f32>,
}

type Plan = Arc<TypedRunnableModel>;

/// A model made ready to compute one of its outputs; shared by threads.
pub struct Runner {
    model: InferenceModel,
    inputs: Vec<String>,
    plans: Mutex<HashMap<Vec<Vec<usize>>, Plan>>,
}

impl Runner {
    /// Prepares `model` to compute `output`.
    ///
    /// # Errors
    /// [`crate::error::Kind::Unsupported`] when the runtime cannot run the graph, or would run it wrongly.
    pub fn new(model: &Checked<Model>, output: &str, variant: Variant) -> Result<Self> {
        switch::allowed()?;
        let lowered = lower::lower(model, output, variant)?;
        let model = guarded("reading the graph", || parse(&lowered))?;
        let inputs = model.inputs.iter().map(|outlet| model.node(outlet.node).name.clone()).collect();
        Ok(Self { model, inputs, plans: Mutex::default() })
    }

    /// Runs one sample.
    ///
    /// # Errors
    /// [`crate::error::Kind::Unsupported`] when the runtime fails on it.
    pub fn run(&self, sample: &Sample) -> Result<Output> {
        let mut arrays = Vec::with_capacity(self.inputs.len());
        for name in &self.inputs {
            let found = sample.inputs.iter().find(|(given, _)| given == name);
            let (_, array) =
                found.ok_or_else(|| Error::format(format!("input '{name}'"), "is not in the sample"))?;
            arrays.push(array);
        }
        let plan = self.plan(&arrays)?;
        guarded("running the graph", || {
            let inputs =
                arrays.iter().map(|array| Ok(to_tensor(array)?.into_tvalue())).collect::<TractResult<_>>()?;
            let outputs = plan.run(inputs)?;
            let output = outputs.first().ok_or_else(|| TractError::msg("no output"))?;
            let output = output.cast_to::<f32>()?;
            let values = output.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
            Ok(Output { shape: output.shape().to_vec(), values })
        })
    }

    /// This runner with other values in the constant `name`, in its shape; `None` if it has no such constant of
    /// as many floating-point values.
    pub fn with_constant(&self, name: &str, values: &[f32]) -> Option<Runner> {
        let made = guarded("replacing a constant", || {
            let mut model = self.model.clone();
            let node =
                model.nodes().iter().find(|node| node.name == name || has_label(&model, node.id, name));
            let Some((id, old)) = node.and_then(|node| Some((node.id, node.op_as::<Const>()?.val().clone())))
            else {
                return Ok(None);
            };
            if old.len() != values.len() || !old.datum_type().is_float() {
                return Ok(None);
            }
            let dense = Tensor::from_shape(old.shape(), values)?;
            let tensor = dense.cast_to_dt(old.datum_type())?.into_owned().into_arc_tensor();
            let node = model.node_mut(id);
            node.op = Box::new(Const::new(tensor.clone())?);
            if let Some(output) = node.outputs.first_mut() {
                output.fact = InferenceFact::try_from(&tensor)?;
            }
            Ok(Some(model))
        });
        let model = made.ok().flatten()?;
        Some(Self { model, inputs: self.inputs.clone(), plans: Mutex::default() })
    }

    /// The plan for these input shapes, made at their first use.
    fn plan(&self, arrays: &[&Array]) -> Result<Plan> {
        let key: Vec<Vec<usize>> = arrays.iter().map(|array| array.shape.clone()).collect();
        let poisoned = |_| Error::new(Kind::Unsupported, "runtime", "a thread that made a plan ended early");
        let mut plans = self.plans.lock().map_err(poisoned)?;
        if let Some(plan) = plans.get(&key) {
            return Ok(plan.clone());
        }
        let plan = guarded("planning the graph", || {
            let mut model = self.model.clone();
            for (at, array) in arrays.iter().enumerate() {
                let kind = datum_type(array.data_type)?;
                let shape: TVec<TDim> = array.shape.iter().map(|size| size.to_dim()).collect();
                model.set_input_fact(at, InferenceFact::dt_shape(kind, shape))?;
            }
            model.into_optimized()?.into_runnable()
        })?;
        plans.insert(key, plan.clone());
        Ok(plan)
    }
}

/// Hands a lowered graph over to the runtime.
pub(super) fn parse(lowered: &ModelProto) -> TractResult<InferenceModel> {
    let proto = tract_onnx::pb::ModelProto::decode(lowered.encode_to_vec().as_slice())?;
    let mut reader = tract_onnx::onnx().with_ignore_value_info(true);
    reader.op_register.insert(activation::OPERATOR, activation::build);
    reader.op_register.insert("CumSum", cumsum::build);
    reader.op_register.insert("Mod", modulo::build);
    let parsed = reader.parse(&proto, None)?;
    anyhow_if(!parsed.unresolved_inputs.is_empty(), || {
        format!("unresolved values: {}", parsed.unresolved_inputs.join(", "))
    })?;
    Ok(parsed.model)
}

fn has_label(model: &InferenceModel, node: usize, name: &str) -> bool {
    model.outlet_label(OutletId::new(node, 0)) == Some(name)
}

fn datum_type(data_type: DataType) -> TractResult<DatumType> {
    use DataType as D;
    Ok(match data_type {
        // Lowered graphs have no half precision.
        D::Float | D::Float16 | D::Bfloat16 => f32::datum_type(),
        D::Double => f64::datum_type(),
        D::Int64 => i64::datum_type(),
        D::Int32 => i32::datum_type(),
        D::Int16 => i16::datum_type(),
        D::Int8 => i8::datum_type(),
        D::Uint8 => u8::datum_type(),
        D::Uint16 => u16::datum_type(),
        D::Uint32 => u32::datum_type(),
        D::Bool => bool::datum_type(),
        other => return Err(TractError::msg(format!("inputs of type {other:?}"))),
    })
}

pub(super) fn to_tensor(array: &Array) -> TractResult<Tensor> {
    let wide = |from: fn([u8; 2]) -> f32| -> TractResult<Tensor> {
        let values: Vec<f32> = array.bytes.as_chunks::<2>().0.iter().map(|bytes| from(*bytes)).collect();
        Tensor::from_shape(&array.shape, &values)
    };
    match array.data_type {
        DataType::Float16 => return wide(|bytes| half::f16::from_le_bytes(bytes).to_f32()),
        DataType::Bfloat16 => return wide(|bytes| half::bf16::from_le_bytes(bytes).to_f32()),
        _ => {}
    }
    // SAFETY: every bit pattern is a value of the numeric types above, bool arrays hold 0 and 1 only (data/
    // converts them), and the call checks that the length fits the shape.
    unsafe { Tensor::from_raw_dt(datum_type(array.data_type)?, &array.shape, &array.bytes) }
}

fn anyhow_if(failed: bool, what: impl FnOnce() -> String) -> TractResult<()> {
    if failed { Err(TractError::msg(what())) } else { Ok(()) }
}

/// Runs `work` and turns a failure or panic of the runtime into an error in one line.
pub(super) fn guarded<T>(stage: &str, work: impl FnOnce() -> TractResult<T>) -> Result<T> {
    let unsupported = |what: String| Err(Error::unsupported("runtime", format!("{stage} failed: {what}")));
    match panics::caught(work) {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => unsupported(one_line(&format!("{error:#}"))),
        None => unsupported("it panicked".to_owned()),
    }
}

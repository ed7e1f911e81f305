//! Group 7: numbers. No scale is zero or not finite, and what was finite stays so.

use efq::onnx::Model;
use efq::onnx::proto::{NodeProto, tensor_proto::DataType};
use efq::onnx::{node, tensor};

use crate::corpus::is_sane;
use crate::support::{Folder, Net, noise};

/// Values of a weight of 64 by 64 that were hard on other tools.
fn hard() -> Vec<(&'static str, Vec<f32>)> {
    let noisy = |change: fn(&mut Vec<f32>)| {
        let mut values = noise(4096, 1);
        change(&mut values);
        values
    };
    let tiny = f32::from_bits(1);
    vec![
        ("zero", vec![0.0; 4096]),
        ("minus zero", vec![-0.0; 4096]),
        ("constant", vec![0.3; 4096]),
        ("negative constant", vec![-1e-30; 4096]),
        ("one outlier of 1e38", noisy(|values| values[100] = 1e38)),
        ("largest floats", noisy(|values| values.fill(f32::MAX))),
        ("both ends of the floats", noisy(|values| (values[0], values[64]) = (f32::MAX, f32::MIN))),
        ("subnormal", vec![tiny; 4096]),
        ("subnormals and zeros", noisy(|values| values.iter_mut().for_each(|value| *value *= 1e-40))),
        ("a column of zeros", noisy(|values| values.iter_mut().step_by(64).for_each(|value| *value = 0.0))),
        ("scales under float16", noisy(|values| values.iter_mut().for_each(|value| *value *= 1e-7))),
        ("scales over float16", noisy(|values| values.iter_mut().for_each(|value| *value *= 1e7))),
        ("infinity", noisy(|values| values[5] = f32::INFINITY)),
        ("NaN", noisy(|values| values[5] = f32::NAN)),
        ("NaN everywhere", vec![f32::NAN; 4096]),
    ]
}

#[test]
fn scales_are_finite_and_what_was_finite_stays_so() {
    let ways = [
        "-p high_compression",
        "-p high_accuracy",
        "-p balanced_production",
        "-p balanced_production --emit matmulnbits",
        "-p high_compression --algorithm percentile",
        "-p high_compression --external-data",
    ];
    let mut wrong = Vec::new();
    for (name, values) in hard() {
        let finite = values.iter().all(|value| value.is_finite());
        let in_half = values.iter().all(|value| value.abs() <= 65504.0);
        let plain = Net::linear(64, 64).with(|graph| {
            graph.initializer.clear();
        });
        let table = plain
            .clone()
            .input("ids", DataType::Int64, &["batch"])
            .output("rows", DataType::Float, &["batch", "64"])
            .node("Gather", "rows", &["w", "ids"], &["rows"], vec![]);
        let mut nets = vec![
            ("float32", plain.clone().floats("w", &[64, 64], &values)),
            ("table", table.floats("w", &[64, 64], &values)),
        ];
        if in_half {
            let mut half = plain.halves("w", &[64, 64], &values);
            half.graph().input[0] = crate::support::value("x", DataType::Float16, &["batch", "64"]);
            half.graph().output[0] = crate::support::value("logits", DataType::Float16, &["batch", "64"]);
            nets.push(("float16", half));
        }
        for (kind, net) in &nets {
            for way in ways {
                let folder = Folder::new();
                net.save(&folder.join("m.onnx"));
                let args = format!("rewrite m.onnx {way} --validate never -o out.onnx");
                let run = folder.efq(&args.split(' ').collect::<Vec<_>>());
                let fault = match run.code {
                    Some(0) => is_sane(&folder.join("out.onnx")).err().or_else(|| {
                        let model = efq::onnx::load(&folder.join("out.onnx")).unwrap();
                        let found = decoded(&model);
                        let broken = finite && found.iter().any(|value| !value.is_finite());
                        broken.then(|| "finite weights became others".to_owned())
                    }),
                    Some(3) if run.err.lines().count() == 1 => None,
                    _ => Some(format!("{run:?}")),
                };
                wrong.extend(fault.map(|fault| format!("{name}, {kind}, {way}: {fault}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every value that the DequantizeLinear nodes of the main graph give, blocks along the first axis.
fn decoded(model: &Model) -> Vec<f32> {
    let of = |node: &NodeProto, at: usize| {
        let name = node.input.get(at)?;
        let cast = model.graph().node.iter().find(|node| node.output.contains(name));
        let name = cast.and_then(|cast| cast.input.first()).unwrap_or(name);
        model.graph().initializer.iter().find(|tensor| tensor.name() == name)
    };
    let mut values = Vec::new();
    for dequantize in model.graph().node.iter().filter(|found| node::is(found, "DequantizeLinear")) {
        let (Some(codes), Some(scales)) = (of(dequantize, 0), of(dequantize, 1)) else { continue };
        let scales = tensor::floats(scales).expect("scales are floats");
        let zeros = of(dequantize, 2).map(integers).unwrap_or_else(|| vec![0; scales.len()]);
        let columns = usize::try_from(codes.dims[1]).unwrap();
        let block = usize::try_from(node::int(dequantize, "block_size", 0)).unwrap();
        for (at, code) in integers(codes).into_iter().enumerate() {
            let from = at / columns / block * columns + at % columns;
            values.push((code - zeros[from]) as f32 * scales[from]);
        }
    }
    values
}

/// Codes as integers, two in a byte where they have four bits.
fn integers(tensor: &efq::onnx::proto::TensorProto) -> Vec<i32> {
    let raw = tensor::payload(tensor).unwrap();
    let sign = |nibble: u8| i32::from((nibble << 4) as i8 >> 4);
    match tensor::data_type(tensor).unwrap() {
        DataType::Int4 => raw.iter().flat_map(|byte| [sign(byte & 15), sign(byte >> 4)]).collect(),
        DataType::Uint4 => raw.iter().flat_map(|byte| [i32::from(byte & 15), i32::from(byte >> 4)]).collect(),
        DataType::Int8 => raw.iter().map(|byte| i32::from(*byte as i8)).collect(),
        DataType::Uint8 => raw.iter().map(|byte| i32::from(*byte)).collect(),
        other => panic!("codes of {other:?}"),
    }
}

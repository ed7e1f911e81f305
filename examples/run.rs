//! What efq's runtime computes in float, to be held against ONNX Runtime: `run MODEL SAMPLES`.
//!
//! One line of JSON for each sample and graph output: `output`, and `shape` and `values`, or `error`.

use std::{env, error::Error, path::Path, process::ExitCode};

use efq::data::{self, Source};
use efq::engine::{Runner, Variant};
use efq::onnx;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let paths: Vec<String> = env::args().skip(1).collect();
    let [model, samples] = paths.as_slice() else { return Err("usage: run MODEL SAMPLES".into()) };
    let model = onnx::load(Path::new(model))?;
    let samples = data::load(&Source::from(Path::new(samples)), &model)?;
    for output in &model.graph().output {
        let failed = |error: efq::Error| {
            println!("{}", serde_json::json!({ "output": output.name(), "error": error.to_string() }));
        };
        match Runner::new(&model, output.name(), Variant::WeightsOnly) {
            Err(error) => failed(error),
            Ok(runner) => {
                for sample in &samples.list {
                    match runner.run(sample) {
                        Err(error) => failed(error),
                        Ok(made) => {
                            // JSON has no NaN and no infinity: as texts, which numpy reads.
                            let values: Vec<String> = made.values.iter().map(f32::to_string).collect();
                            println!(
                                "{}",
                                serde_json::json!({ "output": output.name(), "shape": made.shape, "values": values })
                            );
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

//! Rewrites a model with some steps of the fitting left out, to measure what each adds:
//! `steps MODEL CALIBRATION OUT [STEP...]`, steps: carry refit descent tabu sequential asymmetric bias kernel
//! damping beside weighted.

use std::{env, error::Error, path::PathBuf, process::ExitCode};

use efq::calibrate::Steps;
use efq::data::Source;
use efq::pipeline::{RewriteOptions, When, rewrite};
use efq::preset::{AlgorithmName, BlockSize, Preset};
use efq::progress::Silent;
use efq::quant::compensate;
use efq::settings::{Overrides, Settings};

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
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, calibration, out, steps @ ..] = arguments.as_slice() else {
        return Err("usage: steps MODEL CALIBRATION OUT [STEP...]".into());
    };
    let has = |name: &str| steps.iter().any(|step| step == name);
    let known = [
        "carry",
        "refit",
        "descent",
        "tabu",
        "sequential",
        "asymmetric",
        "bias",
        "kernel",
        "damping",
        "beside",
        "weighted",
    ];
    if let Some(unknown) = steps.iter().find(|step| !known.contains(&step.as_str())) {
        return Err(format!("step '{unknown}' is none of {}", known.join(", ")).into());
    }
    let preset = Preset::builtin("high_accuracy").ok_or("no such preset")?;
    // Taken also where it is worse than search: that is what is measured.
    let overrides = Overrides {
        block_size: Some(BlockSize::B32),
        algorithm: Some(AlgorithmName::Gptq),
        ..Overrides::default()
    };
    let settings = Settings::new(&preset, &overrides)?;
    let options = RewriteOptions {
        output: Some(PathBuf::from(out)),
        calibration: Some(Source::new(PathBuf::from(calibration))),
        validate: When::Never,
        overwrite: true,
        steps: Steps {
            codes: compensate::Steps {
                carry: has("carry"),
                refit: has("refit"),
                descent: has("descent"),
                tabu: has("tabu"),
            },
            sequential: has("sequential"),
            asymmetric: has("asymmetric"),
            bias: has("bias"),
            kernel: has("kernel"),
            damping: has("damping"),
            beside: has("beside"),
            weighted: has("weighted"),
        },
        ..RewriteOptions::new(model, settings)
    };
    let done = rewrite(&options, &Silent)?;
    println!("{}", done.report.json());
    Ok(())
}

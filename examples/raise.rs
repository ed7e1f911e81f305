//! Raises one model to opset 21: `raise IN OUT`.

use std::{env, error::Error, fs, process::ExitCode};

use efq::{onnx::proto::ModelProto, opset};
use prost::Message;

fn main() -> ExitCode {
    match run() {
        Ok(raised) => {
            println!("{raised:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<opset::Raised, Box<dyn Error>> {
    let mut paths = env::args_os().skip(1);
    let (Some(input), Some(output), None) = (paths.next(), paths.next(), paths.next()) else {
        return Err("usage: raise IN OUT".into());
    };
    let mut model = ModelProto::decode(fs::read(input)?.as_slice())?;
    let raised = opset::raise(&mut model)?;
    fs::write(output, model.encode_to_vec())?;
    Ok(raised)
}

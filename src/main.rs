//! The `efq` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    efq::cli::main()
}

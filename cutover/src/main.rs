//! The operator's command. Everything is in [`cutover::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    cutover::cli::main()
}

//! The `voicebeatfs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    voicebeatfs::cli::run(std::env::args_os())
}

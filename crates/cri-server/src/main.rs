//! knarr, the daemon and its command line.
//!
//! This crate is the only one that sees protobuf types: gRPC services, conversions, and the adapters that plug `cni` and
//! `image-service` into `sandbox`. It makes no pod itself.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

mod adapters;
mod call_log;
mod cli;
mod config;
mod convert;
mod images;
mod logging;
mod runtime_service;
mod serve;
mod status;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "knarr: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Serve(arguments) => {
            let config = arguments.into_config()?;
            logging::init(&config);
            executor()?.block_on(serve::serve(config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo(arguments) => cli::demo::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Doctor => Ok(if cli::doctor::run()? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Command::Config(command) => cli::config::run(command).map(|()| ExitCode::SUCCESS),
        Command::Version => {
            writeln!(io::stdout(), "knarr {}", env!("CARGO_PKG_VERSION"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Two workers: calls wait for kernels and registries far more than they compute, and each worker costs memory.
fn executor() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Nanoseconds since the epoch, as CRI counts time.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// An error and its causes as one sentence, from the outside in.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// The path of one of the programs that are installed beside this one.
pub(crate) fn beside(name: &str) -> io::Result<PathBuf> {
    let executable = std::env::current_exe()?;
    Ok(executable.with_file_name(name))
}

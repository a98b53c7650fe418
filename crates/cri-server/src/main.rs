//! knarr, the daemon and its command line.
//!
//! This crate is the only one that sees protobuf types: gRPC services, conversions, and the adapters that plug `cni` and
//! `image-service` into `sandbox`. It makes no pod itself.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::runtime::Runtime;

pub(crate) use sandbox::clock::{nanoseconds, now};
pub(crate) use sandbox::error::chain;

use crate::cli::{Cli, Command};

mod adapters;
mod call_log;
mod cli;
mod config;
mod convert;
mod deadline;
mod door;
#[cfg(feature = "faults")]
mod faults;
mod images;
mod inherited;
mod locks;
mod logging;
mod metrics;
mod own_service;
mod parts;
mod plugin;
mod pod_cidrs;
mod reload;
mod rest;
mod runtime_service;
mod serve;
mod status;
mod streams_port;
mod telemetry;
mod undumped;
mod watchdog;

fn main() -> ExitCode {
    if let Some(plugin) = plugin_name() {
        return plugin::run(&plugin);
    }
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "knarr: {}", cli::terminal::clean(&chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

/// The CNI plugin that we are called as: by the name of a link to this program. As that we are nothing else.
fn plugin_name() -> Option<String> {
    let called = std::env::args_os().next()?;
    let name = std::path::Path::new(&called).file_name()?.to_str()?;
    cni::executable::is_plugin(name).then(|| name.to_owned())
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Serve(arguments) => {
            #[cfg(feature = "faults")]
            faults::plug();
            let sources = arguments.sources();
            let config = sources.load()?.config;
            let observers = logging::init(&config)?;
            // What 50 probes print would otherwise stay with the daemon.
            sandbox::allocate_frugally();
            finish(executor()?, serve::serve(serve::Beginning { config, sources, observers }))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo(arguments) => cli::demo::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Doctor(arguments) => {
            let healthy = cli::doctor::run(arguments)?;
            Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Debug(command) => cli::debug::run(command),
        Command::Man { directory } => cli::man::run(&directory).map(|()| ExitCode::SUCCESS),
        Command::Registry(command) => cli::registry::run(&command),
        Command::Config(command) => cli::config::run(command),
        Command::Image(arguments) => cli::image::run(arguments),
        Command::Pull { endpoint, arguments } => cli::image::pull(&endpoint, arguments),
        Command::Version(arguments) => cli::version::run(&arguments).map(|()| ExitCode::SUCCESS),
    }
}

/// How long a thread for what blocks waits for more of it. Short against the time after which the daemon rests (`rest`): what a thread
/// keeps of the allocator's for itself, some 200 KiB, is free only when it has ended.
const IDLE_THREADS: Duration = Duration::from_secs(1);

/// Two workers: calls wait for kernels and registries far more than they compute, and each worker costs memory.
pub(crate) fn executor() -> io::Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).thread_keep_alive(IDLE_THREADS).enable_all().build()
}

/// How long blocking threads may go on when the work is done.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Runs `work` to its end. Threads that hang in the kernel, at a dead network filesystem for example, are left to the end of the
/// process: dropping the executor would wait for them, and a daemon that is to end would not.
pub(crate) fn finish<T>(executor: Runtime, work: impl Future<Output = T>) -> T {
    let done = executor.block_on(work);
    executor.shutdown_timeout(LAST_THREADS);
    done
}

/// The path of one of the programs that are installed beside this one.
pub(crate) fn beside(name: &str) -> io::Result<PathBuf> {
    let executable = std::env::current_exe()?;
    Ok(executable.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_hangs_does_not_hold_up_the_end() {
        let (hold, held) = mpsc::channel::<()>();
        let executor = executor().unwrap();
        let begun = std::time::Instant::now();
        let done = finish(executor, async move {
            tokio::task::spawn_blocking(move || held.recv());
            7
        });
        assert_eq!(done, 7);
        assert!(begun.elapsed() < LAST_THREADS * 5, "{:?}", begun.elapsed());
        drop(hold);
    }
}

//! Scenarios of Kubernetes: what its users do, with a real kubelet on the daemon. `make test-kube` runs them.
//!
//! [`table`] lists them; a scenario is one function, and a new one needs a row there. [`standalone`] has those of a kubelet
//! on its own, the other modules those of a cluster, where each has a namespace to itself. [`runner`] runs them: most side
//! by side, and alone those that end a daemon. With `KNARR_KUBE_RUNTIME=containerd` they are asked of containerd.

mod daemons;
mod evented;
mod failures;
mod images;
mod kubectl;
mod objects;
mod pods;
mod resources;
mod runner;
mod services;
mod standalone;
mod table;
mod tracing;
mod volumes;
mod workloads;

use std::process::ExitCode;

use e2e::kube::Programs;

fn main() -> ExitCode {
    let programs = match Programs::of_this_run() {
        Ok(programs) => programs,
        Err(why) => {
            println!("skipped: kube needs the programs of Kubernetes (make test-kube): {why}");
            return ExitCode::SUCCESS;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let failed = runtime.expect("a runtime").block_on(runner::run(&programs, &runner::Wishes::of_this_run()));
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nfailed: {}", failed.join(", "));
    ExitCode::FAILURE
}

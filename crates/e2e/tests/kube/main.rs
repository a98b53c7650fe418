//! Scenarios of Kubernetes: what its users do, with a real kubelet on the daemon. `make test-kube` runs them.
//!
//! [`table`] lists them; a scenario is one function, and a new one needs a row there. [`standalone`] has those of a kubelet
//! on its own, the other modules those of a cluster, where each has a namespace to itself. [`runner`] runs them: most side
//! by side, and alone those that end a daemon. With `KNARR_KUBE_RUNTIME=containerd` they are asked of containerd.
//!
//! A run that is ended by a signal (Ctrl-C, a CI's time-out) takes its rig down as one that fails does.

mod daemons;
mod evented;
mod failures;
mod figures;
mod images;
mod kubectl;
mod objects;
mod pods;
mod resources;
mod runner;
mod services;
mod small;
mod standalone;
mod table;
mod top;
mod tracing;
mod volumes;
mod workloads;

use std::pin::pin;
use std::process::ExitCode;

use e2e::kube::Programs;

/// What rigs call beside the programs of Kubernetes, and what Debian has it in.
const NEEDED: [(&str, &str); 6] = [
    ("bridge", "containernetworking-plugins"),
    ("curl", "curl"),
    ("docker-registry", "docker-registry"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
];

fn main() -> ExitCode {
    let wishes = runner::Wishes::of_this_run();
    let programs = match Programs::of_this_run().and_then(|programs| has_all().map(|()| programs)) {
        Ok(programs) => programs,
        Err(why) if runner::Wishes::insist() => {
            println!("kube can't run: {why}");
            return ExitCode::FAILURE;
        }
        Err(why) => {
            println!("skipped: kube (make test-kube): {why}");
            return ExitCode::SUCCESS;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let failed = runtime.expect("a runtime").block_on(async {
        let mut run = pin!(runner::run(&programs, &wishes));
        tokio::select! {
            failed = &mut run => failed,
            // What the run has is dropped by this panic, and so not judged: it was in the middle of something.
            name = e2e::ended() => panic!("the run was ended by {name}"),
        }
    });
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nfailed: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// Whether the machine has what a rig needs.
fn has_all() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("it needs root".into());
    }
    match NEEDED.iter().find(|(program, _)| e2e::needs::program(program).is_none()) {
        None => Ok(()),
        Some((program, package)) => Err(format!("there is no {program} (Debian's {package})")),
    }
}

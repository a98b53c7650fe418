//! An OCI runtime's command line over this crate, so that the OCI community's own test suites can be pointed at it.
//!
//! `oci [--root DIR] [--log FILE] [--log-format text|json] COMMAND …` with the commands that runc has for the life of a container:
//! create, start, state, kill, delete, exec, update, run, list, ps, features, spec. Not shipped.
//!
//! A container is a pod of one: `create` starts a supervisor (this program again), which keeps it until `delete`; what is
//! known of it lies in `DIR/<id>`. A container's standard streams are those of `create`.
//!
//! Not here: how anything is done (the crate).

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a program: what it prints is what it is for"
)]

mod arguments;
mod bundle;
mod client;
mod console;
mod create;
mod exec;
mod life;
mod list;
mod namespaces;
mod resources;
mod specification;
mod store;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use arguments::{Flags, Parsed};
use store::Store;

/// What commands end with: an exit code, or why they could not be carried out.
pub type Outcome<T = u8> = Result<T, Box<dyn Error>>;

/// The first argument that makes this program a supervisor.
const SUPERVISE: &str = "supervise";

const GLOBAL: Flags = Flags {
    values: &["--root", "--log", "--log-format", "--rootless", "--criu"],
    switches: &["--systemd-cgroup", "--debug", "--version", "-v", "--help", "-h"],
};

/// Commands with their flags and what they do.
type Command = (&'static str, Flags, fn(&Store, &Parsed) -> Outcome);

const COMMANDS: [Command; 12] = [
    ("create", create::FLAGS, create::create),
    ("run", create::RUN_FLAGS, create::run),
    ("start", Flags::NONE, life::start),
    ("state", Flags::NONE, life::state),
    ("kill", life::KILL_FLAGS, life::kill),
    ("delete", life::DELETE_FLAGS, life::delete),
    ("exec", exec::FLAGS, exec::exec),
    ("update", resources::FLAGS, resources::update),
    ("list", list::LIST_FLAGS, list::list),
    ("ps", list::PS_FLAGS, list::ps),
    ("spec", specification::FLAGS, specification::spec),
    ("features", Flags::NONE, specification::features),
];

fn main() -> ExitCode {
    let mut line = std::env::args().skip(1).peekable();
    if line.next_if(|first| first == SUPERVISE).is_some() {
        return supervise(line);
    }
    let line: Vec<String> = line.collect();
    match GLOBAL.parse(&line) {
        Err(error) => report(None, error.as_ref()),
        Ok(global) => match dispatch(&global) {
            Ok(code) => ExitCode::from(code),
            Err(error) => report(Some(&global), error.as_ref()),
        },
    }
}

fn supervise(line: impl Iterator<Item = String>) -> ExitCode {
    let run = |arguments| runtime::supervisor::run(arguments).map_err(|error| error.to_string());
    match runtime::supervisor::Arguments::parse(line).map_err(|error| error.to_string()).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(global: &Parsed) -> Outcome {
    if global.has("--version") || global.has("-v") {
        println!("oci {}\nspec: {}", env!("CARGO_PKG_VERSION"), runtime::features::NEWEST_VERSION);
        return Ok(0);
    }
    let usage = || {
        let names: Vec<&str> = COMMANDS.iter().map(|(name, ..)| *name).collect();
        format!("usage: oci [--root DIR] [--log FILE] [--log-format text|json] {} …", names.join("|"))
    };
    if global.has("--help") || global.has("-h") {
        println!("{}", usage());
        return Ok(0);
    }
    if global.has("--systemd-cgroup") {
        return Err("--systemd-cgroup is not supported".into());
    }
    let (name, rest) = global.rest.split_first().ok_or_else(usage)?;
    let found = COMMANDS.iter().find(|(known, ..)| known == name);
    let (_, flags, command) = found.ok_or_else(|| format!("{name:?} is not a command; {}", usage()))?;
    let root = global.value("--root").map_or_else(|| PathBuf::from("/run/knarr-oci"), PathBuf::from);
    command(&Store::new(root), &flags.parse(rest)?)
}

/// Says what went wrong on standard error, and in the log in the form that engines read.
fn report(global: Option<&Parsed>, error: &dyn Error) -> ExitCode {
    let message = chain(error);
    eprintln!("{message}");
    if let Some(path) = global.and_then(|global| global.value("--log")) {
        let line = match global.and_then(|global| global.value("--log-format")) {
            Some("json") => {
                let time = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
                serde_json::json!({ "level": "error", "msg": message, "time": time }).to_string()
            }
            _ => format!("level=error msg={message:?}"),
        };
        let log = std::fs::OpenOptions::new().append(true).create(true).open(path);
        // Standard error has it already.
        let _ = log.and_then(|mut log| writeln!(log, "{line}"));
    }
    ExitCode::FAILURE
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

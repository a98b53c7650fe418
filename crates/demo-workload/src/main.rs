//! The program in the image that `knarr demo` packs: says that it runs, waits to be stopped, greets when asked.
//!
//! It is what a small service looks like from the runtime's side: a line on standard output, a clean end on SIGTERM
//! although it is PID 1 of its namespace, a command to exec. It knows nothing of knarr.

use std::io::{self, Write};
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::gethostname;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => serve(),
        ["hello", name] => hello(name),
        ["exit", code] => return code.parse::<u8>().map_or(ExitCode::from(2), ExitCode::from),
        _ => return ExitCode::from(2),
    };
    done.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// Blocks the signals first: as PID 1 of a pid namespace a signal without a handler would be dropped.
fn serve() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    say(&format!("demo workload is up in pod \"{}\"", hostname()))?;
    let signal = signals.wait()?;
    say(&format!("{signal} came, good-bye"))
}

fn hello(name: &str) -> io::Result<()> {
    say(&format!("hello {name}, from inside pod \"{}\", process {}", hostname(), std::process::id()))
}

fn hostname() -> String {
    gethostname().map_or_else(|_| "?".into(), |name| name.to_string_lossy().into_owned())
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

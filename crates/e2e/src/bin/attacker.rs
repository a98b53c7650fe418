//! What runs inside of containers in the attack tests: a program that looks for ways out.
//!
//! It needs nothing but the standard library, so that the tests can have it built statically by the compiler alone, and says
//! what it found on standard output. It knows nothing of knarr.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::ExitCode;

/// O_PATH of asm-generic/fcntl.h: a handle, whatever may be done with the file.
const O_PATH: i32 = 0o10_000_000;

/// A file that ends the hunt.
const STOP: &str = "/stop";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["hunt", kind] => hunt(kind),
        ["squat", names @ ..] => squat(names),
        _ => return ExitCode::from(2),
    };
    done.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Watches every process that comes into this pid namespace and tries to get hold of what it was born with, until the file
/// that ends the hunt is there. `links`: root, working directory, executable and descriptors, whatever they are. `places`: those that
/// are places outside of this container. `program`: the executable, to change it.
fn hunt(kind: &str) -> io::Result<()> {
    let own = Own::find()?;
    let mut seen = u64::from(std::process::id());
    let mut met = 0_u64;
    say("hunting")?;
    for round in 0_u64.. {
        // Numbers are given out in order, and a join may take more than one.
        if let Some(pid) = (seen + 1..seen + 8).find(|pid| Path::new(&format!("/proc/{pid}/stat")).exists()) {
            met += 1;
            seen = pid;
            while own.look(kind, pid)? {}
        }
        if round % 64 == 0 {
            // Those that were too quick are gone.
            seen = seen.max(last_pid()?.saturating_sub(2));
            if Path::new(STOP).exists() {
                break;
            }
        }
    }
    say(&format!("met {met}"))
}

/// The number that was given out last in this pid namespace (proc_loadavg(5)).
fn last_pid() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().last().and_then(|field| field.parse().ok()).unwrap_or(0))
}

/// What belongs to this container.
struct Own {
    root: (u64, u64),
    device: u64,
}

impl Own {
    fn find() -> io::Result<Self> {
        let root = std::fs::metadata("/")?;
        let program = std::fs::metadata("/proc/self/exe")?;
        Ok(Self { root: (root.dev(), root.ino()), device: program.dev() })
    }

    /// Whether the process is there still and worth another look.
    fn look(&self, kind: &str, pid: u64) -> io::Result<bool> {
        if kind == "program" { self.look_at_program(pid) } else { self.look_at_links(pid, kind == "places") }
    }

    fn look_at_links(&self, pid: u64, places: bool) -> io::Result<bool> {
        let links = ["root", "cwd", "exe"].map(str::to_owned).into_iter();
        let descriptors = (3..48).map(|number| format!("fd/{number}"));
        for name in links.chain(descriptors) {
            let Ok(file) = handle(&format!("/proc/{pid}/{name}")) else { continue };
            let found = file.metadata()?;
            let is_root = (found.dev(), found.ino()) == self.root;
            let is_own = if places {
                // The runtime's program can be had otherwise; what can be done with it is another hunt's.
                let is_place = found.is_dir() || found.is_file();
                is_root || !is_place || name == "exe"
            } else {
                !name.starts_with("fd/") && (is_root || found.dev() == self.device)
            };
            if !is_own {
                say(&format!("foreign {name} of {pid}: {}", link(&file)))?;
            }
        }
        Ok(Path::new(&format!("/proc/{pid}/root")).symlink_metadata().is_ok()
            && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()))
    }

    fn look_at_program(&self, pid: u64) -> io::Result<bool> {
        let Ok(program) = File::open(format!("/proc/{pid}/exe")) else {
            return Ok(Path::new(&format!("/proc/{pid}/stat")).exists() && self.is_alive(pid));
        };
        if program.metadata()?.dev() == self.device {
            return Ok(self.is_alive(pid));
        }
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        let mode = program.metadata()?.permissions().mode() | 0o4000;
        let tell = |what: &str, outcome: io::Result<()>| match outcome {
            Ok(()) => say(&format!("{what} of {pid}: done")),
            Err(error) => say(&format!("{what} of {pid}: {error}")),
        };
        tell("change of mode", std::fs::set_permissions(&path, Permissions::from_mode(mode)))?;
        tell("opening to write", OpenOptions::new().write(true).open(&path).map(drop))?;
        Ok(false)
    }

    fn is_alive(&self, pid: u64) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }
}

fn handle(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_PATH).open(path)
}

fn link(file: &File) -> String {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    target.map_or_else(|error| error.to_string(), |target| target.display().to_string())
}

/// Takes abstract socket names as soon as they are free, and keeps them.
fn squat(names: &[&str]) -> io::Result<()> {
    let mut held = Vec::new();
    let mut wanted = names.to_vec();
    say("squatting on 0")?;
    while !wanted.is_empty() {
        wanted.retain(|name| {
            let taken = SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
            taken.map(|listener| held.push(listener)).is_err()
        });
        std::thread::yield_now();
    }
    say(&format!("squatting on {}", held.len()))?;
    loop {
        std::thread::park();
    }
}

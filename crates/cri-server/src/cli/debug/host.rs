//! What is seen of pods and the daemon from outside: records, processes, cgroups, mounts, figures, logs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Content, Subject};

/// How long whoever serves figures may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lines of the daemon's log, and of the kernel's.
const LAST_LINES: &str = "2000";
const KERNEL_LINES: usize = 500;

/// What a supervisor's process is called (comm has 15 letters).
const SUPERVISOR: &str = "knarr-superviso";

/// Words of the kernel's lines that matter here.
const KERNEL_WORDS: [&str; 9] = [
    "oom",
    "Out of memory",
    "Killed process",
    "knarr",
    "overlay",
    "erofs",
    "apparmor=\"DENIED\"",
    "hung task",
    "blocked for more",
];

/// Records of pods and containers, with what supervisors have written.
pub(super) fn records(subject: &Subject) -> Result<Content, String> {
    let top = subject.config.state.join("pods");
    let mut found = Vec::new();
    gather(&top, &top, &mut found).map_err(|error| format!("{}: {error}", top.display()))?;
    Ok(Content::Several(found))
}

fn gather(top: &Path, directory: &Path, found: &mut Vec<(String, Content)>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.strip_prefix(top).unwrap_or(&path).display().to_string();
        if path.is_dir() && !path.is_symlink() {
            // What goes away meanwhile is none of it.
            let _gone = gather(top, &path, found);
        } else if path.ends_with("supervisor.log") {
            found.push((name, Content::Text(fs::read_to_string(&path).unwrap_or_default())));
        } else if is_record(&path)
            && let Ok(text) = fs::read_to_string(&path)
        {
            let unreadable = |error: serde_json::Error| json!({ "unreadable": error.to_string() });
            found.push((name, Content::Json(serde_json::from_str(&text).unwrap_or_else(unreadable))));
        }
    }
    Ok(())
}

/// What the supervisor will be told has everything of the specification once more, in places of its own.
fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "json") && !path.ends_with("plan.json")
}

/// The processes that mind pods: how they are, what they wait in, what they cost.
pub(super) fn supervisors(_: &Subject) -> Result<Content, String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").map_err(|error| error.to_string())?.flatten() {
        let path = process.path();
        if text(&path, "comm").trim() == SUPERVISOR {
            found.push(process_of(&path));
        }
    }
    Ok(Content::Json(Value::Array(found)))
}

fn process_of(path: &Path) -> Value {
    let status = text(path, "status");
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    let started =
        text(path, "stat").rsplit(") ").next().and_then(|rest| rest.split(' ').nth(19)).map(str::to_owned);
    json!({
        "pid": field("Pid:"),
        "state": field("State:"),
        "threads": field("Threads:"),
        "resident": field("VmRSS:"),
        "startedAtTicks": started,
        "waitsIn": text(path, "wchan"),
        "cmdline": text(path, "cmdline"),
        "cgroup": text(path, "cgroup"),
        "files": fs::read_dir(path.join("fd")).map(Iterator::count).unwrap_or_default(),
    })
}

fn text(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(name)).unwrap_or_default()
}

/// Cgroups of pods, by what the daemon says of them: limits, use, events.
pub(super) fn cgroups(subject: &Subject) -> Result<Content, String> {
    let daemon = subject.daemon.as_ref().map_err(Clone::clone)?;
    let pods = daemon["pods"].as_array().into_iter().flatten();
    let paths = pods.filter_map(|pod| pod["cgroup"].as_str());
    let mut found = serde_json::Map::new();
    for path in paths {
        for hierarchy in hierarchies() {
            look(&hierarchy.join(path.trim_start_matches('/')), &mut found);
        }
    }
    Ok(Content::Json(Value::Object(found)))
}

/// Version 2, or each controller's of version 1.
fn hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top];
    }
    ["memory", "pids", "cpu", "freezer"]
        .iter()
        .map(|name| top.join(name))
        .filter(|path| path.is_dir())
        .collect()
}

/// The files of a cgroup that say something in a few lines, and those of what is below.
const FILES: [&str; 14] = [
    "cgroup.procs",
    "cgroup.events",
    "cgroup.controllers",
    "cgroup.subtree_control",
    "memory.current",
    "memory.max",
    "memory.events",
    "memory.usage_in_bytes",
    "memory.limit_in_bytes",
    "pids.current",
    "pids.max",
    "cpu.stat",
    "cpu.max",
    "freezer.state",
];

fn look(cgroup: &Path, found: &mut serde_json::Map<String, Value>) {
    let read =
        |name: &&str| Some(((*name).to_owned(), json!(fs::read_to_string(cgroup.join(name)).ok()?.trim())));
    let files: serde_json::Map<String, Value> = FILES.iter().filter_map(read).collect();
    if files.is_empty() {
        return;
    }
    found.insert(cgroup.display().to_string(), Value::Object(files));
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        look(&entry.path(), found);
    }
}

/// The mounts that the daemon sees, without their options, which may have logins.
pub(super) fn mounts(subject: &Subject) -> Result<Content, String> {
    let pid = subject.daemon.as_ref().ok().and_then(|daemon| daemon["pid"].as_u64());
    let pid = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).map_err(|error| error.to_string())?;
    let short = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        Some(format!("{before} - {}\n", after.split(' ').next()?))
    };
    Ok(Content::Text(table.lines().filter_map(short).collect()))
}

/// The figures, where they are served.
pub(super) fn metrics(subject: &Subject) -> Result<Content, String> {
    let address = subject.config.metrics.address().map_err(|fault| fault.to_string())?;
    let address = address.ok_or("metrics.listen is not set")?;
    let failed = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    Ok(Content::Text(answer.split_once("\r\n\r\n").map_or(answer.clone(), |(_, body)| body.to_owned())))
}

/// The last lines of the unit's log, where there is a journal.
pub(super) fn log(_: &Subject) -> Result<Content, String> {
    let journal = Command::new("journalctl")
        .args(["--unit", "knarr", "--lines", LAST_LINES, "--no-pager", "--output", "short-iso"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("journalctl: {error}"))?;
    match journal.status.success() {
        true => Ok(Content::Text(String::from_utf8_lossy(&journal.stdout).into_owned())),
        false => Err(String::from_utf8_lossy(&journal.stderr).trim().to_owned()),
    }
}

/// What the kernel said of memory that ran out, and of file systems.
pub(super) fn kernel(_: &Subject) -> Result<Content, String> {
    let failed = |error: std::io::Error| format!("/dev/kmsg: {error}");
    let mut kmsg = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .map_err(failed)?;
    let (mut lines, mut record) = (Vec::new(), [0; 8192]);
    // One record a read; the last one would be waited for. One that was overwritten meanwhile is passed over (EPIPE).
    loop {
        match kmsg.read(&mut record) {
            Ok(0) => break,
            Ok(length) => lines.push(String::from_utf8_lossy(&record[..length]).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    lines.retain(|line| KERNEL_WORDS.iter().any(|word| line.contains(word)));
    Ok(Content::Text(lines.split_off(lines.len().saturating_sub(KERNEL_LINES)).concat()))
}

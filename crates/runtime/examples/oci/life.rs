//! `start`, `state`, `kill`, `delete`: what becomes of a container that was created.

use std::path::Path;
use std::time::Duration;

use runtime::record::read_exit;
use runtime::wire::{Reply, Request, Scope, Target};
use serde_json::json;

use crate::Outcome;
use crate::arguments::{Flags, Parsed};
use crate::client::{Client, unexpected};
use crate::create::{DEADLINE_MS, stopped};
use crate::store::{Record, Status, Store};

pub const KILL_FLAGS: Flags = Flags { values: &["--signal", "-s"], switches: &["--all", "-a"] };
pub const DELETE_FLAGS: Flags = Flags { values: &[], switches: &["--force", "-f"] };

/// How long the supervisor may take to write down how a container ended whose process is gone.
const RECORDED: Duration = Duration::from_secs(5);

/// `start ID`
pub fn start(store: &Store, line: &Parsed) -> Outcome {
    let record = store.load(line.only_id()?)?;
    execute(store, &record)?;
    Ok(0)
}

/// Has the command of a created container executed.
pub fn execute(store: &Store, record: &Record) -> Outcome<()> {
    let status = store.status(record)?;
    if status != Status::Created {
        return Err(format!("cannot start container {:?}: it is {}", record.id, status.name()).into());
    }
    if record.asked.is_null() {
        return Err("process: is missing".into());
    }
    let mut client = Client::connect(&store.directory(&record.id))?;
    // Before it is asked for: a container that has begun by itself must not look created.
    store.mark_started(&record.id)?;
    let request = Request::Execute { container: name(record), deadline_ms: DEADLINE_MS };
    match client.ask(request, &[]) {
        Ok((Reply::Started { .. } | Reply::Exited(_), _)) => Ok(()),
        Ok((other, _)) => Err(unexpected(&other)),
        Err(error) => {
            // It is over (runtime.md, "Lifecycle", step 9): what a poststart hook has seen running, too.
            let _ = record.cgroup.kill();
            Err(error)
        }
    }
}

/// How the supervisor calls it.
fn name(record: &Record) -> String {
    record.id.replace('+', "_")
}

/// `state ID`
pub fn state(store: &Store, line: &Parsed) -> Outcome {
    let id = line.only_id()?;
    let record = store.load(id)?;
    println!("{:#}", described(store, &record)?);
    Ok(0)
}

/// A container's state (runtime.md, "State"), and what engines read besides.
pub fn described(store: &Store, record: &Record) -> Outcome<serde_json::Value> {
    let status = store.status(record)?;
    Ok(json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": status.name(),
        "pid": if status == Status::Stopped { 0 } else { record.pid },
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.annotations,
        "owner": "",
    }))
}

/// `kill [--all] ID [SIGNAL]`
pub fn kill(store: &Store, line: &Parsed) -> Outcome {
    let record = store.load(line.id()?)?;
    let asked = line.either(("--signal", "-s")).or_else(|| line.rest.get(1).map(String::as_str));
    let signal = signal(asked.unwrap_or("TERM"))?;
    let all = line.has("--all") || line.has("-a");
    let status = store.status(&record)?;
    if !matches!(status, Status::Created | Status::Running) {
        return match all {
            // As engines that clean up expect: nothing is left to be signalled.
            true => record.cgroup.kill().map(|()| 0).map_err(Into::into),
            false => Err(format!("cannot signal container {:?}: it is {}", record.id, status.name()).into()),
        };
    }
    let scope = if all && signal == KILL { Scope::All } else { Scope::Init };
    let target = Target::Container(name(&record));
    let mut client = Client::connect(&store.directory(&record.id))?;
    match client.ask(Request::Signal { target, signal, scope }, &[])?.0 {
        Reply::Done => Ok(0),
        Reply::Gone => Err(format!("cannot signal container {:?}: it is stopped", record.id).into()),
        other => Err(unexpected(&other)),
    }
}

/// SIGKILL.
const KILL: i32 = 9;

/// A signal by its number or its name, with or without `SIG`.
fn signal(text: &str) -> Outcome<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return match number {
            1..=64 => Ok(number),
            _ => Err(format!("{text:?} is not a signal").into()),
        };
    }
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |(base, sign): (i32, i32), rest: &str| match rest {
        "" => Some(base),
        rest => rest.trim_start_matches(['+', '-']).parse::<i32>().ok().map(|offset| base + sign * offset),
    };
    let found = match (short.strip_prefix("RTMIN"), short.strip_prefix("RTMAX")) {
        (Some(rest), _) => real_time((34, 1), rest),
        (_, Some(rest)) => real_time((64, -1), rest),
        (None, None) => {
            format!("SIG{short}").parse::<nix::sys::signal::Signal>().ok().map(|known| known as i32)
        }
    };
    found.filter(|number| (1..=64).contains(number)).ok_or_else(|| format!("{text:?} is not a signal").into())
}

/// `delete [--force] ID`
pub fn delete(store: &Store, line: &Parsed) -> Outcome {
    let id = line.only_id()?;
    let force = line.has("--force") || line.has("-f");
    let record = match store.load(id) {
        Ok(record) => record,
        Err(error) if force && store.directory(id).exists() => {
            // It was never finished.
            shut_down(&store.directory(id));
            store.remove(id)?;
            eprintln!("warning: {error}");
            return Ok(0);
        }
        // As runc: what is gone is as it was asked for.
        Err(_) if force => return Ok(0),
        Err(error) => return Err(error),
    };
    let status = store.status(&record)?;
    if !force && status != Status::Stopped {
        return Err(format!("cannot delete container {id:?}: it is {}", status.name()).into());
    }
    destroy(store, &record)?;
    Ok(0)
}

/// Ends a container and removes all that was made for it; then its poststop hooks are run.
pub fn destroy(store: &Store, record: &Record) -> Outcome<()> {
    shut_down(&store.directory(&record.id));
    record.cgroup.kill()?;
    record.cgroup.remove()?;
    store.remove(&record.id)?;
    stopped(record.hooks.as_deref());
    Ok(())
}

/// Has a supervisor end, with all its processes. One that is gone has.
pub fn shut_down(directory: &Path) {
    if let Ok(mut client) = Client::connect(directory) {
        let _ = client.ask(Request::Shutdown, &[]);
    }
}

/// Waits for a container's end; gives its exit code.
pub fn wait(store: &Store, record: &Record) -> Outcome {
    let pid = rustix::process::Pid::from_raw(record.pid).ok_or("the container has no process")?;
    if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        && store.status(record)? != Status::Stopped
    {
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None)?;
    }
    let place = store.directory(&record.id).join("containers").join(name(record));
    let give_up = std::time::Instant::now() + RECORDED;
    loop {
        if let Some(exit) = read_exit(&place)? {
            return Ok(u8::try_from(exit.exit_code).unwrap_or(u8::MAX));
        }
        if std::time::Instant::now() > give_up {
            return Err("the container's supervisor did not say how it ended".into());
        }
        std::thread::yield_now();
    }
}

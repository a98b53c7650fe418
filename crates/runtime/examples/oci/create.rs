//! `create` and `run`: a container made from a bundle, all but its command executed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use runtime::cgroup::{Cgroup, Host};
use runtime::container::Until;
use runtime::mount;
use runtime::plan::{Access, Depth, Hooks, MountAttributes, Propagation, Source};
use runtime::thread::SingleThread;
use runtime::wire::{Reply, Request, StartContainer, Stdin, Stream};

use crate::arguments::{Flags, Parsed};
use crate::bundle::{self, Prepared};
use crate::client::{Client, unexpected};
use crate::store::{Record, Store, check_id};
use crate::{Outcome, console, life};

pub const FLAGS: Flags = Flags {
    values: &["--bundle", "-b", "--pid-file", "--console-socket", "--preserve-fds"],
    switches: &["--no-pivot", "--no-new-keyring"],
};

pub const RUN_FLAGS: Flags =
    Flags { values: FLAGS.values, switches: &["--no-pivot", "--no-new-keyring", "--detach", "-d", "--keep"] };

/// After so many milliseconds a start has failed. Hooks have the time that they ask for.
pub const DEADLINE_MS: u64 = 300_000;

/// `create [--bundle DIR] [--pid-file FILE] [--console-socket SOCKET] ID`
pub fn create(store: &Store, line: &Parsed) -> Outcome {
    make(store, line)?;
    Ok(0)
}

/// `run [--detach] [--keep] …ID`: create, start, wait, delete.
pub fn run(store: &Store, line: &Parsed) -> Outcome {
    let record = make(store, line)?;
    if let Err(error) = life::execute(store, &record) {
        life::destroy(store, &record)?;
        return Err(error);
    }
    if line.has("--detach") || line.has("-d") {
        return Ok(0);
    }
    let code = life::wait(store, &record)?;
    if !line.has("--keep") {
        life::destroy(store, &record)?;
    }
    Ok(code)
}

fn make(store: &Store, line: &Parsed) -> Outcome<Record> {
    let id = line.only_id()?;
    check_id(id)?;
    if line.has("--no-pivot") {
        return Err("--no-pivot is not supported".into());
    }
    if line.value("--preserve-fds").is_some_and(|count| count != "0") {
        return Err("--preserve-fds is not supported".into());
    }
    let bundle = line.either(("--bundle", "-b")).unwrap_or(".");
    let prepared = bundle::prepare(id, Path::new(bundle))?;
    let socket = line.value("--console-socket").map(PathBuf::from);
    console::check(prepared.plan.process.terminal.is_some(), socket.as_deref())?;
    let directory = store.reserve(id)?;
    let made = build(id, prepared, (&directory, socket.as_deref()));
    let saved = made.and_then(|record| {
        store.save(&record)?;
        if let Some(path) = line.value("--pid-file") {
            write_pid(Path::new(path), record.pid)?;
        }
        Ok(record)
    });
    saved.inspect_err(|_| {
        life::shut_down(&directory);
        // What failed is said already.
        let _ = store.remove(id);
    })
}

/// Beside and renamed: whoever waits for it finds it whole.
pub fn write_pid(path: &Path, pid: i32) -> Outcome<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, pid.to_string())?;
    Ok(std::fs::rename(beside, path)?)
}

fn build(id: &str, prepared: Prepared, (directory, socket): (&Path, Option<&Path>)) -> Outcome<Record> {
    let path = prepared.cgroup.path().to_owned();
    let is_new = !prepared.cgroup.exists();
    let cgroup = Cgroup::create(&Host::detect()?, &path)?;
    let hooks = prepared.plan.hooks.clone();
    let result = cgroup
        .apply(&prepared.limits)
        .map_err(Into::into)
        .and_then(|()| start(id, prepared, (directory, socket, &cgroup)));
    result.inspect_err(|_| {
        let _ = cgroup.kill();
        if is_new {
            let _ = cgroup.remove();
        }
        stopped(hooks.as_deref());
    })
}

/// What was begun is over: the poststop hooks are told.
pub fn stopped(hooks: Option<&Hooks>) {
    let Some(hooks) = hooks else { return };
    match SingleThread::prove() {
        Ok(proof) => {
            runtime::hooks::run_poststop(&proof, hooks)
                .iter()
                .for_each(|failure| eprintln!("warning: {failure}"));
        }
        Err(error) => eprintln!("warning: no hooks were run: {error}"),
    }
}

fn start(
    id: &str,
    mut prepared: Prepared,
    (directory, socket, cgroup): (&Path, Option<&Path>, &Cgroup),
) -> Outcome<Record> {
    let rootfs = Source {
        path: prepared.rootfs.clone(),
        depth: Depth::Recursive,
        attributes: MountAttributes { access: Access::ReadWrite, ..MountAttributes::default() },
        propagation: Propagation::Private,
        ids: None,
    };
    let mut descriptors: Vec<OwnedFd> = vec![mount::open_source(&rootfs)?];
    for source in &prepared.plan.sources {
        descriptors.push(mount::open_source(source)?);
    }
    // They run when the container is deleted, by whoever deletes it.
    let hooks = prepared.plan.hooks.as_mut().and_then(|hooks| {
        let poststop = std::mem::take(&mut hooks.poststop);
        (!poststop.is_empty()).then(|| Box::new(Hooks { poststop, ..(**hooks).clone() }))
    });
    let (mut client, users) = (Client::start(id, directory)?, prepared.pod.user.clone());
    match client.ask(Request::CreatePod(prepared.pod), &[])?.0 {
        Reply::PodCreated(_) => {}
        other => return Err(unexpected(&other)),
    }
    let process = prepared.plan.process.clone();
    let has_terminal = process.terminal.is_some();
    let (names, own) = streams(has_terminal);
    let start = StartContainer {
        container: id.replace('+', "_"),
        plan: prepared.plan,
        cgroup: cgroup.clone(),
        log: None,
        log_limits: None,
        log_copy: None,
        stdin: Stdin::Null,
        deadline_ms: DEADLINE_MS,
        until: Until::Created,
        streams: names,
        external: None,
    };
    let all: Vec<BorrowedFd<'_>> = descriptors.iter().chain(&own).map(AsFd::as_fd).collect();
    let (reply, terminal) = client.ask(Request::Start(Box::new(start)), &all)?;
    let Reply::Created { pid, start_time } = reply else { return Err(unexpected(&reply)) };
    if let Some((socket, terminal)) = socket.zip(terminal.first()) {
        console::send(socket, terminal.as_fd())?;
    }
    let spec = prepared.spec;
    Ok(Record {
        oci_version: spec.version().clone(),
        id: id.to_owned(),
        bundle: prepared.directory,
        rootfs: prepared.rootfs,
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        created: humantime::format_rfc3339_nanos(std::time::SystemTime::now()).to_string(),
        pid,
        start_time,
        cgroup: cgroup.clone(),
        process,
        asked: serde_json::to_value(spec.process().as_ref().filter(|_| prepared.has_process))?,
        users,
        hooks,
    })
}

/// This program's own streams, as far as they are open.
fn streams(has_terminal: bool) -> (Vec<Stream>, Vec<OwnedFd>) {
    if has_terminal {
        return (Vec::new(), Vec::new());
    }
    let own = [
        (Stream::Stdin, std::io::stdin().as_fd().try_clone_to_owned()),
        (Stream::Stdout, std::io::stdout().as_fd().try_clone_to_owned()),
        (Stream::Stderr, std::io::stderr().as_fd().try_clone_to_owned()),
    ];
    own.into_iter().filter_map(|(name, descriptor)| Some((name, descriptor.ok()?))).unzip()
}

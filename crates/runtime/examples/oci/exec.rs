//! `exec`: a process that joins a container, a child of this program's.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use runtime::container::{ExecRequest, Launched, Streams};
use runtime::handshake::Progress;
use runtime::namespaces::PodUser;
use runtime::plan::{self, ProcessPlan};
use runtime::spec::oci;
use runtime::thread::SingleThread;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use serde_json::{Value, json};

use crate::arguments::{Flags, Parsed};
use crate::create::write_pid;
use crate::store::{Record, Status, Store};
use crate::{Outcome, console};

pub const FLAGS: Flags = Flags {
    values: &[
        "--process",
        "-p",
        "--cwd",
        "--env",
        "-e",
        "--user",
        "-u",
        "--additional-gids",
        "-g",
        "--cap",
        "-c",
        "--pid-file",
        "--console-socket",
        "--preserve-fds",
    ],
    switches: &["--tty", "-t", "--detach", "-d", "--no-new-privs", "--ignore-paused"],
};

/// `exec [flags] ID COMMAND…` or `exec --process FILE ID`
pub fn exec(store: &Store, line: &Parsed) -> Outcome {
    let record = store.load(line.id()?)?;
    let status = store.status(&record)?;
    if !matches!(status, Status::Created | Status::Running) {
        return Err(format!("cannot exec in container {:?}: it is {}", record.id, status.name()).into());
    }
    if line.value("--preserve-fds").is_some_and(|count| count != "0") {
        return Err("--preserve-fds is not supported".into());
    }
    let process = process(&record, line)?;
    let socket = line.value("--console-socket").map(PathBuf::from);
    console::check(process.terminal.is_some(), socket.as_deref())?;
    let launched = join(&record, &process, socket.as_deref())?;
    if let Some(path) = line.value("--pid-file") {
        write_pid(Path::new(path), launched.pid)?;
    }
    if line.has("--detach") || line.has("-d") {
        return Ok(0);
    }
    let status = waitid(WaitId::PidFd(launched.pidfd.as_fd()), WaitIdOptions::EXITED)?;
    let code = status.map_or(255, |status| match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => 128 + signal,
        (code, None) => code.unwrap_or(255),
    });
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// The process that is asked for: a file's, or the container's own with changes.
fn process(record: &Record, line: &Parsed) -> Outcome<ProcessPlan> {
    let mut asked = match line.either(("--process", "-p")) {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => changed(record.asked.clone(), line)?,
    };
    if line.has("--tty") || line.has("-t") {
        asked["terminal"] = json!(true);
    }
    let asked: oci::Process = serde_json::from_value(asked)?;
    let mut process = plan::process(&asked, record.process.seccomp.clone())?;
    process.scheduling.personality = record.process.scheduling.personality;
    Ok(process)
}

fn changed(mut process: Value, line: &Parsed) -> Outcome<Value> {
    process["args"] = json!(line.rest.get(1..).unwrap_or_default());
    process["terminal"] = json!(false);
    if let Some(cwd) = line.value("--cwd") {
        process["cwd"] = json!(cwd);
    }
    if let Some(user) = line.either(("--user", "-u")) {
        let mut ids =
            user.splitn(2, ':').map(|id| id.parse::<u32>().map_err(|_| format!("--user: {user:?}")));
        process["user"]["uid"] = json!(ids.next().transpose()?);
        process["user"]["gid"] = json!(ids.next().transpose()?.unwrap_or(0));
    }
    let gids = line.all(&["--additional-gids", "-g"]).map(str::parse::<u32>).collect::<Result<Vec<_>, _>>();
    let gids = gids.map_err(|_| "--additional-gids: is not a number")?;
    append(&mut process["user"]["additionalGids"], gids.into_iter().map(Value::from));
    append(&mut process["env"], line.all(&["--env", "-e"]).map(Value::from));
    for set in ["bounding", "effective", "permitted"] {
        append(&mut process["capabilities"][set], line.all(&["--cap", "-c"]).map(Value::from));
    }
    if line.has("--no-new-privs") {
        process["noNewPrivileges"] = json!(true);
    }
    Ok(process)
}

fn append(list: &mut Value, more: impl Iterator<Item = Value>) {
    let mut all = list.as_array().cloned().unwrap_or_default();
    for value in more {
        if !all.contains(&value) {
            all.push(value);
        }
    }
    *list = Value::Array(all);
}

/// How long the process's starter may take: a dozen system calls, as slow as the container's limits make them.
const BIRTH: std::time::Duration = std::time::Duration::from_secs(60);

/// Starts the process and waits until its command runs.
fn join(record: &Record, process: &ProcessPlan, socket: Option<&Path>) -> Outcome<Launched> {
    let pid = Pid::from_raw(record.pid).ok_or("the container has no process")?;
    let container = pidfd_open(pid, PidfdFlags::empty())?;
    let user = match &record.users {
        None => None,
        Some(ids) => {
            let namespace = std::fs::File::open(format!("/proc/{}/ns/user", record.pid))?.into();
            Some(PodUser { namespace, ids: ids.clone() })
        }
    };
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams =
        Streams { stdin: Some(stdin.as_fd()), stdout: Some(stdout.as_fd()), stderr: Some(stderr.as_fd()) };
    let cgroup = &record.cgroup;
    let request = ExecRequest { process, container: container.as_fd(), user: user.as_ref(), cgroup, streams };
    let birth = runtime::container::exec(&SingleThread::prove()?, &request)?;
    let mut launched = birth.wait(BIRTH)?;
    loop {
        match launched.handshake.receive() {
            Progress::Pending => {
                poll(&mut [PollFd::new(&launched.handshake, PollFlags::IN)], None)?;
            }
            Progress::Terminal(master) => {
                if let Some(socket) = socket {
                    console::send(socket, master.as_fd())?;
                }
            }
            Progress::Waiting(halt) => return Err(format!("the process waits: {halt:?}").into()),
            Progress::Ready => return Ok(launched),
            Progress::Failed(failure) => {
                // It ends by itself, and is to be gone when this is told.
                waitid(WaitId::PidFd(launched.pidfd.as_fd()), WaitIdOptions::EXITED)?;
                return Err(failure.into());
            }
        }
    }
}

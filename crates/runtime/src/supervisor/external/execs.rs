//! Processes that an external runtime has join a container.

use std::ffi::OsString;
use std::fs::remove_file;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::call::{self, Call, Order, failure};
use super::console::Console;
use super::containers::listen;
use super::{Purpose, Supervisor};
use crate::Failure;
use crate::external::{External, describe};
use crate::regular;
use crate::supervisor::event_loop::Key;
use crate::supervisor::exec::{self, Exec};
use crate::supervisor::starts::Leaving;
use crate::wire::{Reply, StartExec, Stream};

/// A process that is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The daemon's name for it.
    name: String,
    container: Key,
    /// Who waits for it; none once nobody wants it any more.
    sequence: Option<u64>,
    console: Option<Console>,
    /// What the runtime reads, and what it writes.
    files: [PathBuf; 2],
}

impl Wanted {
    fn pid_file(&self) -> &PathBuf {
        &self.files[1]
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        for file in &self.files {
            let _gone = remove_file(file);
        }
    }
}

impl Supervisor {
    /// Has a process join a container. `descriptors`: the streams that the request names, in their order.
    ///
    /// # Errors
    /// What failed before the runtime was at work.
    pub(in crate::supervisor) fn exec_external(
        &mut self,
        (key, sequence): (Key, u64),
        start: StartExec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else {
            return Ok(());
        };
        let Some(external) = &container.external else { return Ok(()) };
        // The daemon's name: it becomes the name of files here.
        if !super::super::arguments::is_id(&start.exec) {
            return Err(failure("exec", format!("{:?} is not a name", start.exec), None));
        }
        let file = |suffix: &str| external.bundle.join(format!("{}.{suffix}", start.exec));
        let console = match start.process.terminal {
            Some(_) => Some(listen(external, &start.exec)?),
            None => None,
        };
        let wanted = Wanted {
            name: start.exec.clone(),
            container: key,
            sequence: Some(sequence),
            console,
            files: [file("json"), file("pid")],
        };
        let failed = |error: std::io::Error| failure("exec", error.to_string(), error.raw_os_error());
        regular::write(&wanted.files[0], describe(&start.process).to_string().as_bytes()).map_err(failed)?;
        let streams = match wanted.console {
            Some(_) => None,
            None => Some(streams(&start.streams, descriptors)?),
        };
        let call = call_exec(external, (&wanted, &container.id), (streams, start.deadline_ms))?;
        self.begin(call, Purpose::Exec(wanted));
        Ok(())
    }

    /// The runtime has made the process, or has not.
    pub(super) fn exec_made(&mut self, wanted: Wanted, outcome: Result<(), Failure>) {
        let adopted = call::adopt(wanted.pid_file());
        let process = adopted.and_then(|process| match self.minds(process.pid) {
            true => Err(format!("process {} of its pid file is another's", process.pid)),
            false => Ok(process),
        });
        let process = match (outcome, process) {
            (Ok(()), Ok(process)) => process,
            (Ok(()), Err(why)) => return self.refuse_exec(&wanted, failure("exec", why, None)),
            (Err(failure), process) => {
                // A runtime that was killed may have got as far as that.
                if let Ok(process) = process {
                    self.end(process);
                }
                return self.refuse_exec(&wanted, failure);
            }
        };
        let Some(sequence) = wanted.sequence else { return self.end(process) };
        if let Err(why) = self.place(wanted.container, process.pid) {
            self.end(process);
            return self.refuse_exec(&wanted, failure("exec", why, None));
        }
        let terminal = match wanted.console.as_ref().map(Console::terminal).transpose() {
            Ok(terminal) => terminal,
            Err(errno) => {
                self.end(process);
                let failure = Failure::system(crate::FailedStep::Terminal, errno, "console socket");
                return self.refuse_exec(&wanted, failure);
            }
        };
        let pid = process.pid;
        let exec = Exec {
            name: wanted.name.clone(),
            container: wanted.container,
            process,
            state: exec::State::Running,
        };
        self.add_exec(exec);
        self.reply_with(sequence, Reply::ExecStarted { pid }, terminal.into_iter().collect());
    }

    fn end(&mut self, process: crate::supervisor::process::Process) {
        let _ = process.signal_group(exec::KILL);
        process.kill();
        let key = self.key();
        self.leaving.push((key, Leaving::unasked(process)));
    }

    fn refuse_exec(&mut self, wanted: &Wanted, failure: Failure) {
        if let Some(sequence) = wanted.sequence {
            self.reply(sequence, Reply::Failed(failure));
        }
    }

    /// Ends the making of processes; whose name it is, or all of them.
    pub(in crate::supervisor) fn abandon_execs(&mut self, name: Option<&str>) -> bool {
        let mut found = false;
        for (_, work) in &mut self.work {
            if let Purpose::Exec(wanted) = &mut work.purpose
                && name.is_none_or(|name| wanted.name == name)
            {
                found = true;
                if name.is_none() {
                    wanted.sequence = None;
                }
                work.call.kill();
            }
        }
        found
    }
}

fn call_exec(
    external: &External,
    (wanted, container): (&Wanted, &str),
    (streams, deadline_ms): (Option<[OwnedFd; 3]>, u64),
) -> Result<Call, Failure> {
    let [description, pid] = &wanted.files;
    let mut arguments: Vec<OsString> = vec!["--process".into(), description.into(), "--detach".into()];
    arguments.extend(["--pid-file".into(), pid.into()]);
    if let Some(console) = &wanted.console {
        arguments.extend(["--console-socket".into(), console.path().into()]);
    }
    arguments.push(container.into());
    let until = Instant::now() + Duration::from_millis(deadline_ms);
    Call::begin(Order { external, verb: "exec", arguments, streams, name: &wanted.name, until })
}

fn streams(names: &[Stream], descriptors: Vec<OwnedFd>) -> Result<[OwnedFd; 3], Failure> {
    if names.len() != descriptors.len() {
        let why = format!("{} descriptors for {} streams", descriptors.len(), names.len());
        return Err(failure("exec", why, None));
    }
    let (mut stdin, mut stdout, mut stderr) = (None, None, None);
    for (name, descriptor) in names.iter().zip(descriptors) {
        let slot = match name {
            Stream::Stdin => &mut stdin,
            Stream::Stdout => &mut stdout,
            Stream::Stderr => &mut stderr,
        };
        *slot = Some(descriptor);
    }
    crate::supervisor::streams::complete([stdin, stdout, stderr])
}

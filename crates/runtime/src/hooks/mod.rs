//! Running hooks: a list of programs, one after the other, each bounded by its timeout and told the container's
//! state on standard input (runtime-spec, config.md, "POSIX-platform Hooks").
//!
//! Whoever runs them waits for them, so it is never the supervisor itself: those on the host are run by a copy
//! of it (`spawn`), those of a container by its first process before it executes the command.
//!
//! | moment | by | fails |
//! |---|---|---|
//! | prestart, createRuntime | a copy of the supervisor, while the first process waits before the change of root | the start |
//! | createContainer | the first process, right after | the start |
//! | startContainer | the first process, in the new root, as who it is going to be | the start |
//! | poststart | a copy of the supervisor, before anybody hears of the start | the start: the container is killed |
//! | poststop | a copy of the supervisor, when the exit was told | nothing: it is written to standard error |
//!
//! Not here: what hooks there are (`plan::hooks`).

mod process;

use std::path::Path;

use serde::Serialize;

use crate::container::Launched;
use crate::handshake::{self, Message, Reporter};
use crate::init;
use crate::plan::{Hook, Hooks};
use crate::sys::{CloneFlags, Cloned, clone_process};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure, FailureKind};

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Moment {
    pub(crate) const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// What the container's status is meanwhile (runtime.md, "State").
    fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }

    fn hooks(self, hooks: &Hooks) -> &[Hook] {
        match self {
            Self::Prestart => &hooks.prestart,
            Self::CreateRuntime => &hooks.create_runtime,
            Self::CreateContainer => &hooks.create_container,
            Self::StartContainer => &hooks.start_container,
            Self::Poststart => &hooks.poststart,
            Self::Poststop => &hooks.poststop,
        }
    }
}

/// What hooks read on standard input.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    annotations: &'a std::collections::BTreeMap<String, String>,
}

/// Whoever runs hooks, and for which container.
pub(crate) struct Runner<'a> {
    pub(crate) proof: &'a SingleThread,
    pub(crate) hooks: &'a Hooks,
    /// The container's first process, as the hooks see it; none when it has ended.
    pub(crate) pid: Option<i32>,
    /// Told which hook runs. Its end means that nobody waits for the hooks any more: the one that runs is killed.
    pub(crate) watched: Option<&'a Reporter>,
    /// What they find as their working directory.
    pub(crate) directory: &'a Path,
    /// What each does last before it executes its program.
    pub(crate) enter: &'a dyn Fn() -> Result<(), Failure>,
}

impl Runner<'_> {
    /// Runs the hooks of a moment, up to the first that fails.
    pub(crate) fn run(&self, moment: Moment) -> Result<(), Failure> {
        let hooks = moment.hooks(self.hooks);
        hooks.iter().enumerate().try_for_each(|hook| self.run_one(moment, hook))
    }

    /// Runs the hooks of a moment, all of them, and gives what failed.
    fn run_all(&self, moment: Moment) -> Vec<Failure> {
        let hooks = moment.hooks(self.hooks);
        hooks.iter().enumerate().filter_map(|hook| self.run_one(moment, hook).err()).collect()
    }

    fn run_one(&self, moment: Moment, (at, hook): (usize, &Hook)) -> Result<(), Failure> {
        let about = &self.hooks.about;
        let state = State {
            oci_version: &about.oci_version,
            id: &about.id,
            status: moment.status(),
            pid: self.pid,
            bundle: &about.bundle,
            annotations: &about.annotations,
        };
        let name = format!("{}[{at}] {:?}", moment.name(), hook.path);
        let failed = |why: &dyn std::fmt::Display| Failure {
            kind: FailureKind::System,
            step: FailedStep::Hook,
            errno: None,
            subject: format!("{name} {why}"),
        };
        let state = serde_json::to_vec(&state).map_err(|error| failed(&error))?;
        let tell = |name: Option<&str>| self.watched.iter().for_each(|reporter| reporter.hook(name));
        tell(Some(&name));
        process::run(self, hook, &state).map_err(|fate| failed(&fate))?;
        tell(None);
        Ok(())
    }
}

/// Runs the poststop hooks of a container that is gone, all of them, and gives what failed. Waits for them.
pub fn run_poststop(proof: &SingleThread, hooks: &Hooks) -> Vec<Failure> {
    let directory = &hooks.about.bundle;
    Runner { proof, hooks, pid: None, watched: None, directory, enter: &|| Ok(()) }.run_all(Moment::Poststop)
}

/// Has the hooks of some moments run on the host by a copy of this process. Its handshake says `Ready` when all have
/// run, and it ends with whatever runs when the handshake is dropped.
///
/// # Errors
/// The copy can't be made.
pub(crate) fn spawn(
    proof: &SingleThread,
    hooks: &Hooks,
    (moments, pid): (&[Moment], Option<i32>),
) -> Result<Launched, Failure> {
    let (parent_end, reporter) = handshake::pair()?;
    match clone_process(proof, CloneFlags::default(), None)
        .map_err(|errno| Failure::system(FailedStep::Clone, errno, "hooks"))?
    {
        Cloned::Child => {
            drop(parent_end);
            init::run_child(&reporter, || {
                let directory = &hooks.about.bundle;
                let watched = Some(&reporter);
                let runner = Runner { proof, hooks, pid, watched, directory, enter: &|| Ok(()) };
                for moment in moments {
                    match moment {
                        Moment::Poststop => runner.run_all(*moment).iter().for_each(|failure| {
                            let line = format!("container {:?}: {failure}\n", hooks.about.id);
                            let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
                        }),
                        _ => runner.run(*moment)?,
                    }
                }
                reporter
                    .send(&Message::Executing)
                    .map_err(|errno| Failure::system(FailedStep::Handshake, errno, ""))
            })
        }
        Cloned::Parent(child) => crate::container::finish(child, parent_end),
    }
}

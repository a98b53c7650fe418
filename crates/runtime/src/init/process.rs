//! From a child inside its container to the process that was asked for: streams, limits, rights, command.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, fchdir, getcwd, set_dumpable_behavior, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::command::Command;
use super::handles::Procfs;
use super::path::Root;
use super::{Step, credentials, devices, stdio};
use crate::cgroup::Cgroup;
use crate::container::{LaunchRequest, Streams, Until};
use crate::handshake::{Halt, Message, Reporter};
use crate::hooks::{Moment, Runner};
use crate::plan::{Hooks, IdMappings, ProcessPlan, Scheduling};
use crate::thread::SingleThread;
use crate::{FailedStep, Failure, FailureKind, sys};

/// What is done, in this order.
pub(crate) fn steps<'a>() -> [Step<Process<'a>>; 17] {
    [
        Process::set_up_streams,
        Process::let_go_of_descriptors,
        Process::limit_resources,
        Process::schedule,
        Process::label,
        Process::enter_working_directory,
        |process| credentials::drop_bounding(process.plan),
        |process| credentials::change_user(process.plan),
        Process::enter_working_directory_as_user,
        Process::clean_up,
        Process::wait_for_start,
        Process::run_start_hooks,
        Process::find_command,
        |process| credentials::set_capabilities(process.plan),
        |process| credentials::give_up_privileges_by_exec(process.plan),
        // From here on a filter of the user's may be in force, that knows nothing of what this program needs: nothing but execve is to follow.
        |process| credentials::install_filter(process.plan),
        Process::execute,
    ]
}

/// A process in the making.
pub(crate) struct Process<'a> {
    pub(crate) plan: &'a ProcessPlan,
    cgroup: &'a Cgroup,
    streams: &'a Streams<'a>,
    reporter: &'a Reporter,
    procfs: Option<Procfs>,
    /// Device and inode of this very program.
    own_program: Option<(u64, u64)>,
    labelled: bool,
    /// The container's root, once it is entered.
    pub(super) root: Option<Root>,
    null: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    entered: bool,
    command: Option<Command>,
    before: Option<BeforeStart<'a>>,
}

/// What comes before the command of a container's first process, where anything does.
#[derive(Clone, Copy)]
struct BeforeStart<'a> {
    proof: &'a SingleThread,
    hooks: Option<&'a Hooks>,
    until: Until,
}

impl<'a> Process<'a> {
    pub(crate) fn new(
        plan: &'a ProcessPlan,
        cgroup: &'a Cgroup,
        streams: &'a Streams<'a>,
        reporter: &'a Reporter,
    ) -> Self {
        Self {
            plan,
            cgroup,
            streams,
            reporter,
            procfs: None,
            own_program: None,
            labelled: false,
            root: None,
            null: None,
            terminal: None,
            entered: false,
            command: None,
            before: None,
        }
    }

    /// With what a request wants done before the command is executed.
    pub(crate) fn before_start(self, proof: &'a SingleThread, request: &LaunchRequest<'a>) -> Self {
        let (hooks, until) = (request.plan.hooks.as_deref(), request.until);
        Self { before: Some(BeforeStart { proof, hooks, until }), ..self }
    }

    /// Waits until the parent lets it go on.
    pub(super) fn wait(&self, halt: Halt) -> Result<(), Failure> {
        self.reporter.wait(halt)
    }

    /// Runs hooks of a moment, in a directory, which do something last before they execute their programs.
    pub(super) fn run_hooks(
        &self,
        moment: Moment,
        (directory, enter): (&Path, &dyn Fn() -> Result<(), Failure>),
    ) -> Result<(), Failure> {
        let Some(BeforeStart { proof, hooks: Some(hooks), .. }) = self.before else { return Ok(()) };
        // As it is in here: the pid namespace may be its own.
        let pid = Some(rustix::process::getpid().as_raw_pid());
        Runner { proof, hooks, pid, watched: Some(self.reporter), directory, enter }.run(moment)
    }

    pub(super) fn procfs(&self) -> Result<&Procfs, Failure> {
        self.procfs.as_ref().ok_or_else(|| super::launch::missing("procfs"))
    }

    pub(super) fn root(&self) -> Result<&Root, Failure> {
        self.root.as_ref().ok_or_else(|| super::launch::missing("root"))
    }

    pub(super) fn terminal(&self) -> Result<&OwnedFd, Failure> {
        self.terminal.as_ref().ok_or_else(|| super::launch::missing("terminal"))
    }

    /// Sheds what was the supervisor's, and takes along what is needed of the host.
    pub(super) fn prepare(&mut self) -> Result<(), Failure> {
        let failed = |errno| Failure::system(FailedStep::Prepare, errno, "");
        // Until it executes something of the container's, nobody in there may look into this process or open
        // its executable through /proc (CVE-2016-9962, CVE-2019-5736).
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
        sys::reset_signal_dispositions();
        umask(Mode::empty());
        let procfs = Procfs::open()?;
        self.own_program = procfs.executable().ok();
        self.procfs = Some(procfs);
        self.null = Some(stdio::open_null()?);
        Ok(())
    }

    pub(super) fn join_cgroup(&mut self) -> Result<(), Failure> {
        self.cgroup
            .join_legacy_as_single_thread()
            .map_err(|(errno, path)| Failure::system(FailedStep::JoinCgroup, errno, path.to_string_lossy()))
    }

    /// Best effort: going below what the supervisor has takes CAP_SYS_RESOURCE, and the container starts
    /// without.
    pub(super) fn adjust_oom_score(&mut self) -> Result<(), Failure> {
        let Some(wanted) = self.plan.oom_score_adj else { return Ok(()) };
        match self.procfs()?.write("self/oom_score_adj", wanted.to_string().as_bytes()) {
            Ok(()) | Err(Errno::ACCESS | Errno::PERM) => Ok(()),
            Err(errno) => Err(Failure::system(FailedStep::OomScore, errno, wanted.to_string())),
        }
    }

    /// Gives the streams to the user, from outside of the user namespace: inside nobody may, since the host's
    /// root, whose they are, is nobody there.
    pub(super) fn give_streams(&self, ids: &IdMappings) -> Result<(), Failure> {
        let unmapped = |kind: &str, id: u32| {
            Failure::system(FailedStep::User, Errno::INVAL, format!("{kind} {id}, which is not mapped"))
        };
        let uid = ids.outside_uid(self.plan.uid).ok_or_else(|| unmapped("user", self.plan.uid))?;
        ids.outside_gid(self.plan.gid).ok_or_else(|| unmapped("group", self.plan.gid))?;
        stdio::give_away(self.streams, uid)
    }

    /// Opens the terminal, if there is to be one, and hands its other side to the supervisor.
    pub(super) fn open_terminal(&mut self) -> Result<(), Failure> {
        let Some(size) = self.plan.terminal else { return Ok(()) };
        let pair = devices::open_terminal(self.root()?, size)?;
        self.reporter
            .send_with(&Message::Terminal, Some(pair.master.as_fd()))
            .map_err(|errno| Failure::system(FailedStep::Handshake, errno, ""))?;
        self.terminal = Some(pair.slave);
        Ok(())
    }

    fn set_up_streams(&mut self) -> Result<(), Failure> {
        // A session of its own, so that no signal of a terminal of the host's reaches it.
        rustix::process::setsid().map_err(|errno| Failure::system(FailedStep::Stdio, errno, "session"))?;
        let null = self.null.take().ok_or_else(|| super::launch::missing("null device"))?;
        match self.terminal.take() {
            Some(terminal) => stdio::use_terminal(&terminal, self.plan.uid),
            None => stdio::use_streams(self.streams, &null, self.plan.uid),
        }
    }

    /// Closes what was the supervisor's. How many that are must not count for the limits that come next: a process that may have ten
    /// files open could open none here.
    fn let_go_of_descriptors(&mut self) -> Result<(), Failure> {
        let own = [self.reporter.as_fd(), self.root()?.as_fd()];
        let procfs = self.procfs.iter().map(AsFd::as_fd);
        sys::close_all_but(own.into_iter().chain(procfs))
            .map_err(|errno| Failure::system(FailedStep::Descriptors, errno, ""))
    }

    fn limit_resources(&mut self) -> Result<(), Failure> {
        crate::open_files::give_back()
            .map_err(|errno| Failure::system(FailedStep::ResourceLimit, errno, "RLIMIT_NOFILE"))?;
        self.plan.rlimits.iter().try_for_each(|limit| {
            sys::set_resource_limit(limit)
                .map_err(|errno| Failure::system(FailedStep::ResourceLimit, errno, limit.name()))
        })
    }

    /// A process that is cloned afterwards has them too, and need not do it again.
    pub(super) fn label(&mut self) -> Result<(), Failure> {
        if !self.labelled {
            credentials::label(self.procfs()?, self.plan)?;
            self.labelled = true;
        }
        Ok(())
    }

    /// As root: some classes are not for everybody.
    fn schedule(&mut self) -> Result<(), Failure> {
        let Scheduling { personality, io_priority, policy } = &self.plan.scheduling;
        let failed = |what: &'static str| move |errno| Failure::system(FailedStep::Schedule, errno, what);
        if let Some(domain) = personality {
            sys::set_personality(*domain).map_err(failed("personality"))?;
        }
        if let Some(priority) = io_priority {
            sys::set_io_priority(*priority).map_err(failed("priority of input and output"))?;
        }
        if let Some(policy) = policy {
            sys::set_policy(policy).map_err(failed("policy"))?;
        }
        Ok(())
    }

    /// Closes what the container is not to find in a process that it sees: all but the root, the streams, and what it is
    /// reported by, `starter` among it.
    pub(super) fn let_go_of_the_host(&mut self, starter: BorrowedFd<'_>) -> Result<(), Failure> {
        self.procfs = None;
        let null = self.null.as_ref().ok_or_else(|| super::launch::missing("null device"))?;
        let failed = |errno| Failure::system(FailedStep::Descriptors, errno, "");
        let streams = [self.streams.stdin, self.streams.stdout, self.streams.stderr];
        let is_stream = |number| streams.iter().flatten().any(|stream| stream.as_raw_fd() == number);
        type Duplicate = fn(&OwnedFd) -> Result<(), Errno>;
        let standard: [Duplicate; 3] =
            [|null| dup2_stdin(null), |null| dup2_stdout(null), |null| dup2_stderr(null)];
        for (number, duplicate) in (0..).zip(standard) {
            // A supervisor that was started without one may have been handed a stream under its number.
            if !is_stream(number) {
                duplicate(null).map_err(failed)?;
            }
        }
        let own = [self.reporter.as_fd(), self.root()?.as_fd(), null.as_fd(), starter];
        sys::close_all_but(streams.into_iter().flatten().chain(own)).map_err(failed)
    }

    /// As root, which may enter every directory of the image's.
    fn enter_working_directory(&mut self) -> Result<(), Failure> {
        match self.enter_cwd() {
            // A network filesystem may trust the user and not root.
            Err(Errno::ACCESS) if self.plan.uid != 0 => Ok(()),
            Err(errno) => Err(self.cwd_failure(errno)),
            Ok(()) => {
                self.entered = true;
                self.check_cwd()
            }
        }
    }

    fn enter_working_directory_as_user(&mut self) -> Result<(), Failure> {
        if self.entered {
            return Ok(());
        }
        self.enter_cwd().map_err(|errno| self.cwd_failure(errno))?;
        self.check_cwd()
    }

    fn enter_cwd(&self) -> Result<(), Errno> {
        let root = self.root.as_ref().ok_or(Errno::INVAL)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        fchdir(root.open(&self.plan.cwd, flags, ResolveFlags::empty())?)
    }

    /// A directory that was reached by a leaked descriptor has no path inside the root (CVE-2024-21626).
    fn check_cwd(&self) -> Result<(), Failure> {
        let inside = getcwd(Vec::new())
            .map(|path| path.to_bytes().first() == Some(&b'/'))
            .map_err(|errno| self.cwd_failure(errno))?;
        if inside { Ok(()) } else { Err(self.cwd_failure(Errno::XDEV)) }
    }

    fn cwd_failure(&self, errno: Errno) -> Failure {
        Failure::system(FailedStep::WorkingDirectory, errno, path_text(&self.plan.cwd))
    }

    /// The last of the supervisor's: its mask of signals, its file mode mask, its descriptors.
    fn clean_up(&mut self) -> Result<(), Failure> {
        umask(Mode::from_raw_mode(self.plan.umask));
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(|errno| {
            Failure::system(FailedStep::Prepare, crate::handshake::to_rustix(errno), "signals")
        })?;
        sys::close_on_exec_above_stdio().map_err(|errno| Failure::system(FailedStep::Descriptors, errno, ""))
    }

    fn wait_for_start(&mut self) -> Result<(), Failure> {
        match self.before {
            Some(BeforeStart { until: Until::Created, .. }) => self.wait(Halt::Created),
            _ => Ok(()),
        }
    }

    /// They are programs of the image's, and get the rights of its process.
    fn run_start_hooks(&mut self) -> Result<(), Failure> {
        let Some(hooks) = self.before.and_then(|before| before.hooks) else { return Ok(()) };
        for hook in &hooks.start_container {
            Command::of_hook(hook)?.check(self.own_program)?;
        }
        self.run_hooks(
            Moment::StartContainer,
            (Path::new("."), &|| {
                umask(Mode::from_raw_mode(self.plan.umask));
                credentials::set_capabilities(self.plan)?;
                credentials::give_up_privileges_by_exec(self.plan)?;
                credentials::install_filter(self.plan)
            }),
        )
    }

    fn find_command(&mut self) -> Result<(), Failure> {
        self.command = Some(Command::find(self.plan, self.own_program)?);
        // A supervisor that is gone would never hear of this process: it ends here instead.
        self.reporter
            .send(&Message::Executing)
            .map_err(|errno| Failure::system(FailedStep::Handshake, errno, ""))
    }

    fn execute(&mut self) -> Result<(), Failure> {
        let command = self.command.take().ok_or_else(|| super::launch::missing("command"))?;
        Err(command.execute())
    }
}

pub(super) fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A failure that no system call made.
pub(super) fn outside(step: FailedStep, subject: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::Unsafe, step, errno: None, subject: subject.into() }
}

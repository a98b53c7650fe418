//! The supervisor: one small process per pod, parent of all its containers, which outlives the daemon.
//!
//! One thread and one loop over poll(2). Everything that it waits for is a descriptor: the socket on which
//! the daemon calls, pidfds, the handshakes of starts, the pipes that containers write to. It never waits for
//! the daemon, and nothing that a container does makes it grow.
//!
//! ```text
//!                 Start                 execve               exit              output drained
//!   (unknown) ─────────────► Starting ─────────► Running ─────────► Draining ─────────────────► Exited ──Forget──► (unknown)
//!                               │ failed, or too late                           exit.json, then the event
//!                               └────────► (unknown), told to whoever asked for the start
//! ```
//!
//! It ends by [`Request::Shutdown`](crate::wire::Request::Shutdown) alone. SIGTERM is blocked: a service
//! manager that stops the daemon's unit would otherwise end the pods, which must survive that.
//!
//! Not here: what a container is made of (`container`), and what is asked and answered (`wire`).

mod arguments;
mod attachments;
mod births;
mod clock;
mod container;
mod ends;
mod event_loop;
mod exec;
mod external;
mod hooks;
mod kin;
mod lines;
mod log;
mod placement;
mod process;
mod requests;
mod session;
mod starts;
mod streams;

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::SocketType;

use crate::sys;
use crate::thread::SingleThread;
use crate::wire::Listener;

use placement::Side;

pub use arguments::{Arguments, Begin, UsageError};

/// Why a supervisor could not begin.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Its standard input, or its directory, is not what a daemon gives it.
    #[error("{0}")]
    Misused(&'static str),
    /// A step of becoming a supervisor.
    #[error("cannot {step}")]
    Begin {
        /// The step.
        step: &'static str,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// Its cgroup can't be joined, or its threads not be counted.
    #[error(transparent)]
    Runtime(#[from] crate::Error),
    /// The loop itself failed: without it nothing can be minded.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
}

/// What every part of the loop needs to know.
#[derive(Debug)]
pub(crate) struct Place {
    /// The pod's id.
    pub(crate) pod: String,
    /// The pod's directory.
    pub(crate) directory: PathBuf,
    /// The OOM score adjustment that it was started with: what a process without one of its own gets.
    pub(crate) oom_score_adj: Option<i32>,
}

impl Place {
    /// Where a container's records lie.
    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.directory.join("containers").join(id)
    }
}

/// Minds a pod until it is shut down. With a version 2 cgroup to enter it does so in a copy of this process,
/// and returns at once in this one: who minds the pod is what [`Reply::Welcome`](crate::wire::Reply::Welcome)
/// says.
///
/// # Errors
/// [`SupervisorError`]; nothing has been started then.
pub fn run(mut arguments: Arguments) -> Result<(), SupervisorError> {
    // Before anything is opened: a daemon that leaks a descriptor must not have it kept open by every pod.
    sys::close_inherited();
    // Executed by a descriptor, it would be called by its number. The kernel keeps 15 bytes, as of a path.
    let _best_effort = rustix::thread::set_name(c"knarr-supervisor");
    check_surroundings(&arguments)?;
    let proof = SingleThread::prove()?;
    let begin = |step: &'static str| {
        move |errno: rustix::io::Errno| SupervisorError::Begin { step, cause: errno.into() }
    };
    if arguments.begin == Begin::Called {
        placement::wait_for_call()
            .map_err(|cause| SupervisorError::Begin { step: "wait for a call", cause })?;
    }
    // Taken: with a dozen hierarchies it is a page of memory that nobody needs later.
    if let Some(cgroup) = arguments.cgroup.take()
        && placement::enter(&proof, &cgroup)? == Side::Starter
    {
        return Ok(());
    }
    // A session of its own: what is typed at the daemon's terminal is not for the pods.
    match rustix::process::setsid() {
        // EPERM: it leads a process group already, which is as good.
        Ok(_) | Err(Errno::PERM) => {}
        Err(errno) => return Err(begin("begin a session")(errno)),
    }
    // Modes are given explicitly wherever a file is made.
    rustix::process::umask(Mode::RWXO.union(Mode::WGRP));
    block_signals()
        .map_err(|errno| begin("block signals")(rustix::io::Errno::from_raw_os_error(errno as i32)))?;
    rustix::process::chdir("/").map_err(begin("change to the root directory"))?;
    // Before anything is opened for a pod: an exec holds one, a container four or five, a client two.
    crate::open_files::raise(arguments.open_files);
    let oom_score_adj = spare_from_memory_shortage();
    let listener = take_listener()
        .map_err(|cause| SupervisorError::Begin { step: "take the listening socket", cause })?;
    let _each_for_itself = crate::init::keep_null();
    let place = Place { pod: arguments.pod, directory: arguments.directory, oom_score_adj };
    event_loop::Supervisor::new(place, listener, proof).run().map_err(SupervisorError::Wait)
}

/// Makes a user namespace, says on standard output where it can be opened, and holds it until standard input ends:
/// for a daemon that tries out what this machine can do, and has several threads, with which nothing may be cloned. Where the
/// kernel makes none, its error number is said instead.
///
/// # Errors
/// [`SupervisorError`].
pub fn hold_user_namespace() -> Result<(), SupervisorError> {
    let begin = |step: &'static str| move |cause: io::Error| SupervisorError::Begin { step, cause };
    let proof = SingleThread::prove()?;
    let mappings = vec![crate::plan::IdMapping { inside: 0, outside: TRIAL, length: 65_536 }];
    let ids = crate::plan::IdMappings { uids: mappings.clone(), gids: mappings };
    let say = |line: String| {
        let said = rustix::io::write(rustix::stdio::stdout(), line.as_bytes());
        said.map(drop).map_err(|errno| begin("say where it is")(errno.into()))
    };
    let namespace = match crate::namespaces::user_namespace(&proof, &ids) {
        Ok(namespace) => namespace,
        Err(failure) => {
            failure.errno.map_or(Ok(()), |errno| say(format!("{errno}\n")))?;
            return Err(begin("make a user namespace")(io::Error::other(failure)));
        }
    };
    say(format!("/proc/{}/fd/{}\n", std::process::id(), namespace.as_raw_fd()))?;
    let ended = rustix::io::retry_on_intr(|| rustix::io::read(rustix::stdio::stdin(), &mut [0; 1]));
    ended.map(drop).map_err(|errno| begin("wait")(errno.into()))
}

/// The argument that asks for [`hold_user_namespace`].
pub const HOLD_USER_NAMESPACE: &str = "--hold-user-namespace";

/// Whose the host's root is in a trial; any number would do.
const TRIAL: u32 = 1 << 30;

/// Everything that would end or stop the process by default. The mask is reset in each child.
fn block_signals() -> Result<(), nix::errno::Errno> {
    let mut blocked = SigSet::empty();
    let ending =
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
    let stopping = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGPIPE, Signal::SIGALRM];
    // Of a log that reaches RLIMIT_FSIZE: the write fails as on a full disk.
    let of_files = [Signal::SIGXFSZ];
    for signal in ending.into_iter().chain(stopping).chain(of_files) {
        blocked.add(signal);
    }
    blocked.thread_block()
}

/// What a daemon has to have prepared.
fn check_surroundings(arguments: &Arguments) -> Result<(), SupervisorError> {
    use rustix::net::sockopt::{socket_acceptconn, socket_type};
    // Not the standard library's, which makes a buffer for it.
    let stdin = rustix::stdio::stdin();
    if socket_type(stdin) != Ok(SocketType::SEQPACKET) || socket_acceptconn(stdin) != Ok(true) {
        return Err(SupervisorError::Misused("standard input is not a listening SOCK_SEQPACKET socket"));
    }
    if !arguments.directory.is_dir() {
        return Err(SupervisorError::Misused("--dir is not a directory"));
    }
    Ok(())
}

/// The kernel is to look for memory elsewhere: without its supervisor a pod is lost, and what it has is too little to help anybody.
/// At this value it is spared also where a cgroup above is killed as a whole (`memory.oom.group`). Best effort, for lowering the value
/// takes CAP_SYS_RESOURCE. Returns the value before, which is what containers get that
/// have none of their own.
fn spare_from_memory_shortage() -> Option<i32> {
    const FILE: &str = "/proc/self/oom_score_adj";
    const SCORE: &[u8] = b"-1000";
    let before = std::fs::read_to_string(FILE).ok()?.trim().parse().ok()?;
    std::fs::write(FILE, SCORE).ok().map(|()| before)
}

/// The listening socket is standard input; afterwards that is /dev/null, so that no child finds the socket
/// there.
fn take_listener() -> io::Result<Listener> {
    let socket = rustix::stdio::stdin().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(Listener::from_descriptor(socket))
}

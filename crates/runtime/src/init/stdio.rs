//! Descriptors 0, 1 and 2.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fchown, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::devices::is_null;
use super::process::outside;
use crate::container::Streams;
use crate::mount::apply_attributes;
use crate::plan::{Access, MountAttributes};
use crate::{FailedStep, Failure};

/// What children open the null device by, once it is kept.
static NULL: OnceLock<OwnedFd> = OnceLock::new();

/// Keeps the mount of [`null_mount`] for all children that are cloned from here on: each would make one for itself, and to let go
/// of a mount waits for an RCU period.
///
/// # Errors
/// Why there is none; children try for themselves then.
pub(crate) fn keep_null() -> Result<(), Failure> {
    if NULL.get().is_none() {
        let _kept_meanwhile = NULL.set(null_mount()?);
    }
    Ok(())
}

/// The host's null device, checked to be it, through a read-only mount of its own that is attached nowhere: a container's
/// root that changes mode, owner or times of its standard input would else change them for the whole host. Opened anew for
/// everybody: containers don't share flags.
pub(crate) fn open_null() -> Result<OwnedFd, Failure> {
    let open = |mount: &OwnedFd| {
        let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
        openat(CWD, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Failure::system(FailedStep::Prepare, errno, "/dev/null"))
    };
    match NULL.get() {
        Some(kept) => open(kept),
        None => open(&null_mount()?),
    }
}

fn null_mount() -> Result<OwnedFd, Failure> {
    let failed = |errno| Failure::system(FailedStep::Prepare, errno, "/dev/null");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let mount = open_tree(CWD, "/dev/null", flags).map_err(failed)?;
    if !is_null(&mount).map_err(failed)? {
        return Err(outside(FailedStep::Prepare, "/dev/null"));
    }
    let attributes = MountAttributes { access: Access::ReadOnly, ..MountAttributes::default() };
    apply_attributes(mount.as_fd(), &attributes).map_err(failed)?;
    Ok(mount)
}

pub(super) fn use_streams(streams: &Streams<'_>, null: &OwnedFd, uid: u32) -> Result<(), Failure> {
    let pick = |stream: &Option<BorrowedFd<'_>>| stream.unwrap_or(null.as_fd()).try_clone_to_owned();
    let named = |name: &'static str| {
        move |error: std::io::Error| {
            Failure::system(FailedStep::Stdio, Errno::from_io_error(&error).unwrap_or(Errno::BADF), name)
        }
    };
    // Copies above 2 first: one of the three may itself be descriptor 0, 1 or 2.
    let stdin = pick(&streams.stdin).map_err(named("stdin"))?;
    let stdout = pick(&streams.stdout).map_err(named("stdout"))?;
    let stderr = pick(&streams.stderr).map_err(named("stderr"))?;
    install([&stdin, &stdout, &stderr], uid)
}

pub(super) fn use_terminal(terminal: &OwnedFd, uid: u32) -> Result<(), Failure> {
    rustix::process::ioctl_tiocsctty(terminal)
        .map_err(|errno| Failure::system(FailedStep::Terminal, errno, "controlling terminal"))?;
    install([terminal, terminal, terminal], uid)
}

fn install(streams: [&OwnedFd; 3], uid: u32) -> Result<(), Failure> {
    let [stdin, stdout, stderr] = streams;
    for (name, stream, result) in [
        ("stdin", stdin, dup2_stdin(stdin)),
        ("stdout", stdout, dup2_stdout(stdout)),
        ("stderr", stderr, dup2_stderr(stderr)),
    ] {
        result.map_err(|errno| Failure::system(FailedStep::Stdio, errno, name))?;
        give_to(stream, uid).map_err(|errno| Failure::system(FailedStep::Stdio, errno, name))?;
    }
    Ok(())
}

/// Gives the streams that are ours to give to a user of the host's.
pub(super) fn give_away(streams: &Streams<'_>, uid: u32) -> Result<(), Failure> {
    for (name, stream) in [("stdin", streams.stdin), ("stdout", streams.stdout), ("stderr", streams.stderr)] {
        let given = stream.map_or(Ok(()), |stream| give_to(stream, uid));
        given.map_err(|errno| Failure::system(FailedStep::Stdio, errno, name))?;
    }
    Ok(())
}

/// A program that opens /dev/stdout anew must be allowed to, whoever it runs as. Only what is ours to give:
/// pipes and terminals.
fn give_to(stream: impl AsFd, uid: u32) -> Result<(), Errno> {
    let stream = stream.as_fd();
    let stat = fstat(stream)?;
    let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
    if stat.st_uid == uid || !(is_pipe || rustix::termios::isatty(stream)) {
        return Ok(());
    }
    fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(stat.st_gid)))
}

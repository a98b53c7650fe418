//! Talking to the kernel about mounts: contexts of filesystems, places by descriptor, and mount namespaces that only
//! threads of ours are in.
//!
//! Not here: what is mounted (`layers::mounts`, `rootfs`).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags};

/// A step that failed, and why. The step is a verb that something can follow.
pub(crate) type Failure = (&'static str, io::Error);

/// A filesystem that is being configured.
pub(crate) struct Context(OwnedFd);

impl Context {
    pub(crate) fn open(filesystem: &str) -> Result<Context, Failure> {
        let opened = rustix::mount::fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC);
        opened.map(Context).map_err(|errno| ("open a context for", errno.into()))
    }

    pub(crate) fn set(&self, key: &str, value: &str) -> rustix::io::Result<()> {
        rustix::mount::fsconfig_set_string(&self.0, key, value)
    }

    pub(crate) fn set_fd(&self, key: &str, value: &OwnedFd) -> rustix::io::Result<()> {
        rustix::mount::fsconfig_set_fd(&self.0, key, value)
    }

    pub(crate) fn set_flag(&self, key: &str) -> rustix::io::Result<()> {
        rustix::mount::fsconfig_set_flag(&self.0, key)
    }

    /// Makes the filesystem and a mount of it that is attached nowhere, once it has been configured with the outcome
    /// `configured`.
    pub(crate) fn mount(
        self,
        configured: rustix::io::Result<()>,
        attributes: MountAttrFlags,
    ) -> Result<OwnedFd, Failure> {
        configured.map_err(|errno| ("configure", explained(&self.0, errno)))?;
        let created = rustix::mount::fsconfig_create(&self.0);
        created.map_err(|errno| ("create", explained(&self.0, errno)))?;
        let mount = rustix::mount::fsmount(&self.0, FsMountFlags::FSMOUNT_CLOEXEC, attributes);
        mount.map_err(|errno| ("mount", explained(&self.0, errno)))
    }
}

/// The errno with what the kernel wrote about it into the context (fsopen(2): one message a read).
fn explained(context: impl AsFd, errno: Errno) -> io::Error {
    let mut messages = Vec::new();
    let mut buffer = [0u8; 1024];
    while let Ok(count) = rustix::io::read(&context, &mut buffer) {
        if count == 0 || messages.len() > 16 {
            break;
        }
        // A level and a space come first: "e overlay: …".
        let message = String::from_utf8_lossy(&buffer[..count]);
        messages.push(message.get(2..).unwrap_or(&message).trim().to_owned());
    }
    let plain = io::Error::from(errno);
    if messages.is_empty() {
        return plain;
    }
    Explained { plain, messages: messages.join("; ") }.into()
}

/// A system's error with the kernel's own words.
#[derive(Debug, thiserror::Error)]
#[error("{plain}: {messages}")]
struct Explained {
    plain: io::Error,
    messages: String,
}

impl From<Explained> for io::Error {
    fn from(explained: Explained) -> io::Error {
        io::Error::new(explained.plain.kind(), explained)
    }
}

/// The errno of an error, also of one with the kernel's own words.
pub(crate) fn errno_of(cause: &io::Error) -> Option<Errno> {
    let inner = cause.get_ref().and_then(|inner| inner.downcast_ref::<Explained>());
    let plain = inner.map_or(cause, |explained| &explained.plain);
    plain.raw_os_error().map(Errno::from_raw_os_error)
}

/// A path to what a descriptor of this process is open on, without any byte that options would have to escape.
pub(crate) fn proc_path(place: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", place.as_fd().as_raw_fd())
}

/// Opens a directory as a place: to name it, not to read it.
pub(crate) fn open_place(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the directory behind a descriptor by its path, in the mount namespace of this thread.
pub(crate) fn reopen(dir: &impl AsFd) -> io::Result<OwnedFd> {
    open_place(&std::fs::read_link(proc_path(dir))?)
}

/// A mount namespace that no process is in: threads go into it for a moment. What is mounted there nobody else sees; it
/// ends with this value, and with the process however that ends.
#[derive(Debug)]
pub(crate) struct Stage(OwnedFd);

const MAKING: &str = "make a mount namespace for";

impl Stage {
    /// Makes one that begins as a copy of this process's namespace. What is mounted and unmounted on the host later shows
    /// in it too, so that it keeps nothing of the host's busy.
    pub(crate) fn new() -> Result<Stage, Failure> {
        in_thread(|| {
            unshare(MountPropagationFlags::DOWNSTREAM)?;
            let path = format!("/proc/self/task/{}/ns/mnt", rustix::thread::gettid().as_raw_nonzero());
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let namespace = rustix::fs::open(path, flags, Mode::empty());
            namespace.map(Stage).map_err(|errno| (MAKING, errno.into()))
        })
    }

    /// Does work on a thread in this namespace.
    pub(crate) fn within<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        in_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// Brings the calling thread, which shares no root or working directory with others any more, into this namespace.
    fn enter(&self) -> Result<(), Failure> {
        let failed = |errno: nix::Error| ("go into the mount namespace for", errno.into());
        nix::sched::unshare(CloneFlags::CLONE_FS).map_err(failed)?;
        nix::sched::setns(&self.0, CloneFlags::CLONE_NEWNS).map_err(failed)
    }
}

/// Does work on a thread in a mount namespace of its own, from which nothing reaches the host's: a copy of `stage`, or of
/// this process's.
pub(crate) fn in_private_namespace<T: Send>(
    stage: Option<&Stage>,
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    in_thread(|| {
        stage.map_or(Ok(()), Stage::enter)?;
        unshare(MountPropagationFlags::PRIVATE)?;
        work()
    })
}

fn unshare(propagation: MountPropagationFlags) -> Result<(), Failure> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| (MAKING, errno.into()))?;
    rustix::mount::mount_change("/", propagation | MountPropagationFlags::REC)
        .map_err(|errno| (MAKING, errno.into()))
}

fn in_thread<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(outcome) => outcome,
        Err(_) => Err(("mount", io::Error::other("the mounting thread failed"))),
    })
}

/// Whether this is a kernel's answer to a parameter that it doesn't know in this form. Before overlay took descriptors,
/// one opened only as a place was no descriptor to `fsconfig` (6.12: EBADF).
pub(crate) fn is_unknown(cause: &io::Error) -> bool {
    matches!(errno_of(cause), Some(Errno::INVAL | Errno::BADF))
}

/// Attaches a mount on a directory, in the mount namespace of this thread.
pub(crate) fn attach(mount: &OwnedFd, dir: &Path) -> Result<(), Failure> {
    let place = open_place(dir).map_err(|cause| ("open", cause))?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", both).map_err(|errno| ("attach", errno.into()))
}

/// A clone of the mount that a place is on, with this place as its root, attached nowhere.
pub(crate) fn clone_mount(place: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    use rustix::mount::OpenTreeFlags as Flags;
    rustix::mount::open_tree(
        place,
        "",
        Flags::OPEN_TREE_CLONE | Flags::OPEN_TREE_CLOEXEC | Flags::AT_EMPTY_PATH,
    )
}

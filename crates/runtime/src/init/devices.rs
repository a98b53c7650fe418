//! Device nodes, the links beside them, and terminals.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fstat, fstatfs, makedev, mknodat,
    openat, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::filesystems::{clone_mount, make, place};
use super::path::{Kind, Root};
use super::process::{outside, path_text};
use crate::plan::{DeviceKind, DeviceNode, IdMappings, MountAttributes, TerminalSize};
use crate::{FailedStep, Failure};

/// Magic number of devpts (linux/magic.h).
const DEVPTS: rustix::fs::FsWord = 0x1cd1;

/// Both sides of a terminal.
pub(super) struct TerminalPair {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Whether a descriptor is of the null device (1:3 in admin-guide/devices.txt), whatever it is called
/// (CVE-2025-31133).
pub(super) fn is_null(place: &OwnedFd) -> Result<bool, Errno> {
    is_character_device(place, makedev(1, 3))
}

fn is_character_device(place: &OwnedFd, device: Dev) -> Result<bool, Errno> {
    let stat = fstat(place)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == device)
}

pub(super) fn node(root: &Root, node: &DeviceNode) -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::Device, errno, path_text(&node.path));
    let (parent, name) = root.parent(&node.path).map_err(failed)?;
    make_node(&parent, name, node, (node.uid, node.gid)).map_err(failed)
}

/// Makes the nodes for a container in whose user namespace nobody may: on a filesystem of the host's that is
/// attached nowhere, each as a mount of its own. Where the kernel wants it (before 6.15), the process gets a mount
/// namespace of its own for that.
pub(super) fn make_outside<'n>(
    nodes: impl Iterator<Item = &'n DeviceNode>,
    ids: &IdMappings,
) -> Result<VecDeque<OwnedFd>, Failure> {
    let mut workshop = None;
    let made = nodes
        .enumerate()
        .map(|(number, node)| {
            let failed = |errno| Failure::system(FailedStep::Device, errno, path_text(&node.path));
            let unmapped = || failed(Errno::INVAL);
            let owner = (
                ids.outside_uid(node.uid).or_else(|| ids.outside_uid(0)).ok_or_else(unmapped)?,
                ids.outside_gid(node.gid).or_else(|| ids.outside_gid(0)).ok_or_else(unmapped)?,
            );
            if workshop.is_none() {
                workshop = Some(Workshop::new().map_err(failed)?);
            }
            let workshop = workshop.as_mut().ok_or_else(|| failed(Errno::INVAL))?;
            workshop.make(&number.to_string(), node, owner).map_err(failed)
        })
        .collect::<Result<_, _>>()?;
    if let Some(workshop) = workshop {
        workshop.clear().map_err(|errno| Failure::system(FailedStep::Device, errno, "/dev"))?;
    }
    Ok(made)
}

/// A filesystem on which nodes are made, of which each is cloned as a mount.
struct Workshop {
    base: OwnedFd,
    /// Whether it lies over /dev, in a mount namespace of this process' own.
    attached: bool,
}

impl Workshop {
    fn new() -> Result<Self, Errno> {
        let attributes = MountAttributes { nosuid: true, noexec: true, ..MountAttributes::default() };
        let base = make("tmpfs", &[("source", Some("dev")), ("mode", Some("700"))], &attributes)?;
        Ok(Self { base, attached: false })
    }

    fn make(&mut self, name: &str, node: &DeviceNode, owner: (u32, u32)) -> Result<OwnedFd, Errno> {
        make_node(&self.base, name.as_ref(), node, owner)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&self.base, name, flags, Mode::empty())?;
        match clone_mount(&made) {
            // Kernels before 6.15 clone only what is attached.
            Err(Errno::INVAL) if !self.attached => {
                self.attach()?;
                clone_mount(&made)
            }
            cloned => cloned,
        }
    }

    fn attach(&mut self) -> Result<(), Errno> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(crate::handshake::to_rustix)?;
        // Nothing that is mounted here is to be seen by the host.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        move_mount(&self.base, "", CWD, "/dev", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        self.attached = true;
        Ok(())
    }

    fn clear(self) -> Result<(), Errno> {
        if self.attached { unmount("/dev", UnmountFlags::DETACH) } else { Ok(()) }
    }
}

/// Attaches a node that was made outside.
pub(super) fn attach_node(root: &Root, path: &Path, made: &OwnedFd) -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::Device, errno, path_text(path));
    let target = root.target(path, Kind::File).map_err(failed)?;
    place(made, &target).map_err(failed)
}

fn kind(node: &DeviceNode) -> FileType {
    match node.kind {
        DeviceKind::Character => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    }
}

fn make_node(parent: &OwnedFd, name: &OsStr, node: &DeviceNode, owner: (u32, u32)) -> Result<(), Errno> {
    mknodat(parent, name, kind(node), Mode::from_raw_mode(node.mode), makedev(node.major, node.minor))?;
    if owner == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
    rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

pub(super) fn link(root: &Root, path: &Path, target: &Path) -> Result<(), Failure> {
    let failed = |errno| Failure::system(FailedStep::Symlink, errno, path_text(path));
    let (parent, name) = root.parent(path).map_err(failed)?;
    match symlinkat(target, &parent, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

/// Opens a terminal in the container's own devpts. The other side comes from the kernel by descriptor: the
/// name in /dev/pts could be a link by then (CVE-2025-52565).
pub(super) fn open_terminal(root: &Root, size: TerminalSize) -> Result<TerminalPair, Failure> {
    const PTMX: &str = "/dev/pts/ptmx";
    let failed = |errno| Failure::system(FailedStep::Terminal, errno, PTMX);
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let place = root.find_plain(Path::new(PTMX)).map_err(failed)?;
    // Looked at before it is opened: opening a device can have effects.
    if fstatfs(&place).map_err(failed)?.f_type != DEVPTS
        || !is_character_device(&place, makedev(5, 2)).map_err(failed)?
    {
        return Err(outside(FailedStep::Terminal, PTMX));
    }
    let master = root.open(Path::new(PTMX), flags, ResolveFlags::NO_SYMLINKS).map_err(failed)?;
    if fstatfs(&master).map_err(failed)?.f_type != DEVPTS {
        return Err(outside(FailedStep::Terminal, PTMX));
    }
    unlockpt(&master).map_err(failed)?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, peer).map_err(failed)?;
    if size != TerminalSize::default() {
        let winsize = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, winsize).map_err(failed)?;
    }
    Ok(TerminalPair { master, slave })
}

/// Shows a terminal as /dev/console.
pub(super) fn console(root: &Root, terminal: &OwnedFd) -> Result<(), Failure> {
    const CONSOLE: &str = "/dev/console";
    let failed = |errno| Failure::system(FailedStep::Terminal, errno, CONSOLE);
    let target = root.target(Path::new(CONSOLE), Kind::File).map_err(failed)?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(terminal, "", flags).map_err(failed)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, "", &target, "", both).map_err(failed)
}

//! What this machine can do with EROFS images, found out by trying in the store's own directory: the kernel, its version
//! and the filesystem below the store all have a say, and containers of ours among them.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::mount::MountAttrFlags;

use super::image::{Backing, LoopDevices, Mounter, wants_a_device};
use crate::layers::verity::Verity;
use crate::mounting::{Context, Failure, open_place};
use crate::names;

/// How overlay can be told of a mounted image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By its descriptor, attached nowhere (Linux 6.15 and newer).
    Detached,
    /// In the mount namespace where it is attached.
    Staged,
}

/// What was found out.
#[derive(Debug, Clone)]
pub(crate) struct Abilities {
    pub(crate) mounter: Mounter,
    pub(crate) naming: Naming,
    /// Whether the filesystem checks what it is told to (fs-verity).
    pub(crate) seals: bool,
}

/// Tries it out below `dir`, which is left as it was.
pub(super) fn probe(
    dir: &Path,
    loop_devices: Option<&LoopDevices>,
    verity: Option<&Verity>,
) -> Result<Abilities, Failure> {
    let name = dir.join(format!("trial-{}", names::unique()));
    let outcome = trial_image(&name).map_err(|cause| ("write", cause)).and_then(|image| {
        // Before it is mounted: it must be mountable then, too.
        let seals = verity.is_some_and(|verity| verity.enable(image.as_fd()).is_ok());
        let (mounter, mount) = backing(&image, loop_devices)?;
        let naming = if is_nameable(&mount, dir) { Naming::Detached } else { Naming::Staged };
        Ok(Abilities { mounter, naming, seals })
    });
    // What stays is removed at the next open.
    let _ = std::fs::remove_file(&name);
    outcome
}

fn backing(image: &OwnedFd, loop_devices: Option<&LoopDevices>) -> Result<(Mounter, OwnedFd), Failure> {
    let by = |backing| Mounter { backing, loop_devices: loop_devices.cloned() };
    let by_file = by(Backing::File);
    match by_file.mount(image) {
        Err((_, cause)) if wants_a_device(&cause) && loop_devices.is_some() => {
            let by_device = by(Backing::LoopDevice);
            by_device.mount(image).map(|mount| (by_device, mount))
        }
        mounted => mounted.map(|mount| (by_file, mount)),
    }
}

/// Whether overlay takes the mount by its descriptor.
fn is_nameable(mount: &OwnedFd, dir: &Path) -> bool {
    let overlay = || -> Result<OwnedFd, Failure> {
        let below = open_place(dir).map_err(|cause| ("open", cause))?;
        let context = Context::open("overlay")?;
        let configured =
            context.set_fd("lowerdir+", mount).and_then(|()| context.set_fd("lowerdir+", &below));
        context.mount(configured, MountAttrFlags::MOUNT_ATTR_RDONLY)
    };
    overlay().is_ok()
}

/// Writes the smallest image: a root directory without anything in it.
fn trial_image(path: &Path) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::options().read(true).write(true).create_new(true).open(path)?;
    file.write_all(&smallest())?;
    Ok(std::fs::File::open(path)?.into())
}

/// One block. Offsets are those of the on-disk format (Linux, fs/erofs/erofs_fs.h); numbers are little-endian.
fn smallest() -> [u8; 4096] {
    const SUPERBLOCK: usize = 1024;
    const ROOT: usize = SUPERBLOCK + 128;
    let mut block = [0u8; 4096];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(SUPERBLOCK, &0xE0F5_E1E2_u32.to_le_bytes());
    // Blocks of 2^12 bytes; the root's number counts slots of 32 bytes; one inode; one block.
    put(SUPERBLOCK + 12, &[12]);
    put(SUPERBLOCK + 14, &36_u16.to_le_bytes());
    put(SUPERBLOCK + 16, &1_u64.to_le_bytes());
    put(SUPERBLOCK + 36, &1_u32.to_le_bytes());
    // A compact inode whose content follows it: layout 2 in bits 1 to 3, mode, links, size.
    put(ROOT, &(2_u16 << 1).to_le_bytes());
    put(ROOT + 4, &0o040_755_u16.to_le_bytes());
    put(ROOT + 6, &2_u16.to_le_bytes());
    put(ROOT + 8, &27_u32.to_le_bytes());
    // Two entries of 12 bytes (inode, offset of the name, kind 2: directory), then their names.
    for (entry, name_at) in [(0, 24_u16), (1, 25)] {
        let at = ROOT + 32 + entry * 12;
        put(at, &36_u64.to_le_bytes());
        put(at + 8, &name_at.to_le_bytes());
        put(at + 10, &[2]);
    }
    put(ROOT + 32 + 24, b"...");
    block
}

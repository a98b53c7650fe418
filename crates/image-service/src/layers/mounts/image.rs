//! Mounting one layer that is an EROFS image.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::mounting::{Context, Failure, errno_of, proc_path};

/// What the kernel reads an image through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// The file itself (Linux 6.12 and newer, on filesystems that are no overlay and no tmpfs).
    File,
    /// A loop device on it.
    LoopDevice,
}

/// Makes a loop device of an image: read-only, and gone with the last who has it open or mounted. Handed in by whoever
/// opens the store, since the calls that it takes have no safe form.
#[derive(Clone)]
pub struct LoopDevices(Arc<Attach>);

type Attach = dyn Fn(BorrowedFd<'_>) -> io::Result<OwnedFd> + Send + Sync;

impl LoopDevices {
    /// By calling `attach` with the open image, which gives the open device.
    pub fn new(attach: impl Fn(BorrowedFd<'_>) -> io::Result<OwnedFd> + Send + Sync + 'static) -> Self {
        Self(Arc::new(attach))
    }
}

impl std::fmt::Debug for LoopDevices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopDevices").finish_non_exhaustive()
    }
}

/// How images are mounted here.
#[derive(Debug, Clone)]
pub(crate) struct Mounter {
    pub(super) backing: Backing,
    pub(super) loop_devices: Option<LoopDevices>,
}

impl Mounter {
    /// Mounts the open `image`, read-only and attached nowhere.
    pub(super) fn mount(&self, image: &OwnedFd) -> Result<OwnedFd, Failure> {
        match self.backing {
            Backing::File => mount(image, image),
            Backing::LoopDevice => {
                let devices = self.loop_devices.as_ref();
                let devices = devices.ok_or_else(|| ("attach", io::ErrorKind::Unsupported.into()))?;
                // The mount keeps the device when this descriptor goes.
                let device = (devices.0)(image.as_fd()).map_err(|cause| ("attach", cause))?;
                mount(&device, image)
            }
        }
    }
}

fn mount(source: &OwnedFd, image: &OwnedFd) -> Result<OwnedFd, Failure> {
    let context = Context::open("erofs")?;
    // Said before anything is opened: a read-only device can't be opened otherwise.
    let configured = context.set_flag("ro").and_then(|()| context.set("source", &proc_path(source)));
    let configured = configured.and_then(|()| match label(image) {
        Some(label) => context.set("context", &label),
        None => Ok(()),
    });
    context.mount(configured, MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME)
}

/// Whether a failure means that the kernel can't read this image through the file, but may through a device: older
/// kernels and some filesystems.
pub(super) fn wants_a_device(cause: &io::Error) -> bool {
    errno_of(cause) == Some(Errno::NOTBLK)
}

/// The SELinux context of the image, for all that is in it: as files of a plain directory have that of the store. None
/// where SELinux is off.
fn label(image: &OwnedFd) -> Option<String> {
    if !Path::new("/sys/fs/selinux/status").exists() {
        return None;
    }
    let mut value = [0u8; 4096];
    let length = rustix::fs::fgetxattr(image, "security.selinux", &mut value).ok()?;
    let text = String::from_utf8(value[..length].to_vec()).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
}

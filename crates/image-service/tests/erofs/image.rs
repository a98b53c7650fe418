//! Images written from archives, checked and mounted.

use std::fs::File;
use std::io::Cursor;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use image_service::{Digest, ErofsImage, Error, write_directory, write_erofs};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use tempfile::TempDir;

use crate::archive::Tar;

/// What layers are called in errors.
fn name() -> Digest {
    Digest::of(b"a layer under test")
}

/// An image in a directory of its own.
pub(crate) struct Image {
    pub(crate) dir: TempDir,
    pub(crate) written: ErofsImage,
}

impl Image {
    /// Writes a layer and checks what can be checked without mounting.
    pub(crate) fn of(archive: &[u8]) -> Result<Image, Error> {
        let image = Image::unchecked(archive)?;
        image.check();
        Ok(image)
    }

    /// Only writes a layer: erofs-utils 1.5 crash in very deep trees.
    pub(crate) fn unchecked(archive: &[u8]) -> Result<Image, Error> {
        let dir = tempfile::Builder::new().prefix("knarr-erofs-").tempdir().unwrap();
        let file = File::create(dir.path().join("image")).unwrap();
        let written = write_erofs(Cursor::new(archive.to_vec()), file, &name())?;
        Ok(Image { dir, written })
    }

    pub(crate) fn tar(tar: &Tar) -> Image {
        Image::of(&tar.bytes()).unwrap()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    pub(crate) fn length(&self) -> u64 {
        std::fs::metadata(self.path()).unwrap().len()
    }

    /// Its checksums are those of the file, and erofs-utils finds nothing wrong with it.
    fn check(&self) {
        assert_eq!(self.length() % 4096, 0);
        if self.length() < 64 << 20 {
            let sums: Vec<u32> = self.bytes().chunks(1 << 20).map(crc32c::crc32c).collect();
            assert_eq!(self.written.checksums, sums);
        }
        match Command::new("fsck.erofs").arg(self.path()).output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(_) => println!("not checked by fsck.erofs: it isn't installed"),
        }
    }

    pub(crate) fn mount(&self) -> Mounted {
        Mounted(mount(&self.path()).unwrap())
    }
}

/// A mounted image.
pub(crate) struct Mounted(OwnedFd);

impl Mounted {
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }
}

fn mount(image: &Path) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", image)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// Whether images can be mounted here; if not, why.
pub(crate) fn can_mount() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".into());
    }
    let image = Image::tar(&Tar::new());
    mount(&image.path()).map(drop).map_err(|errno| format!("the kernel mounts no image from a file: {errno}"))
}

/// The same archive as a directory tree.
pub(crate) fn directory(archive: &[u8]) -> Result<(TempDir, PathBuf), Error> {
    let dir = tempfile::Builder::new().prefix("knarr-erofs-dir-").tempdir().unwrap();
    let archive = archive.to_vec();
    let open = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        OwnedFd::from(File::open(&path).unwrap())
    };
    let (root, aside) = (open("root"), open("aside"));
    rustix::fs::fchmod(&root, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    // On a thread of its own, which gets an umask of its own.
    let run = move || write_directory(Cursor::new(archive), root, aside, &name());
    std::thread::spawn(run).join().unwrap()?;
    std::fs::remove_dir_all(dir.path().join("aside")).unwrap();
    let root = dir.path().join("root");
    Ok((dir, root))
}

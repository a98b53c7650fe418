//! The service on disks that are full, small, read-only, and of each kind that writable layers lie on. Needs root.
//!
//! Each test has a disk of its own in the mount namespace of a thread of its own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "../pulls/breaking.rs"]
#[allow(dead_code, reason = "shared with the tests of pulls")]
mod breaking;
mod collecting;
#[path = "../power_cut/filesystem.rs"]
#[allow(dead_code, reason = "shared with the tests of power cuts")]
mod filesystem;
mod full;
#[path = "../pulls/image.rs"]
#[allow(dead_code, reason = "shared with the tests of pulls")]
mod image;
mod kept;
mod load;
#[path = "../pulls/registry.rs"]
#[allow(dead_code, reason = "shared with the tests of pulls")]
mod registry;
mod space;
mod writable;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use filesystem::{Kind, Mounted};
use image::{Content, ImageBytes, LayerBytes};
use image_service::{Config, Error, ImageId, Images, Limits, PullRequest};
use registry::Registry;

/// Runs a test with a directory in which it may mount things.
fn in_own_mounts<F: Future<Output = ()>>(test: impl FnOnce(std::path::PathBuf) -> F + Send + 'static) {
    let all = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private =
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let dir = tempfile::Builder::new().prefix("knarr-disk-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        // Its threads share the namespace.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test(dir.path().to_owned()));
    };
    if let Err(panic) = std::thread::spawn(all).join() {
        std::panic::resume_unwind(panic);
    }
}

/// A disk of that many MiB at `dir`/mnt.
fn disk(kind: Kind, dir: &Path, mib: u64, options: &[&str]) -> Mounted {
    let file = dir.join("disk");
    std::fs::File::create(&file).unwrap().set_len(mib << 20).unwrap();
    let made =
        Command::new(format!("mkfs.{}", kind.name())).arg("-q").args(options).arg(&file).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    Mounted::new(kind, &file, dir.join("mnt"))
}

/// A registry with one image for each of these names, of one layer that has so many bytes.
async fn registry_of(images: &[(&'static str, usize)]) -> Registry {
    let mut content = Content::default();
    for (name, size) in images {
        ImageBytes::new(vec![LayerBytes::new(name, *size)]).publish(&mut content, name, "1");
    }
    Registry::start(move |request| content.reply(request)).await
}

/// The service on a disk.
struct Service {
    images: Images,
    host: String,
}

impl Service {
    fn open(disk: &Path, registry: &Registry) -> Service {
        Service::at(disk, registry.host())
    }

    fn at(disk: &Path, host: String) -> Service {
        Service { images: open(disk).unwrap(), host }
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}:1", self.host)
    }

    async fn pull(&self, image: &str) -> Result<ImageId, Error> {
        self.images.pull(PullRequest { reference: self.name(image), credentials: None }).await
    }

    fn has(&self, image: &str) -> bool {
        self.images.status(&self.name(image)).unwrap().is_some()
    }
}

fn open(disk: &Path) -> Result<Images, Error> {
    let mut config = Config::new(disk.join("root"), disk.join("certs.d"));
    config.usage_age = Duration::ZERO;
    config.limits = Limits { backoff: Duration::from_millis(1), ..Limits::default() };
    Images::open(config)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

//! Stand-ins for the network and the images, with faults to order.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, open_tree,
};
use sandbox::{
    Attached, Attachment, Census, ContainerId, ImageConfig, LayerUsage, MountFor, Network, NetworkError,
    PodId, Prepared, RootFilesystems, RootfsError, UserMap,
};
use tokio::sync::Notify;

/// A network that gives everybody an address and remembers who has one.
#[derive(Default)]
pub(crate) struct Net {
    /// Who is attached, with the namespace it was attached by.
    pub(crate) attached: Mutex<BTreeMap<PodId, PathBuf>>,
    /// Who was detached, with the namespace that could be opened then.
    pub(crate) detached: Mutex<BTreeMap<PodId, Option<PathBuf>>>,
    pub(crate) attach_calls: Mutex<Vec<PodId>>,
    pub(crate) fail_attach: AtomicBool,
    pub(crate) fail_detach: AtomicBool,
    /// Holds every attachment until it is notified.
    pub(crate) hold: AtomicBool,
    /// Holds every detachment for ever; how many it holds.
    pub(crate) hold_detach: AtomicBool,
    pub(crate) held_detachments: AtomicUsize,
    pub(crate) go_on: Notify,
    pub(crate) collected: Mutex<Option<Vec<PodId>>>,
}

fn failed() -> NetworkError {
    NetworkError::Failed(Arc::new(std::io::Error::other("ordered by the test")))
}

#[async_trait]
impl Network for Net {
    async fn attach(&self, attachment: &Attachment) -> Result<Attached, NetworkError> {
        self.attach_calls.lock().unwrap().push(attachment.pod_id.clone());
        let netns = attachment.netns.clone().expect("a namespace to attach");
        std::fs::metadata(&netns).expect("the namespace can be opened");
        // As a real one: the address is taken before anything can fail.
        self.attached.lock().unwrap().insert(attachment.pod_id.clone(), netns);
        if self.hold.load(Ordering::SeqCst) {
            self.go_on.notified().await;
        }
        if self.fail_attach.load(Ordering::SeqCst) {
            return Err(failed());
        }
        Ok(Attached { ips: vec!["10.88.0.7".parse().unwrap(), "fd00::7".parse().unwrap()] })
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), NetworkError> {
        if self.fail_detach.load(Ordering::SeqCst) {
            return Err(failed());
        }
        if self.hold_detach.load(Ordering::SeqCst) {
            self.held_detachments.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        let netns = attachment.netns.clone().filter(|path| path.exists());
        self.detached.lock().unwrap().insert(attachment.pod_id.clone(), netns);
        self.attached.lock().unwrap().remove(&attachment.pod_id);
        Ok(())
    }

    async fn collect(&self, pods: Census) -> Result<(), NetworkError> {
        let valid = pods();
        *self.collected.lock().unwrap() = Some(valid.iter().cloned().collect());
        self.attached.lock().unwrap().retain(|pod, _| valid.contains(pod));
        Ok(())
    }
}

/// One image, `busybox`, made of Debian's static busybox.
pub(crate) struct Images {
    directory: PathBuf,
    pub(crate) config: Mutex<ImageConfig>,
    pub(crate) fail_mount: AtomicBool,
    pub(crate) fail_release: AtomicBool,
    /// The container whose layer takes for ever to be measured, and how often that was begun.
    pub(crate) hold_usage: Mutex<Option<ContainerId>>,
    pub(crate) held_usages: AtomicUsize,
    pub(crate) retained: Mutex<Option<Vec<ContainerId>>>,
}

const APPLETS: [&str; 20] = [
    "cat", "dd", "echo", "env", "false", "head", "hostname", "id", "ls", "mkdir", "ps", "readlink", "sh",
    "setsid", "sleep", "stty", "tail", "touch", "true", "yes",
];

impl Images {
    pub(crate) fn new(directory: PathBuf) -> Self {
        let lower = directory.join("lower");
        for sub in ["bin", "etc", "proc", "sys", "dev", "tmp", "data"] {
            std::fs::create_dir_all(lower.join(sub)).unwrap();
        }
        let busybox =
            ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| std::fs::metadata(path).is_ok());
        std::fs::copy(busybox.expect("busybox-static is installed"), lower.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(applet)).unwrap();
        }
        std::fs::write(lower.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")
            .unwrap();
        std::fs::write(lower.join("etc/group"), "root:x:0:\nwww:x:34:\nlogs:x:50:web\n").unwrap();
        std::fs::write(lower.join("bin/not-executable"), "#!/bin/sh\n").unwrap();
        Self {
            directory,
            config: Mutex::default(),
            fail_mount: AtomicBool::new(false),
            fail_release: AtomicBool::new(false),
            hold_usage: Mutex::default(),
            held_usages: AtomicUsize::new(0),
            retained: Mutex::default(),
        }
    }

    fn layer(&self, container: &ContainerId) -> PathBuf {
        self.directory.join("containers").join(container.as_str())
    }

    /// Containers that have a writable layer.
    pub(crate) fn layers(&self) -> usize {
        std::fs::read_dir(self.directory.join("containers")).map_or(0, |entries| entries.count())
    }
}

#[async_trait]
impl RootFilesystems for Images {
    async fn prepare(
        &self,
        container: &ContainerId,
        image: &str,
        _: Option<UserMap>,
    ) -> Result<Prepared, RootfsError> {
        if image.starts_with(':') {
            let cause = Arc::new(std::io::Error::other("not an image reference"));
            return Err(RootfsError::BadReference { image: image.to_owned(), cause });
        }
        if image != "busybox" {
            return Err(RootfsError::NoImage { image: image.to_owned() });
        }
        for sub in ["upper", "work"] {
            std::fs::create_dir_all(self.layer(container).join(sub)).unwrap();
        }
        let config = self.config.lock().unwrap().clone();
        Ok(Prepared {
            image_id: "sha256:1".to_owned(),
            image_ref: "test/busybox@sha256:1".to_owned(),
            config,
        })
    }

    async fn try_mapping(&self, _: UserMap) -> Result<(), RootfsError> {
        Ok(())
    }

    async fn mount(&self, container: &ContainerId, _: MountFor) -> Result<OwnedFd, RootfsError> {
        if self.fail_mount.load(Ordering::SeqCst) {
            return Err(RootfsError::Failed(Arc::new(std::io::Error::other("ordered by the test"))));
        }
        let layer = self.layer(container);
        let filesystem = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for (key, value) in [
            ("lowerdir", self.directory.join("lower")),
            ("upperdir", layer.join("upper")),
            ("workdir", layer.join("work")),
        ] {
            fsconfig_set_string(&filesystem, key, &value).unwrap();
        }
        fsconfig_create(&filesystem).unwrap();
        Ok(fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap())
    }

    async fn hold_images(
        &self,
        _container: &ContainerId,
        images: &[String],
    ) -> Result<Vec<String>, RootfsError> {
        match images.iter().find(|image| *image != "busybox") {
            Some(image) if image.starts_with(':') => Err(RootfsError::BadReference {
                image: image.clone(),
                cause: Arc::new(std::io::Error::other("not an image reference")),
            }),
            Some(image) => Err(RootfsError::NoImage { image: image.clone() }),
            None => Ok(images.iter().map(|_| "sha256:1".to_owned()).collect()),
        }
    }

    async fn mount_image(
        &self,
        _container: &ContainerId,
        (image_id, path): (&str, &Path),
        _: MountFor,
    ) -> Result<OwnedFd, RootfsError> {
        assert_eq!(image_id, "sha256:1");
        let place = self.directory.join("lower").join(path);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let failed = |errno: rustix::io::Errno| RootfsError::NoPath(Arc::new(std::io::Error::from(errno)));
        open_tree(CWD, &place, flags).map_err(failed)
    }

    async fn make_volumes(
        &self,
        container: &ContainerId,
        paths: &[PathBuf],
    ) -> Result<Vec<PathBuf>, RootfsError> {
        let directory = |at: usize| self.layer(container).join("volumes").join(at.to_string());
        let made: Vec<PathBuf> = (0..paths.len()).map(directory).collect();
        for (volume, path) in made.iter().zip(paths) {
            std::fs::create_dir_all(volume).unwrap();
            std::fs::write(volume.join("from"), path.as_os_str().as_encoded_bytes()).unwrap();
        }
        Ok(made)
    }

    async fn release(&self, container: &ContainerId) -> Result<(), RootfsError> {
        if self.fail_release.load(Ordering::SeqCst) {
            return Err(RootfsError::Failed(Arc::new(std::io::Error::other("ordered by the test"))));
        }
        match std::fs::remove_dir_all(self.layer(container)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(RootfsError::Failed(Arc::new(error)))
            }
            _ => Ok(()),
        }
    }

    async fn retain(&self, known: &[ContainerId]) {
        *self.retained.lock().unwrap() = Some(known.to_vec());
        for entry in std::fs::read_dir(self.directory.join("containers")).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if !known.iter().any(|id| id.as_str() == name) {
                std::fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }

    async fn usage(&self, container: &ContainerId) -> Result<LayerUsage, RootfsError> {
        if self.hold_usage.lock().unwrap().as_ref() == Some(container) {
            self.held_usages.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        Ok(LayerUsage { bytes: 1, inodes: 2, at: 3 })
    }
}

//! What a container sees beside its root that is not a path of the host's choosing: images as volumes, and a directory for each
//! volume that its own image declares.
//!
//! | | comes from | handed over as | ends with |
//! |---|---|---|---|
//! | image volume | a mount of the request with an image | a detached read-only mount, made anew at every start | the container's root |
//! | declared volume | the image, where no mount covers it | a bind of a directory beside the writable layer | the container's root |
//!
//! In specification and plan an image volume's source is a path in the container's own directory where nothing is: names that nobody
//! else can know before the container is made, so that no host path of a request is ever taken for one.
//!
//! Not here: flags of mounts (`spec::mounts`), how images are mounted (`rootfs`).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::container::config::{Mount, MountSource};
use crate::container::make::{self, Making, rootfs_error};
use crate::error::Error;
use crate::id::ContainerId;
use crate::record::ContainerFacts;
use crate::rootfs::{ImageConfig, MountFor, RootfsError};
use crate::selinux::relabel;
use crate::shared::{Shared, blocking, within};
use crate::spec::mounts::{POD_FILES, clean};
use crate::supervisor::client::Client;
use crate::users::UserMap;

/// Images declare a handful. Each takes a descriptor of a start.
const MOST_DECLARED: usize = 128;

/// The volumes of a container that are not the host's.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    /// Image volumes by their number among the mounts.
    pub(crate) images: BTreeMap<usize, ImageVolume>,
    /// Volumes that the image declares: where they appear, and the directory on the host.
    pub(crate) declared: Vec<(PathBuf, PathBuf)>,
}

/// An image as a volume.
#[derive(Debug)]
pub(crate) struct ImageVolume {
    /// The image's id.
    pub(crate) image_id: String,
    /// What stands for it in specification and plan.
    pub(crate) place: PathBuf,
}

impl Volumes {
    /// The ids of image volumes, as records keep them.
    pub(crate) fn image_ids(&self) -> BTreeMap<usize, String> {
        self.images.iter().map(|(at, volume)| (*at, volume.image_id.clone())).collect()
    }
}

/// Makes the volumes of a container whose root is prepared. They go with the root.
///
/// Not safe to cancel, as the making of the container isn't.
///
/// # Errors
/// [`Error::ImageVolume`] for an image or path that is missing, [`Error::Refused`] for a declared volume at an impossible place.
pub(crate) async fn prepare(
    making: &Making,
    image: &ImageConfig,
    label: Option<&str>,
) -> Result<Volumes, Error> {
    let images = prepare_images(making, label).await?;
    let wanted = declared(&image.volumes, &making.config.mounts)?;
    if wanted.is_empty() {
        return Ok(Volumes { images, declared: Vec::new() });
    }
    let (shared, id) = (&making.shared, &making.id);
    let step = "making the volumes of the image";
    let work = async {
        shared.rootfs.make_volumes(id, &wanted).await.map_err(|error| rootfs_error(step, id, error))
    };
    let made = within((step, id.as_str(), shared.config.deadlines.rootfs), work).await?;
    label_own(making, &made, label).await?;
    Ok(Volumes { images, declared: wanted.into_iter().zip(made).collect() })
}

async fn label_own(making: &Making, made: &[PathBuf], label: Option<&str>) -> Result<(), Error> {
    let Some(label) = label.map(str::to_owned) else { return Ok(()) };
    let (made, after) = (made.to_vec(), making.shared.config.deadlines.relabel);
    blocking(("relabelling the volumes of the image", making.id.as_str(), after), move || {
        made.iter().try_for_each(|path| relabel::own(path, &label).map_err(relabel::Failed::into_step))
    })
    .await
}

async fn prepare_images(making: &Making, label: Option<&str>) -> Result<BTreeMap<usize, ImageVolume>, Error> {
    let (shared, id) = (&making.shared, &making.id);
    let wanted: Vec<(usize, String)> =
        images(&making.config.mounts).map(|(at, image, _)| (at, image)).collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let references: Vec<String> = wanted.iter().map(|(_, image)| image.clone()).collect();
    let work = async {
        shared.rootfs.hold_images(id, &references).await.map_err(|error| match error {
            RootfsError::BadReference { image, cause } => {
                let at = wanted.iter().find(|(_, wanted)| *wanted == image).map_or(0, |(at, _)| *at);
                let refused =
                    Error::refused(format!("mounts[{at}].image.image"), crate::error::chain(&*cause));
                Error::ImageVolume { cause: Arc::new(refused) }
            }
            error => volume_error(id.as_str(), error),
        })
    };
    let step = ("keeping the layers of image volumes", id.as_str(), shared.config.deadlines.rootfs);
    let ids = within(step, work).await?;
    let directory = shared.store.container_dir(&making.pod.id, id);
    let numbers = wanted.into_iter().map(|(at, _)| at);
    let volumes: BTreeMap<usize, ImageVolume> = numbers
        .zip(ids)
        .map(|(at, image_id)| (at, ImageVolume { image_id, place: place(&directory, at) }))
        .collect();
    let users = match is_mapped(&making.config.mounts) {
        true => Some(make::users_of(making).await?),
        false => None,
    };
    for (at, _, sub_path) in images(&making.config.mounts) {
        let Some(volume) = volumes.get(&at) else { continue };
        // Mounted to find out whether it can be; the start mounts it again.
        let users = users_for(&making.config.mounts, at, users.as_ref());
        let to = MountFor { users, label: label.map(str::to_owned) };
        drop(mount(shared, (id, to), (at, &volume.image_id, sub_path)).await?);
    }
    Ok(volumes)
}

/// Mounts the image volumes of a container that is about to start, each with what stands for it in the plan.
///
/// Safe to cancel.
///
/// # Errors
/// [`Error::ImageVolume`].
pub(crate) async fn open(
    shared: &Shared,
    facts: &ContainerFacts,
    (client, label): (&Client, Option<&str>),
) -> Result<BTreeMap<PathBuf, OwnedFd>, Error> {
    let mounts = &facts.config.mounts;
    let users = match is_mapped(mounts) {
        true => Some(client.user_namespace(shared.config.deadlines.namespaces).await?),
        false => None,
    };
    let directory = shared.store.container_dir(&facts.pod, &facts.id);
    let mut opened = BTreeMap::new();
    for (at, _, sub_path) in images(mounts) {
        let Some(image_id) = facts.image_volumes.get(&at) else { continue };
        let users = users_for(mounts, at, users.as_ref());
        let to = MountFor { users, label: label.map(str::to_owned) };
        let mounted = mount(shared, (&facts.id, to), (at, image_id, sub_path)).await?;
        opened.insert(place(&directory, at), mounted);
    }
    Ok(opened)
}

/// Whether any of the image volumes has mapped ids, which are the pod's.
fn is_mapped(mounts: &[Mount]) -> bool {
    images(mounts).any(|(at, ..)| mounts.get(at).is_some_and(|mount| mount.id_mapping.is_some()))
}

fn users_for(mounts: &[Mount], at: usize, users: Option<&UserMap>) -> Option<UserMap> {
    mounts.get(at)?.id_mapping.as_ref()?;
    users.cloned()
}

async fn mount(
    shared: &Shared,
    (id, to): (&ContainerId, MountFor),
    (at, image_id, sub_path): (usize, &str, &str),
) -> Result<OwnedFd, Error> {
    let work = async {
        let mounted = shared.rootfs.mount_image(id, (image_id, Path::new(sub_path)), to).await;
        mounted.map_err(|error| match error {
            RootfsError::NoPath(cause) => {
                let refused =
                    Error::refused(format!("mounts[{at}].image_sub_path"), crate::error::chain(&*cause));
                Error::ImageVolume { cause: Arc::new(refused) }
            }
            error => volume_error(image_id, error),
        })
    };
    within(("mounting an image volume", id.as_str(), shared.config.deadlines.rootfs), work).await
}

fn volume_error(subject: &str, error: RootfsError) -> Error {
    let cause = match error {
        RootfsError::NoImage { image } => Error::NoImage { image },
        RootfsError::Full(cause) => {
            Error::Exhausted { what: "disk space", subject: subject.to_owned(), cause: Some(cause) }
        }
        RootfsError::Failed(cause) | RootfsError::NoPath(cause) | RootfsError::BadReference { cause, .. } => {
            Error::failed("mounting the image", subject, cause)
        }
    };
    Error::ImageVolume { cause: Arc::new(cause) }
}

/// The image volumes among mounts: number, reference, path in the image.
fn images(mounts: &[Mount]) -> impl Iterator<Item = (usize, String, &str)> {
    mounts.iter().enumerate().filter_map(|(at, mount)| match &mount.source {
        MountSource::Image { image, sub_path } => Some((at, image.reference.clone(), sub_path.as_str())),
        MountSource::Host(_) => None,
    })
}

fn place(container_dir: &Path, at: usize) -> PathBuf {
    container_dir.join("images").join(at.to_string())
}

/// The volumes of an image that are made: those that neither a mount of the request nor one of ours lies upon.
fn declared(paths: &[String], mounts: &[Mount]) -> Result<Vec<PathBuf>, Error> {
    let ours = runtime::spec::default_mounts();
    let ours = ours.iter().map(|mount| mount.destination().clone());
    let files = POD_FILES.iter().map(|name| Path::new("/etc").join(name));
    let covered: Vec<PathBuf> =
        mounts.iter().map(|mount| clean(&mount.container_path)).chain(ours).chain(files).collect();
    let mut wanted: Vec<PathBuf> = Vec::new();
    for path in paths {
        let refuse = |why: &str| {
            let field = format!("image.config.Volumes[\"{}\"]", path.escape_debug());
            Err(Error::refused(field, why))
        };
        if path.contains('\0') {
            return refuse("contains a zero byte");
        }
        let at = clean(Path::new(path));
        if covered.contains(&at) || wanted.contains(&at) {
            continue;
        }
        if at == Path::new("/") {
            return refuse("a volume cannot be the root itself");
        }
        // What lies there is the kernel's, and a directory of the image's must not pass for it (CVE-2019-16884).
        if ["/proc", "/sys"].iter().any(|kernels| at.starts_with(kernels)) {
            return refuse("a volume cannot be on a filesystem of the kernel's");
        }
        if wanted.len() == MOST_DECLARED {
            return refuse("the image declares too many volumes");
        }
        wanted.push(at);
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::{MountAccess, Propagation};

    fn volumes(paths: &[&str], mounted: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let mount = |path: &&str| Mount {
            container_path: path.into(),
            source: MountSource::Host("/srv".into()),
            access: MountAccess::ReadWrite,
            propagation: Propagation::Private,
            selinux_relabel: false,
            id_mapping: None,
            options: vec![],
        };
        let mounts: Vec<Mount> = mounted.iter().map(mount).collect();
        declared(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>(), &mounts)
    }

    #[test]
    fn a_volume_is_made_where_nothing_else_is_mounted() {
        let made = volumes(&["/data", "data/", "/var/lib/db", "/cache"], &["/cache/", "/var"]).unwrap();
        assert_eq!(made, [Path::new("/data"), Path::new("/var/lib/db")]);
        let ours = volumes(&["/proc", "/sys/fs/cgroup", "/dev/shm", "/etc/hosts"], &[]).unwrap();
        assert!(ours.is_empty(), "{ours:?}");
    }

    #[test]
    fn no_volume_climbs_or_passes_for_the_kernels() {
        assert_eq!(volumes(&["/../../etc/x"], &[]).unwrap(), [Path::new("/etc/x")]);
        for path in ["/", "/..", "", "/proc/self", "/data/../sys/kernel", "/proc/../proc/1", "/a\0b"] {
            let refused = volumes(&[path], &[]).unwrap_err();
            assert!(refused.to_string().starts_with("image.config.Volumes["), "{path:?}: {refused}");
        }
    }
}

//! What is mounted in a container, in the order in which it is mounted: outer paths before inner ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use runtime::spec::oci;

use super::SpecInput;
use crate::container::config::{Mount, MountAccess, MountSource, Propagation};
use crate::container::volumes::ImageVolume;
use crate::error::Error;
use crate::pod::config::{NamespaceMode, UserNamespace};

/// Files of the pod's directory that every container sees, unless it brings its own.
pub(crate) const POD_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

pub(crate) fn mounts(input: &SpecInput<'_>) -> Result<Vec<oci::Mount>, Error> {
    let asked = &input.container.mounts;
    let taken: Vec<PathBuf> = asked.iter().map(|mount| clean(&mount.container_path)).collect();
    let is_free = |path: &Path| !taken.iter().any(|taken| taken == path);
    let mut all: Vec<oci::Mount> =
        defaults(input).into_iter().filter(|mount| is_wanted(mount.destination(), &taken, input)).collect();
    all.extend(pod_files(input).into_iter().filter(|mount| is_free(mount.destination())));
    for (at, mount) in asked.iter().enumerate() {
        all.push(volume(at, mount, &input.volumes.images)?);
    }
    // Their files have the owners that the image gives them.
    let users = input.pod.namespaces.user.as_ref();
    let declared =
        |(path, source): &(PathBuf, PathBuf)| with_ids(bind(source, path, &["rw", "rprivate"]), users);
    all.extend(input.volumes.declared.iter().map(declared));
    for mount in &input.cdi.mounts {
        let target = clean(mount.destination());
        all.retain(|other| clean(other.destination()) != target);
        all.push(mount.clone());
    }
    // Stable: of two mounts at one depth the one that was asked for first is made first.
    all.sort_by_key(|mount| clean(mount.destination()).components().count());
    Ok(all)
}

/// Whether a mount of ours is made beside those that were asked for.
///
/// Who brings a whole /dev, nearly always the host's, brings what is in it: ours would hide that, and where a directory is missing the
/// runtime would make it on the host. A terminal needs a devpts of the container's own all the same.
fn is_wanted(path: &Path, taken: &[PathBuf], input: &SpecInput<'_>) -> bool {
    let dev = Path::new("/dev");
    if taken.iter().any(|taken| taken == path) {
        return false;
    }
    let needs_terminal = input.container.tty && path == Path::new("/dev/pts");
    !path.starts_with(dev) || needs_terminal || !taken.iter().any(|taken| taken == dev)
}

fn defaults(input: &SpecInput<'_>) -> Vec<oci::Mount> {
    let privileged = input.container.security.privileged;
    let host_network = input.pod.namespaces.network == NamespaceMode::Node;
    let host_ipc = input.pod.namespaces.ipc == NamespaceMode::Node;
    let adjust = |mut mount: oci::Mount| {
        let path = mount.destination().clone();
        if privileged && path.starts_with("/sys") {
            let writable =
                mount.options().iter().flatten().filter(|option| *option != "ro").cloned().collect();
            mount.set_options(Some(writable));
        }
        // Only who owns the network namespace may mount a sysfs.
        if input.pod.namespaces.user.is_some() && host_network && path == Path::new("/sys") {
            let mut mount = bind(&path, &path, &["ro", "nosuid", "noexec", "nodev"]);
            let options =
                mount.options().iter().flatten().map(|option| option.replace("rbind", "bind")).collect();
            mount.set_options(Some(options));
            return mount;
        }
        // A fresh mount of mqueue shows the queues of the IPC namespace, the host's too; shared memory is files in one mount.
        if host_ipc && path == Path::new("/dev/shm") {
            return bind(&path, &path, &["rw"]);
        }
        mount
    };
    runtime::spec::default_mounts().into_iter().map(adjust).collect()
}

/// Like a read-only root, files beside it are read-only then.
fn pod_files(input: &SpecInput<'_>) -> Vec<oci::Mount> {
    let access = if input.container.security.readonly_rootfs { "ro" } else { "rw" };
    let users = input.pod.namespaces.user.as_ref();
    let mount = |name: &&str| {
        let file = bind(&input.pod_dir.join(name), &Path::new("/etc").join(name), &[access]);
        with_ids(file, users)
    };
    POD_FILES.iter().map(mount).collect()
}

/// What an option of a request is about.
#[derive(Clone, Copy)]
enum Effect {
    Access,
    Other,
}

/// Options that a request may add to a mount (OCI runtime-spec, config.md, "Linux mount options"): those that take something away from
/// it, and those about access times. Options that would give back what the source's mount has taken away do nothing on a bind mount,
/// and what says the same as a field of the request has its field.
const OPTIONS: [(&str, Effect); 9] = [
    ("ro", Effect::Access),
    ("nodev", Effect::Other),
    ("noexec", Effect::Other),
    ("nosuid", Effect::Other),
    ("nosymfollow", Effect::Other),
    ("noatime", Effect::Other),
    ("nodiratime", Effect::Other),
    ("relatime", Effect::Other),
    ("strictatime", Effect::Other),
];

fn volume(at: usize, mount: &Mount, images: &BTreeMap<usize, ImageVolume>) -> Result<oci::Mount, Error> {
    let field = |name: &str| format!("mounts[{at}].{name}");
    if !mount.container_path.is_absolute() {
        let path = mount.container_path.display();
        return Err(Error::refused(field("container_path"), format!("\"{path}\" is not an absolute path")));
    }
    // An image's layers are mapped one by one before overlay has them, which as a whole can't be.
    let (source, ids) = match (&mount.source, images.get(&at)) {
        (MountSource::Host(path), _) => (path, mount.id_mapping.as_ref()),
        (MountSource::Image { .. }, Some(image)) => (&image.place, None),
        (MountSource::Image { .. }, None) => return Err(Error::refused(field("image"), "is not held")),
    };
    if !source.is_absolute() {
        return Err(Error::refused(
            field("host_path"),
            format!("\"{}\" is not an absolute path", source.display()),
        ));
    }
    let access = match (mount.access, mount.propagation) {
        (MountAccess::ReadWrite, _) => "rw",
        (MountAccess::ReadOnly, _) => "ro",
        (MountAccess::RecursiveReadOnly, Propagation::Private) => "rro",
        (MountAccess::RecursiveReadOnly, Propagation::HostToContainer | Propagation::Bidirectional) => {
            return Err(Error::refused(field("recursive_read_only"), "needs private propagation"));
        }
    };
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let mut options = vec![access, propagation];
    for (number, option) in mount.options.iter().enumerate() {
        match (OPTIONS.iter().find(|(name, _)| name == option), mount.access) {
            (Some((_, Effect::Access)), MountAccess::ReadWrite) | (Some((_, Effect::Other)), _) => {
                options.push(option);
            }
            // It is that already, or more.
            (Some((_, Effect::Access)), MountAccess::ReadOnly | MountAccess::RecursiveReadOnly) => {}
            (None, _) => {
                let why = format!("\"{}\" is no option of a mount that is supported", option.escape_debug());
                return Err(Error::refused(field(&format!("mount_options[{number}]")), why));
            }
        }
    }
    Ok(with_ids(bind(source, &mount.container_path, &options), ids))
}

fn with_ids(mut mount: oci::Mount, ids: Option<&UserNamespace>) -> oci::Mount {
    if let Some(ids) = ids {
        mount
            .set_uid_mappings(Some(super::mapped(&ids.uids)))
            .set_gid_mappings(Some(super::mapped(&ids.gids)));
    }
    mount
}

fn bind(source: &Path, destination: &Path, options: &[&str]) -> oci::Mount {
    let mut mount = oci::Mount::default();
    let options = ["rbind"].iter().chain(options).map(|option| (*option).to_owned()).collect();
    mount
        .set_destination(destination.to_owned())
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options));
    mount
}

/// Without trailing slashes and dots, for comparing by name alone; the runtime resolves paths inside the root.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => cleaned.push(name),
            std::path::Component::ParentDir => {
                cleaned.pop();
            }
            std::path::Component::RootDir
            | std::path::Component::CurDir
            | std::path::Component::Prefix(_) => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdi::Edits;
    use crate::container::config::ContainerConfig;
    use crate::container::volumes::Volumes;
    use crate::handler::Handler;
    use crate::pod::config::PodConfig;
    use crate::rootfs::ImageConfig;

    fn below_dev(host_path: &str, container_path: &str, tty: bool) -> Vec<String> {
        let volume = Mount {
            container_path: container_path.into(),
            source: MountSource::Host(host_path.into()),
            access: MountAccess::ReadWrite,
            propagation: Propagation::Private,
            selinux_relabel: false,
            id_mapping: None,
            options: vec![],
        };
        let identity = runtime::identity::Identity {
            uid: 0,
            gid: 0,
            additional_gids: vec![],
            home: None,
            username: None,
        };
        let container = ContainerConfig { mounts: vec![volume], tty, ..ContainerConfig::default() };
        let input = SpecInput {
            pod: &PodConfig::default(),
            handler: &Handler::default(),
            pod_dir: Path::new("/run/pod"),
            container: &container,
            image: &ImageConfig::default(),
            volumes: &Volumes::default(),
            cdi: &Edits::default(),
            identity: &identity,
            devices: &[],
            cgroup: "/c",
            hostname: "h",
            apparmor: None,
            seccomp: None,
        };
        let all = mounts(&input).unwrap();
        let paths = all.iter().map(|mount| mount.destination().display().to_string());
        paths.filter(|path| path.starts_with("/dev")).collect()
    }

    #[test]
    fn who_brings_dev_brings_what_is_in_it() {
        assert_eq!(below_dev("/dev", "/dev", false), ["/dev"]);
        assert_eq!(below_dev("/dev", "/dev/", false), ["/dev/"]);
        assert_eq!(below_dev("/dev", "/dev", true), ["/dev", "/dev/pts"]);
        let usual = ["/dev", "/dev/pts", "/dev/mqueue", "/dev/shm"];
        assert_eq!(below_dev("/srv", "/srv", false), usual);
        assert_eq!(below_dev("/srv", "/dev/shm", false).len(), usual.len(), "one of them is another");
    }

    fn with_options(access: MountAccess, options: &[&str]) -> Result<Vec<String>, Error> {
        let mount = Mount {
            container_path: "/data".into(),
            source: MountSource::Host("/srv".into()),
            access,
            propagation: Propagation::Private,
            selinux_relabel: false,
            id_mapping: None,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        volume(3, &mount, &BTreeMap::new()).map(|mount| mount.options().clone().unwrap())
    }

    #[test]
    fn options_take_away_and_never_give_back() {
        let options = with_options(MountAccess::ReadWrite, &["noexec", "ro", "nosuid"]).unwrap();
        assert_eq!(options, ["rbind", "rw", "rprivate", "noexec", "ro", "nosuid"]);
        let options = with_options(MountAccess::RecursiveReadOnly, &["ro", "nodev"]).unwrap();
        assert_eq!(options, ["rbind", "rro", "rprivate", "nodev"], "what says more stays");
        for refused in
            ["rw", "exec", "dev", "suid", "rshared", "bind", "rro", "idmap", "size=5", "no\0dev", ""]
        {
            let error = with_options(MountAccess::ReadWrite, &["nodev", refused]).unwrap_err().to_string();
            assert!(error.starts_with("mounts[3].mount_options[1]: "), "{refused:?}: {error}");
        }
    }
}

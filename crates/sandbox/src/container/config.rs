//! A container as it was asked for. Values are checked where they are made; whether this runtime can do what they say is
//! decided by `container::check`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::pod::config::{NamespaceMode, UserNamespace};
use crate::resources::Resources;
use crate::signal::Signal;

/// A container as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Who the container is within its pod.
    pub metadata: ContainerMetadata,
    /// The image.
    pub image: ImageReference,
    /// Replaces the image's entry point (and its arguments) when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Replaces the image's working directory when not empty.
    pub working_dir: String,
    /// Variables, added to the image's.
    pub envs: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// CDI devices by their qualified names, `vendor.com/class=name`.
    pub cdi_devices: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Log file below the pod's log directory; empty for none.
    pub log_path: String,
    /// What the process finds on standard input.
    pub stdin: Stdin,
    /// Whether the process gets a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Security settings.
    pub security: ContainerSecurity,
    /// The signal that asks the process to end; `None` for the image's, or SIGTERM.
    pub stop_signal: Option<Signal>,
}

/// Who a container is within its pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// Name in the pod.
    pub name: String,
    /// How often it was made anew.
    pub attempt: u32,
}

/// An image, twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageReference {
    /// What to run: an id or a reference.
    pub reference: String,
    /// What the user wrote.
    pub user_specified: String,
    /// What the request says beside it. For answers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The handler that it is meant for; there is one image for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runtime_handler: String,
}

/// What a process finds on standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// /dev/null.
    #[default]
    Null,
    /// Kept open for as long as the container runs.
    Open,
    /// Closed after the first client that attached has gone.
    Once,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it appears; absolute.
    pub container_path: PathBuf,
    /// What appears.
    pub source: MountSource,
    /// Who may write.
    pub access: MountAccess,
    /// How mounts made later spread.
    pub propagation: Propagation,
    /// Whether the source is to be relabelled for SELinux.
    pub selinux_relabel: bool,
    /// Whose the files are that are somebody's on the host: mapped like the users of a user namespace.
    pub id_mapping: Option<UserNamespace>,
    /// Further options of the mount, such as `noexec`.
    pub options: Vec<String>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host's.
    Host(PathBuf),
    /// An image, read-only.
    Image {
        /// The image.
        image: ImageReference,
        /// The path in it; empty for all of it.
        sub_path: String,
    },
}

/// Who may write to a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountAccess {
    /// Whoever the files allow to.
    #[default]
    ReadWrite,
    /// Nobody; mounts below it keep their own setting.
    ReadOnly,
    /// Nobody, nor in mounts below it.
    RecursiveReadOnly,
}

/// How mounts made later below a mount spread (CRI MountPropagation).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A device of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path on the host; a directory stands for all devices in it.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

/// Security settings of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSecurity {
    /// All capabilities, all devices, no filters.
    pub privileged: bool,
    /// Capabilities to add, with or without `CAP_`; `ALL` for all.
    pub capabilities_add: Vec<String>,
    /// Capabilities to drop, likewise.
    pub capabilities_drop: Vec<String>,
    /// Capabilities to add to the ambient and inheritable sets too.
    pub capabilities_ambient: Vec<String>,
    /// Whose process-id, network and IPC namespaces the container is in.
    pub namespaces: ContainerNamespaces,
    /// Whom the process runs as.
    pub run_as: RunAs,
    /// Supplemental groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether groups of the image's /etc/group are added to them.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether the root is read-only.
    pub readonly_rootfs: bool,
    /// Whether execve may not grant privileges.
    pub no_new_privileges: bool,
    /// Paths to hide. `None` for the defaults.
    pub masked_paths: Option<Vec<String>>,
    /// Paths to make read-only. `None` for the defaults.
    pub readonly_paths: Option<Vec<String>>,
    /// Seccomp profile; `None` is what the handler has for it (`unset_seccomp`): unconfined, as in CRI, unless it says otherwise.
    pub seccomp: Option<Profile>,
    /// AppArmor profile; `None` is the default one, but for nodes that can't have it.
    pub apparmor: Option<Profile>,
    /// SELinux context.
    pub selinux: Option<SelinuxOptions>,
}

/// Namespaces of a container. All but pid follow the pod's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerNamespaces {
    /// Network.
    pub network: NamespaceMode,
    /// Process ids.
    pub pid: NamespaceMode,
    /// IPC.
    pub ipc: NamespaceMode,
    /// Users; `None` leaves it to the pod, which everything in it follows; one without mappings is the host's.
    pub user: Option<UserNamespace>,
}

/// Whom a process runs as. A group without a user cannot be said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunAs {
    /// Whom the image says, or root.
    #[default]
    Image,
    /// A user by number.
    Uid {
        /// The user.
        uid: u32,
        /// The group; `None` for the user's in the image, or root's.
        gid: Option<u32>,
    },
    /// A user by the image's /etc/passwd.
    Username {
        /// The user.
        name: String,
        /// The group; `None` for the user's.
        gid: Option<u32>,
    },
}

impl RunAs {
    /// Reads the three fields of CRI. The user's number goes before the name.
    ///
    /// # Errors
    /// [`Error::Refused`] for a group without a user, and for a number that is no id.
    pub fn new(user: Option<i64>, username: &str, group: Option<i64>) -> Result<Self, Error> {
        let id = |field: &str, value: i64| user_id(format!("linux.security_context.{field}"), value);
        let gid = group.map(|group| id("run_as_group", group)).transpose()?;
        match (user, username, gid) {
            (Some(user), _, gid) => Ok(Self::Uid { uid: id("run_as_user", user)?, gid }),
            (None, "", None) => Ok(Self::Image),
            (None, "", Some(gid)) => Err(Error::refused(
                "linux.security_context.run_as_group",
                format!("group {gid} is given without a user (run_as_user or run_as_username)"),
            )),
            (None, name, gid) => Ok(Self::Username { name: name.to_owned(), gid }),
        }
    }
}

/// A user or group id as Kubernetes takes them: 0 to 2147483647 (k8s.io/apimachinery, `validation.IsValidUserID`).
///
/// # Errors
/// [`Error::Refused`] with the field, for a number that is none.
pub fn user_id(field: impl Into<String>, value: i64) -> Result<u32, Error> {
    let id = u32::try_from(value).ok().filter(|id| *id <= i32::MAX.unsigned_abs());
    id.ok_or_else(|| Error::refused(field, format!("{value} is not an id between 0 and {}", i32::MAX)))
}

/// Whether groups of the image's /etc/group are added to a container's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// They are.
    #[default]
    Merge,
    /// Only the groups of the request count.
    Strict,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// None.
    Unconfined,
    /// This runtime's.
    RuntimeDefault,
    /// One of the node's, by path (seccomp) or name (AppArmor).
    Localhost(String),
}

/// An SELinux context.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelinuxOptions {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Level.
    pub level: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_kubernetes_to_both_ends() {
        let most = i64::from(i32::MAX);
        for (number, expected) in [(0, Some(0)), (most, Some(2_147_483_647)), (-1, None), (most + 1, None)] {
            let id = user_id("linux.security_context.run_as_user", number);
            assert_eq!(id.as_ref().ok(), expected.as_ref(), "{number}: {id:?}");
            let run_as = RunAs::new(Some(number), "", Some(number));
            let expected = expected.map(|id| RunAs::Uid { uid: id, gid: Some(id) });
            assert_eq!(run_as.ok(), expected, "{number}");
        }
    }
}

//! systemd scopes: which one a pod has, by the form of its cgroup's path, and what this crate needs of systemd. The server plugs that in.
//!
//! With the systemd driver a pod is one transient scope in the slice of its parent. The scope's cgroup is delegated: the leaves in it,
//! the supervisor's and those of containers, are made, limited and removed by this daemon as with the other driver. A
//! scope ends when nothing runs in it any more, whoever ended that: systemd is asked for nothing then.
//!
//! | slice | its cgroup |
//! |---|---|
//! | `-.slice` | `/` |
//! | `a-b.slice` | `/a.slice/a-b.slice` |
//!
//! Not here: the talk with systemd.

use std::fmt;

use async_trait::async_trait;

use crate::config::CgroupDriver;
use crate::error::{Cause, Error};
use crate::id::PodId;

/// NAME_MAX of linux/limits.h; the longest name of a unit is as long (systemd.unit(5)).
const LONGEST_NAME: usize = 255;

/// Half of PATH_MAX (linux/limits.h): the rest is for the hierarchy's mount, two ids, and what others make below.
const LONGEST_PARENT: usize = 2048;

const SLICE: &str = ".slice";
const PREFIX: &str = "knarr-";
const SUFFIX: &str = ".scope";

/// Matches the scopes of all pods (fnmatch(3)).
pub(crate) const PATTERN: &str = "knarr-*.scope";

/// Has systemd make scopes.
#[async_trait]
pub trait Scopes: fmt::Debug + Send + Sync + 'static {
    /// Starts a scope around a process, with a delegated cgroup that goes when nothing runs in it. When this fails or is given up, the scope
    /// may be there all the same until the process ends, and not longer.
    ///
    /// # Errors
    /// [`ScopeError`].
    async fn start(&self, scope: &Scope) -> Result<(), ScopeError>;

    /// Ends a scope with all in it. Idempotent.
    ///
    /// # Errors
    /// [`ScopeError`].
    async fn end(&self, name: &str) -> Result<(), ScopeError>;

    /// The names and descriptions of the scopes whose names match a pattern of fnmatch(3).
    ///
    /// # Errors
    /// [`ScopeError`].
    async fn list(&self, pattern: &str) -> Result<Vec<(String, String)>, ScopeError>;
}

/// A scope to be started. Nothing of it comes from annotations, labels or names of a pod (CVE-2024-3154).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The unit's name.
    pub name: String,
    /// The slice that it goes into.
    pub slice: String,
    /// What it is, for people and for the next daemon.
    pub description: String,
    /// The process that it begins with.
    pub pid: u32,
}

/// What goes wrong with systemd.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScopeError {
    /// It did not answer in time.
    #[error("systemd is late")]
    Deadline(#[source] Cause),
    /// It could not be asked, or refused, or failed.
    #[error("systemd failed")]
    Failed(#[source] Cause),
}

impl ScopeError {
    /// In this crate's terms.
    pub(crate) fn of(self, step: &'static str, subject: &str) -> Error {
        match self {
            Self::Deadline(cause) => Error::TimedOut { step, subject: subject.to_owned(), cause },
            Self::Failed(cause) => Error::Step { step, subject: subject.to_owned(), cause },
        }
    }
}

/// The scope that a pod's cgroup is: its name and its slice. `None` for a cgroup made by directories.
pub(crate) fn of_cgroup(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/')?;
    let is_scope = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
    let slice = match parent.rsplit_once('/') {
        Some((_, slice)) => slice,
        None => "-.slice",
    };
    (is_scope && slice.ends_with(SLICE)).then_some((name, slice))
}

/// The pod that a scope is named after.
pub(crate) fn pod_of(name: &str) -> Option<PodId> {
    PodId::try_from(name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.to_owned()).ok()
}

/// What a pod's scope is described as: by it a daemon knows its own.
pub(crate) fn description(pod: &PodId, state_dir: &std::path::Path) -> String {
    format!("knarr: pod {pod} of {}", state_dir.display())
}

/// The cgroup of a pod, from the root of the hierarchies. `parent` has been checked, or is the configured one.
pub(crate) fn pod_cgroup(driver: &CgroupDriver, parent: &str, pod: &PodId) -> String {
    match driver {
        CgroupDriver::Cgroupfs => match parent.trim_matches('/') {
            "" => format!("/{pod}"),
            parent => format!("/{parent}/{pod}"),
        },
        CgroupDriver::Systemd(_) => {
            format!("{}/{PREFIX}{pod}{SUFFIX}", expanded(last(parent)).unwrap_or_default())
        }
    }
}

/// Checks the parent that a pod asks for; an empty one asks for nothing.
///
/// # Errors
/// [`Error::Refused`] for what is no path, or has the form of the other driver.
pub(crate) fn check_parent(driver: &CgroupDriver, parent: &str) -> Result<(), Error> {
    let parent = parent.trim_end_matches('/');
    let refuse = |why: &str| Err(Error::refused("linux.cgroup_parent", format!("\"{parent}\" {why}")));
    let relative = parent.strip_prefix('/').unwrap_or(parent);
    let is_odd = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0');
    if !relative.is_empty() && relative.split('/').any(is_odd) {
        return refuse("is not a clean path");
    }
    // What the kernel has no place for can neither be made nor, which is worse, removed.
    let length = if relative.ends_with(SLICE) {
        expanded(last(relative)).map_or(0, |path| path.len())
    } else {
        relative.len()
    };
    if length > LONGEST_PARENT || relative.split('/').any(|part| part.len() > LONGEST_NAME) {
        return refuse("is too long for a path of cgroups");
    }
    match (driver, relative.ends_with(SLICE)) {
        (CgroupDriver::Cgroupfs, true) => refuse("is a systemd slice, and the cgroup driver is cgroupfs"),
        (CgroupDriver::Systemd(_), false) if !relative.is_empty() => {
            refuse("is not a systemd slice, and the cgroup driver is systemd")
        }
        (CgroupDriver::Systemd(_), true) => match expanded(last(relative)) {
            None => refuse("is not the name of a slice"),
            Some(path) if relative.contains('/') && path.strip_prefix('/') != Some(relative) => {
                refuse(&format!("is not where systemd has that slice, which is \"{path}\""))
            }
            Some(_) => Ok(()),
        },
        (CgroupDriver::Cgroupfs | CgroupDriver::Systemd(_), false) => Ok(()),
    }
}

fn last(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}

/// The path of a slice's cgroup: each dash leads one slice deeper (systemd.slice(5)). `None` for what is no slice; the root's
/// is empty.
fn expanded(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(SLICE)?;
    if name == "-" {
        return Some(String::new());
    }
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'\\');
    let is_name = slice.len() <= LONGEST_NAME && name.bytes().all(is_plain);
    if !is_name || name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Some(ends.filter_map(|end| Some(format!("/{}{SLICE}", name.get(..end)?))).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Debug)]
    struct Nobody;

    #[async_trait]
    impl Scopes for Nobody {
        async fn start(&self, _: &Scope) -> Result<(), ScopeError> {
            Ok(())
        }
        async fn end(&self, _: &str) -> Result<(), ScopeError> {
            Ok(())
        }
        async fn list(&self, _: &str) -> Result<Vec<(String, String)>, ScopeError> {
            Ok(Vec::new())
        }
    }

    fn systemd() -> CgroupDriver {
        CgroupDriver::Systemd(Arc::new(Nobody))
    }

    #[test]
    fn slices_lie_in_each_other() {
        assert_eq!(expanded("a.slice").as_deref(), Some("/a.slice"));
        assert_eq!(
            expanded("kubepods-burstable-pod1_2.slice").as_deref(),
            Some("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice")
        );
        assert_eq!(expanded("-.slice").as_deref(), Some(""));
        let long = format!("{}.slice", "a".repeat(250));
        for bad in [
            "",
            ".slice",
            "a",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            "--.slice",
            "a b.slice",
            "a@b.slice",
            "ä.slice",
            &long,
        ] {
            assert_eq!(expanded(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn each_driver_takes_parents_of_its_own_form() {
        let cases = [
            (CgroupDriver::Cgroupfs, "", true),
            (CgroupDriver::Cgroupfs, "/kubepods/burstable/pod1", true),
            (CgroupDriver::Cgroupfs, "kubepods/pod1/", true),
            (CgroupDriver::Cgroupfs, "kubepods-pod1.slice", false),
            (CgroupDriver::Cgroupfs, "/a/../b", false),
            (systemd(), "", true),
            (systemd(), "/", true),
            (systemd(), "kubepods-pod1.slice", true),
            (systemd(), "/kubepods.slice/kubepods-pod1.slice", true),
            (systemd(), "-.slice", true),
            (systemd(), "/kubepods-pod1.slice", true),
            (systemd(), "/other.slice/kubepods-pod1.slice", false),
            (systemd(), "/kubepods/burstable/pod1", false),
            (systemd(), "kubepods--pod1.slice", false),
            (systemd(), "/a.slice/../a-b.slice", false),
        ];
        for (driver, parent, is_good) in cases {
            let checked = check_parent(&driver, parent);
            assert_eq!(checked.is_ok(), is_good, "{driver:?} {parent:?} {checked:?}");
            if let Err(error) = checked {
                assert!(error.to_string().starts_with("linux.cgroup_parent: "), "{error}");
            }
        }
    }

    #[test]
    fn a_pods_scope_is_known_by_its_cgroup() {
        let pod = PodId::random();
        let path = pod_cgroup(&systemd(), "/a.slice/a-b.slice", &pod);
        assert_eq!(path, format!("/a.slice/a-b.slice/knarr-{pod}.scope"));
        let (name, slice) = of_cgroup(&path).unwrap();
        assert_eq!(
            (name, slice, pod_of(name)),
            (&*format!("knarr-{pod}.scope"), "a-b.slice", Some(pod.clone()))
        );
        let root = pod_cgroup(&systemd(), "-.slice", &pod);
        assert_eq!(of_cgroup(&root), Some((&*format!("knarr-{pod}.scope"), "-.slice")));
        for parent in ["", "/a", "a/b"] {
            assert_eq!(of_cgroup(&pod_cgroup(&CgroupDriver::Cgroupfs, parent, &pod)), None);
        }
        assert_eq!(pod_of("knarr-../x.scope"), None);
    }
}

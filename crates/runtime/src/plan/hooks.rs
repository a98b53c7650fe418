//! Hooks: programs that are run around the making and ending of a container (runtime-spec, config.md,
//! "POSIX-platform Hooks"), and what they are told of it.
//!
//! Not here: running them (`hooks`), and when that is (`init::launch`, `supervisor`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::build::refuse;
use super::{NamespaceSource, Refusal};
use crate::spec::oci;

/// Where a container's specification lies: what hooks are told, and find their way by.
#[derive(Debug, Clone, Copy)]
pub struct Bundle<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The directory with `config.json`, absolute.
    pub directory: &'a Path,
    /// An existing directory of the host's, absolute: what `root.path` means. While hooks run before the root
    /// is changed, the root filesystem is mounted there for them.
    pub root: &'a Path,
}

/// A container's hooks, by the moment at which they run; each list in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// What they are told.
    pub about: About,
    /// On the host, when the mounts are made and the root has not been changed yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    /// The same, after those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// The same, after those and in the container's namespaces: programs of the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    /// Before the command is executed, in the container: programs of its own, with the rights of its process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// On the host, when the command runs and nobody has been told yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// On the host, when the container is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

/// The part of a container's state (runtime-spec, runtime.md, "State") that is the same for all hooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The version of the specification.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    /// Where the root filesystem is mounted for hooks.
    pub root: PathBuf,
    /// The container's annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program, absolute.
    pub path: PathBuf,
    /// Its arguments, the first of which is its name; empty for the path alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment, `NAME=value` each: all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// After so many seconds it is killed and has failed; none for as long as what it is part of may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
}

impl Hooks {
    /// Whether any runs before the root is changed: the container is then built beside the host's root first.
    pub(crate) fn are_before_pivot(&self) -> bool {
        self.are_on_host_first() || !self.create_container.is_empty()
    }

    /// Whether any runs on the host before the root is changed.
    pub(crate) fn are_on_host_first(&self) -> bool {
        !(self.prestart.is_empty() && self.create_runtime.is_empty())
    }

    fn are_none(&self) -> bool {
        let later = [&self.start_container, &self.poststart, &self.poststop];
        !self.are_before_pivot() && later.into_iter().all(Vec::is_empty)
    }
}

/// The hooks of a specification; none when there are none.
pub(super) fn read(
    spec: &oci::Spec,
    bundle: &Bundle<'_>,
    user: &NamespaceSource,
) -> Result<Option<Box<Hooks>>, Refusal> {
    let Some(asked) = spec.hooks() else { return Ok(None) };
    #[allow(deprecated, reason = "prestart: specifications still have it")]
    let prestart = asked.prestart();
    let about = About {
        oci_version: spec.version().clone(),
        id: bundle.id.to_owned(),
        bundle: bundle.directory.to_owned(),
        root: bundle.root.to_owned(),
        annotations: spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
    };
    let hooks = Hooks {
        about,
        prestart: list("prestart", prestart)?,
        create_runtime: list("createRuntime", asked.create_runtime())?,
        create_container: list("createContainer", asked.create_container())?,
        start_container: list("startContainer", asked.start_container())?,
        poststart: list("poststart", asked.poststart())?,
        poststop: list("poststop", asked.poststop())?,
    };
    if hooks.are_before_pivot() && *user != NamespaceSource::Host {
        // They find their way by paths of the host's, which are closed to root in there.
        let why = "hooks before the root is changed cannot run for a container in a user namespace";
        return Err(refuse("hooks", why));
    }
    Ok((!hooks.are_none()).then(|| Box::new(hooks)))
}

fn list(moment: &str, hooks: &Option<Vec<oci::Hook>>) -> Result<Vec<Hook>, Refusal> {
    let read = |(at, hook)| one(&format!("hooks.{moment}[{at}]"), hook);
    hooks.iter().flatten().enumerate().map(read).collect()
}

fn one(place: &str, hook: &oci::Hook) -> Result<Hook, Refusal> {
    let path = hook.path();
    if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(refuse(format!("{place}.path"), format!("{path:?} is not an absolute path")));
    }
    let texts = |name: &str, texts: &Option<Vec<String>>| {
        let texts = texts.clone().unwrap_or_default();
        match texts.iter().position(|text| text.contains('\0')) {
            Some(at) => Err(refuse(format!("{place}.{name}[{at}]"), "contains a zero byte")),
            None => Ok(texts),
        }
    };
    let seconds = |seconds: i64| u32::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    let timeout_s = match hook.timeout() {
        None => None,
        Some(given) => Some(seconds(given).ok_or_else(|| {
            refuse(format!("{place}.timeout"), format!("{given} is not from 1 to {}", u32::MAX))
        })?),
    };
    Ok(Hook {
        path: path.clone(),
        args: texts("args", hook.args())?,
        env: texts("env", hook.env())?,
        timeout_s,
    })
}

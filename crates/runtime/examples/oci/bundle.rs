//! A bundle: its configuration read and turned into what the crate takes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use runtime::cgroup::{Cgroup, Host};
use runtime::plan::{self, Bundle, NamespacePlan, Plan, PlanInput, PodPlan, SeccompFilter};
use runtime::seccomp;
use runtime::spec::oci;
use serde_json::Value;

use crate::store::absolute;
use crate::{Outcome, namespaces, resources};

/// Larger configurations are refused, in bytes.
const LARGEST: u64 = 16 << 20;

/// Everything that a container is made from.
pub struct Prepared {
    pub spec: oci::Spec,
    pub directory: PathBuf,
    pub rootfs: PathBuf,
    pub pod: PodPlan,
    pub plan: Plan,
    pub cgroup: Cgroup,
    pub limits: oci::LinuxResources,
    /// Without one it can be created, and not started (runtime.md, "Start").
    pub has_process: bool,
}

/// Reads a bundle. Nothing is changed, and all that can be refused is.
pub fn prepare(id: &str, directory: &Path) -> Outcome<Prepared> {
    let directory = absolute(directory)?;
    let (mut spec, filter) = read(&directory.join("config.json"))?;
    check_version(spec.version())?;
    let root = spec.root().as_ref().ok_or("root: is missing")?;
    let rootfs = absolute(&directory.join(root.path())).map_err(|error| format!("root.path: {error}"))?;
    if !rootfs.is_dir() {
        return Err(format!("root.path: {} is not a directory", rootfs.display()).into());
    }
    resolve_sources(&mut spec, &directory);
    let has_process = spec.process().is_some();
    if !has_process {
        spec.set_process(Some(placeholder()?));
    }
    let (pod, namespaces) = namespaces::read(&spec)?;
    let bundle = Bundle { id, directory: &directory, root: &rootfs };
    let mut plan = plan(&spec, (namespaces, filter), &bundle)?;
    namespaces::join(&mut plan.namespaces, &pod);
    let linux = spec.linux().as_ref();
    let path = cgroup_path(id, linux.and_then(|linux| linux.cgroups_path().as_deref()))?;
    let cgroup = Cgroup::at(&Host::detect()?, &path)?;
    let limits = resources::limits(linux.and_then(|linux| linux.resources().as_ref()));
    Ok(Prepared { spec, directory, rootfs, pod, plan, cgroup, limits, has_process })
}

/// What stands for a process that is not there, and is never executed.
fn placeholder() -> Outcome<oci::Process> {
    Ok(serde_json::from_value(
        serde_json::json!({ "args": ["/"], "cwd": "/", "user": { "uid": 0, "gid": 0 } }),
    )?)
}

fn plan(
    spec: &oci::Spec,
    (namespaces, seccomp): (NamespacePlan, Option<SeccompFilter>),
    bundle: &Bundle<'_>,
) -> Outcome<Plan> {
    Ok(plan::plan_in_bundle(&PlanInput { spec, namespaces, seccomp }, bundle)?)
}

/// The configuration, and its filter compiled.
fn read(path: &Path) -> Outcome<(oci::Spec, Option<SeccompFilter>)> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| failed(&error))?;
    file.take(LARGEST + 1).read_to_end(&mut text).map_err(|error| failed(&error))?;
    if text.len() as u64 > LARGEST {
        return Err(failed(&format!("is larger than {LARGEST} bytes")).into());
    }
    let mut value: Value = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let capabilities = capabilities(&value);
    // Read from the text: the crate's own reader knows more than the types do.
    let profile = value.get_mut("linux").and_then(|linux| linux.as_object_mut()?.remove("seccomp"));
    let filter = match profile {
        None | Some(Value::Null) => None,
        Some(profile) => Some(filter(&profile, capabilities).map_err(|why| format!("linux.seccomp.{why}"))?),
    };
    Ok((serde_json::from_value(value).map_err(|error| failed(&error))?, filter))
}

fn capabilities(value: &Value) -> u64 {
    let bounding = value.pointer("/process/capabilities/bounding").and_then(Value::as_array);
    let number = |name: &Value| name.as_str().and_then(plan::capability_number);
    bounding.into_iter().flatten().filter_map(number).fold(0, |mask, number| mask | 1 << number)
}

fn filter(profile: &Value, capabilities: u64) -> Result<SeccompFilter, String> {
    let machine = seccomp::Architecture::NATIVE;
    let surroundings = seccomp::Surroundings { capabilities, machine, kernel: seccomp::kernel() };
    seccomp::compile(&seccomp::parse(profile.to_string().as_bytes(), &surroundings)?)
}

/// Versions are as SemVer has them: the same major version is understood.
fn check_version(version: &str) -> Outcome<()> {
    let mut parts = version.split(['.', '-', '+']);
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (number(), number(), number()) {
        (Some(1), Some(_), Some(_)) => Ok(()),
        (Some(_), Some(_), Some(_)) => {
            let newest = runtime::features::NEWEST_VERSION;
            Err(format!("ociVersion: {version:?} is not supported, only those from 1.0.0 to {newest}").into())
        }
        _ => Err(format!("ociVersion: {version:?} is not a version").into()),
    }
}

/// Sources of bind mounts are relative to the bundle (config.md, "Mounts").
fn resolve_sources(spec: &mut oci::Spec, directory: &Path) {
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let bind = |option: &String| option == "bind" || option == "rbind";
        let is_bind = mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(bind);
        if let Some(source) = mount.source().clone()
            && is_bind
            && source.is_relative()
        {
            mount.set_source(Some(directory.join(source)));
        }
    }
}

/// Relative paths are below a place of this program's own (config-linux.md, "Cgroups Path").
fn cgroup_path(id: &str, asked: Option<&Path>) -> Outcome<String> {
    let Some(asked) = asked.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(format!("/knarr-oci/{id}"));
    };
    let text = asked.to_str().ok_or("linux.cgroupsPath: is not UTF-8")?;
    let clean = text.trim_end_matches('/');
    Ok(if asked.is_absolute() { clean.to_owned() } else { format!("/knarr-oci/{clean}") })
}

//! What devices change about a container: from words of files to parts of a specification (SPEC.md, "OCI edits").

use std::path::{Path, PathBuf};

use runtime::spec::oci;

use super::file::{ContainerEdits, DeviceNode, Hook, Mount};
use crate::error::Error;
use crate::sources::Looker;
use crate::spec::devices::HostDevice;

/// Changes of a container.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    /// Variables, `KEY=value`; they go before those of the request.
    pub(crate) env: Vec<String>,
    /// Device nodes. An owner that isn't said is whom the container runs as.
    pub(crate) devices: Vec<HostDevice>,
    /// Mounts; they replace others at the same place.
    pub(crate) mounts: Vec<oci::Mount>,
    /// Further groups of the process.
    pub(crate) gids: Vec<u32>,
    /// Programs that run around it.
    pub(crate) hooks: oci::Hooks,
}

/// Where something stands, who asks for it, and who looks at files.
struct Context<'a> {
    place: &'a str,
    field: &'a str,
    looker: &'a Looker,
}

impl Context<'_> {
    fn refused(&self, part: &str, why: impl std::fmt::Display) -> Error {
        Error::refused(self.field, format!("{}.{part}: {why}", self.place))
    }

    fn absolute(&self, part: &str, text: &str) -> Result<PathBuf, Error> {
        let path = Some(Path::new(text)).filter(|path| path.is_absolute() && !text.contains('\0'));
        path.map(Path::to_owned)
            .ok_or_else(|| self.refused(part, format!("\"{}\" is not an absolute path", text.escape_debug())))
    }

    fn variables(&self, part: &str, variables: &[String]) -> Result<(), Error> {
        for (at, variable) in variables.iter().enumerate() {
            let is_variable =
                variable.split_once('=').is_some_and(|(key, _)| !key.is_empty()) && !variable.contains('\0');
            if !is_variable {
                let why = format!("\"{}\" is not of the form KEY=value", variable.escape_debug());
                return Err(self.refused(&format!("{part}[{at}]"), why));
            }
        }
        Ok(())
    }
}

impl Edits {
    /// Adds the changes that stand at a place of a file, for a field of a request.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Deadline`].
    pub(super) fn add(
        &mut self,
        (edits, place): (&ContainerEdits, &str),
        (field, looker): (&str, &Looker),
    ) -> Result<(), Error> {
        let context = Context { place, field, looker };
        for (at, wanted) in edits.hooks.iter().enumerate() {
            hook(&mut self.hooks, wanted, (&format!("hooks[{at}]"), &context))?;
        }
        if edits.intel_rdt.is_some() {
            return Err(context.refused("intelRdt", "is not supported"));
        }
        context.variables("env", &edits.env)?;
        self.env.extend(edits.env.iter().cloned());
        for (at, node) in edits.device_nodes.iter().enumerate() {
            let device = device(node, &format!("deviceNodes[{at}]"), &context)?;
            self.devices.retain(|known| known.path != device.path);
            self.devices.push(device);
        }
        for (at, wanted) in edits.mounts.iter().enumerate() {
            let mount = mount(wanted, &format!("mounts[{at}]"), &context)?;
            self.mounts.push(mount);
        }
        if let Some(at) = edits.additional_gids.iter().position(|gid| *gid == u32::MAX) {
            // To the kernel it means that there is none (setgroups(2) answers EINVAL).
            return Err(
                context.refused(&format!("additionalGids[{at}]"), "4294967295 is not a group".to_owned())
            );
        }
        // Nobody needs to be told to be in root's group, and some files say 0 for none.
        self.gids.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }
}

fn device(node: &DeviceNode, part: &str, context: &Context<'_>) -> Result<HostDevice, Error> {
    let within = |name: &str| format!("{part}.{name}");
    let path = context.absolute(&within("path"), &node.path)?;
    let (host_field, host) =
        if node.host_path.is_empty() { ("path", &node.path) } else { ("hostPath", &node.host_path) };
    let host = context.absolute(&within(host_field), host)?;
    let permissions = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    if !permissions.chars().all(|c| "rwm".contains(c)) {
        let why = format!("\"{}\" is not made of \"r\", \"w\" and \"m\"", permissions.escape_debug());
        return Err(context.refused(&within("permissions"), why));
    }
    let said = match node.kind.as_str() {
        "" => None,
        "b" => Some(oci::LinuxDeviceType::B),
        "c" | "u" => Some(oci::LinuxDeviceType::C),
        "p" => Some(oci::LinuxDeviceType::P),
        other => {
            return Err(context.refused(&within("type"), format!("\"{}\" is no type", other.escape_debug())));
        }
    };
    let (kind, major, minor) = match said {
        Some(kind) if kind == oci::LinuxDeviceType::P || node.major != 0 => (kind, node.major, node.minor),
        _ => {
            let _look = context.looker.at(&host)?;
            let found = HostDevice::look(&host).map_err(|error| {
                context.refused(&within(host_field), format!("\"{}\": {error}", host.display()))
            })?;
            if said.is_some_and(|said| said != found.kind) {
                let why = format!("\"{}\" is of another type on the host", host.display());
                return Err(context.refused(&within("type"), why));
            }
            (found.kind, found.major, found.minor)
        }
    };
    Ok(HostDevice {
        path,
        kind,
        major,
        minor,
        // As runtimes make nodes of which nothing is said (config-linux.md, "Devices").
        mode: node.file_mode.unwrap_or(0o666),
        uid: node.uid,
        gid: node.gid,
        permissions: permissions.to_owned(),
    })
}

fn hook(hooks: &mut oci::Hooks, wanted: &Hook, (part, context): (&str, &Context<'_>)) -> Result<(), Error> {
    let within = |name: &str| format!("{part}.{name}");
    #[allow(deprecated, reason = "prestart: files still have it")]
    let list = match wanted.hook_name.as_str() {
        "prestart" => hooks.prestart_mut(),
        "createRuntime" => hooks.create_runtime_mut(),
        "createContainer" => hooks.create_container_mut(),
        "startContainer" => hooks.start_container_mut(),
        "poststart" => hooks.poststart_mut(),
        "poststop" => hooks.poststop_mut(),
        other => {
            let why = format!("\"{}\" is no hook's name", other.escape_debug());
            return Err(context.refused(&within("hookName"), why));
        }
    };
    let path = context.absolute(&within("path"), &wanted.path)?;
    context.variables(&within("env"), &wanted.env)?;
    if let Some(at) = wanted.args.iter().position(|arg| arg.contains('\0')) {
        return Err(context.refused(&within(&format!("args[{at}]")), "contains a zero byte"));
    }
    if let Some(seconds) = wanted.timeout.filter(|seconds| !(1..=i64::from(u32::MAX)).contains(seconds)) {
        return Err(context.refused(&within("timeout"), format!("{seconds} is not from 1 to {}", u32::MAX)));
    }
    let mut hook = oci::Hook::default();
    hook.set_path(path)
        .set_args(Some(wanted.args.clone()))
        .set_env(Some(wanted.env.clone()))
        .set_timeout(wanted.timeout);
    list.get_or_insert_default().push(hook);
    Ok(())
}

fn mount(wanted: &Mount, part: &str, context: &Context<'_>) -> Result<oci::Mount, Error> {
    let within = |name: &str| format!("{part}.{name}");
    let target = context.absolute(&within("containerPath"), &wanted.container_path)?;
    let mut options = wanted.options.clone();
    let mut mount = oci::Mount::default();
    match wanted.kind.as_str() {
        "" | "bind" | "none" => {
            let source = context.absolute(&within("hostPath"), &wanted.host_path)?;
            let _look = context.looker.at(&source)?;
            std::fs::metadata(&source).map_err(|error| {
                context.refused(&within("hostPath"), format!("\"{}\": {error}", source.display()))
            })?;
            if !options.iter().any(|option| option == "bind" || option == "rbind") {
                options.insert(0, "rbind".to_owned());
            }
            mount.set_source(Some(source)).set_typ(Some("bind".to_owned()));
        }
        "tmpfs" => {
            mount.set_source(Some("tmpfs".into())).set_typ(Some("tmpfs".to_owned()));
        }
        other => {
            let why = format!("\"{}\" is not supported, only \"bind\" and \"tmpfs\"", other.escape_debug());
            return Err(context.refused(&within("type"), why));
        }
    }
    mount.set_destination(target).set_options(Some(options));
    Ok(mount)
}

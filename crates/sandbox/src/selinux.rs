//! SELinux: the contexts of a pod's processes and files.
//!
//! ```text
//! policy's lxc_contexts ─► default contexts ─┐
//! pod: options, else a level of its own ─────┼─► the pod's labels (recorded) ─┬─► its containers' processes, roots, tmpfs, /dev/shm
//! container: options ────────────────────────┘                                └─► volumes that ask to be relabelled
//! ```
//! Containers of a pod share its level: a pair of categories that no other pod of this daemon has (multi-category security). What
//! privileged containers run as is not confined.
//!
//! Not here: changing to a context, mounting with one (the runtime, `rootfs`).

mod context;
mod kernel;
mod levels;
pub(crate) mod relabel;

use serde::{Deserialize, Serialize};

use crate::apparmor::LsmUsage;
use crate::container::config::{ContainerSecurity, SelinuxOptions};
use crate::error::{Error, chain};
use crate::id::PodId;
use context::Context;
use kernel::{Defaults, Found, Kernel};
use levels::Levels;

/// Path of the fields in requests.
const FIELD: &str = "linux.security_context.selinux_options";

/// The contexts of a pod or a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Labels {
    /// Of processes; `None` for the runtime's own.
    pub(crate) process: Option<String>,
    /// Of files.
    pub(crate) mount: String,
}

/// SELinux as this daemon uses it.
#[derive(Debug)]
pub(crate) struct Selinux {
    /// The policy's side of it, or why there is none.
    policy: Found,
    levels: Levels,
}

impl Selinux {
    /// Asks the kernel, and the policy that is loaded.
    ///
    /// # Errors
    /// [`Error::Step`] when there is a policy that can't be asked.
    pub(crate) fn detect(usage: LsmUsage) -> Result<Self, Error> {
        let policy = match usage {
            LsmUsage::Off => Err("it is switched off in the configuration of this node's runtime".to_owned()),
            LsmUsage::AsHost => Kernel::find()?,
        };
        Ok(Self { policy, levels: Levels::default() })
    }

    /// What it does here, in words.
    ///
    /// # Errors
    /// Why it does nothing.
    pub(crate) fn state(&self) -> Result<String, String> {
        let (kernel, defaults) = self.policy.as_ref().map_err(String::clone)?;
        let mode = if kernel.enforces() { "enforcing" } else { "permissive" };
        Ok(format!("{mode}, processes are {}, files {}", defaults.process, defaults.file))
    }

    /// Checks what can be said from the options alone.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub(crate) fn check(&self, options: Option<&SelinuxOptions>) -> Result<(), Error> {
        let Some(options) = options.filter(|options| **options != SelinuxOptions::default()) else {
            return Ok(());
        };
        if let Err(why) = &self.policy {
            return Err(Error::refused(FIELD, format!("this node has no SELinux: {why}")));
        }
        context::check(options).map_err(|(part, why)| Error::refused(format!("{FIELD}.{part}"), why))
    }

    /// The labels of a new pod. A level that is its own is taken for it until [`Selinux::free`].
    ///
    /// # Errors
    /// [`Error::Refused`] for options that the policy doesn't know, [`Error::Exhausted`] when all levels are taken.
    pub(crate) fn of_pod(&self, pod: &PodId, wish: Option<&SelinuxOptions>) -> Result<Option<Labels>, Error> {
        self.check(wish)?;
        let Ok((kernel, defaults)) = &self.policy else { return Ok(None) };
        let mut process = defaults.process.clone();
        if let Some(options) = wish {
            process.change(options);
        }
        let has_level = wish.is_some_and(|options| !options.level.is_empty());
        if process.level.is_some() && !has_level {
            process.level = Some(self.levels.take(pod)?);
        }
        let labels = labels(process, defaults, wish);
        self.known(kernel, &labels).inspect_err(|_| self.free(pod)).map(|()| Some(labels))
    }

    /// Takes up the level of a pod that an earlier daemon made.
    pub(crate) fn adopt(&self, pod: &PodId, labels: &Labels) {
        let context = labels.process.as_deref().and_then(Context::parse);
        if let Some(level) = context.and_then(|context| context.level) {
            self.levels.adopt(pod, level);
        }
    }

    /// Gives a pod's level back.
    pub(crate) fn free(&self, pod: &PodId) {
        self.levels.free(pod);
    }

    /// The labels of a container in a pod with these. A pod without, made while SELinux was off, has none to give.
    ///
    /// # Errors
    /// [`Error::Refused`] for options that the policy doesn't know.
    pub(crate) fn of_container(
        &self,
        pod: Option<&Labels>,
        security: &ContainerSecurity,
    ) -> Result<Option<Labels>, Error> {
        self.check(security.selinux.as_ref())?;
        let (Ok((kernel, defaults)), Some(pod)) = (&self.policy, pod) else { return Ok(None) };
        let own = pod.process.as_deref().and_then(Context::parse);
        let mut process = own.unwrap_or_else(|| defaults.process.clone());
        let mut labels = pod.clone();
        if let Some(options) = &security.selinux {
            process.change(options);
            labels = self::labels(process, defaults, Some(options));
            labels.mount = match Context::parse(&pod.mount) {
                Some(mount) if options.level.is_empty() && options.user.is_empty() => mount.to_string(),
                _ => labels.mount,
            };
            self.known(kernel, &labels)?;
        }
        if security.privileged {
            labels.process = defaults.privileged.as_ref().map(ToString::to_string);
        }
        Ok(Some(labels))
    }

    fn known(&self, kernel: &Kernel, labels: &Labels) -> Result<(), Error> {
        for label in labels.process.iter().chain([&labels.mount]) {
            let is_known = kernel
                .knows(label)
                .map_err(|cause| Error::step("checking the SELinux context", label.clone(), cause))?;
            if !is_known {
                let why = format!("\"{label}\" is no context of the policy of this node");
                return Err(Error::refused(FIELD, why));
            }
        }
        Ok(())
    }
}

/// The labels that go with a process context: files have its level, and its user when that was asked for.
fn labels(process: Context, defaults: &Defaults, wish: Option<&SelinuxOptions>) -> Labels {
    let mut file = defaults.file.clone();
    file.level.clone_from(&process.level);
    if wish.is_some_and(|options| !options.user.is_empty()) {
        file.user.clone_from(&process.user);
    }
    Labels { process: Some(process.to_string()), mount: file.to_string() }
}

/// What SELinux does on this host when the configuration leaves it as it is, in words.
///
/// # Errors
/// Why it does nothing.
pub fn selinux_of_host() -> Result<String, String> {
    Selinux::detect(LsmUsage::AsHost).map_err(|error| chain(&error))?.state()
}

/// Says once, at the start, what an operator of a host with SELinux should know.
pub(crate) fn announce(selinux: &Selinux) {
    match selinux.state() {
        Ok(state) => tracing::info!(state, "SELinux confines containers"),
        Err(why) if kernel::is_loaded() => tracing::warn!(why, "SELinux does not confine containers"),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Defaults {
        let context = |text| Context::parse(text).unwrap();
        Defaults {
            process: context("system_u:system_r:container_t:s0"),
            file: context("system_u:object_r:container_file_t:s0"),
            privileged: Some(context("system_u:system_r:spc_t:s0")),
        }
    }

    #[test]
    fn files_have_the_level_of_the_process() {
        let options = SelinuxOptions { kind: "web_t".into(), level: "s0:c1,c5".into(), ..Default::default() };
        let mut process = defaults().process;
        process.change(&options);
        let made = labels(process.clone(), &defaults(), Some(&options));
        assert_eq!(made.process.as_deref(), Some("system_u:system_r:web_t:s0:c1,c5"));
        assert_eq!(made.mount, "system_u:object_r:container_file_t:s0:c1,c5");
        let options = SelinuxOptions { user: "staff_u".into(), ..options };
        process.change(&options);
        let made = labels(process, &defaults(), Some(&options));
        assert_eq!(made.mount, "staff_u:object_r:container_file_t:s0:c1,c5");
    }

    #[test]
    fn without_selinux_options_with_content_are_refused() {
        let off = Selinux::detect(LsmUsage::Off).unwrap();
        off.check(None).unwrap();
        off.check(Some(&SelinuxOptions::default())).unwrap();
        let options = SelinuxOptions { level: "s0".into(), ..Default::default() };
        let refused = off.check(Some(&options)).unwrap_err().to_string();
        assert!(refused.starts_with("linux.security_context.selinux_options: this node has no"), "{refused}");
        assert_eq!(off.of_pod(&PodId::random(), None).unwrap(), None);
    }
}

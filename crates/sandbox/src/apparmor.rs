//! AppArmor: which profile the processes of a container run under, and loading the default one.
//!
//! | asked for | on a host with AppArmor | without |
//! |---|---|---|
//! | Localhost | the profile, refused when it is not loaded | refused |
//! | RuntimeDefault | the default profile, refused where there can be none | nothing |
//! | nothing at all | the default profile, nothing where there can be none | nothing |
//! | Unconfined, or privileged | nothing | nothing |
//!
//! The default profile is the configured one, or one of our own (see `profile`), which is loaded before its first use and again when somebody has
//! unloaded it. Profiles are compiled by the node's apparmor_parser; the kernel takes them only compiled. There can be none where that is missing, or
//! the configured one isn't loaded; any other failure fails the container, for nobody is to run unconfined because a machine was slow.
//!
//! Not here: changing to a profile (the runtime's init).

mod kernel;
mod parser;
mod profile;

use std::io;
use std::sync::Once;

use tokio::sync::Mutex;

use crate::container::config::{ContainerSecurity, Profile};
use crate::error::{Error, chain};
use crate::pod::config::PodSecurity;
use kernel::Kernel;

/// Path of the fields in requests.
const FIELD: &str = "linux.security_context.apparmor";

/// The longest name of a profile that is looked for: the kernel takes a name in one write of at most a page.
const LONGEST_NAME: usize = 1024;

/// Whether profiles are used, and which one is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApparmorConfig {
    /// Whether this runtime has anything to do with AppArmor.
    pub usage: LsmUsage,
    /// The profile of the node's that stands for RuntimeDefault; `None` for this runtime's own.
    pub default_profile: Option<String>,
}

/// Whether a security module of the kernel's is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LsmUsage {
    /// Where the host has it.
    #[default]
    AsHost,
    /// Never: as on a host without it.
    Off,
}

/// AppArmor as this daemon uses it.
#[derive(Debug)]
pub(crate) struct Apparmor {
    /// The kernel's side of it, or why there is none.
    kernel: Result<Kernel, String>,
    /// The configured default profile.
    default: Option<String>,
    /// What became of our own profile, by those who need it one after the other.
    own: Mutex<Own>,
    /// Whether the log says already that the default profile can't be had.
    said: Once,
}

/// What this daemon has done about its own profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    /// Nothing. What is loaded under its name may be an older version's.
    Unloaded,
    Loaded,
}

/// What AppArmor does on this host when the configuration leaves it as it is, in words.
///
/// # Errors
/// Why it does nothing.
pub fn apparmor_of_host() -> Result<String, String> {
    Apparmor::detect(&ApparmorConfig::default()).state()
}

fn localhost(kernel: &Kernel, name: &str) -> Result<String, Error> {
    if kernel.has(name)? {
        return Ok(name.to_owned());
    }
    let why = format!("the profile \"{name}\" is not loaded on this node");
    Err(Error::refused(format!("{FIELD}.localhost_ref"), why))
}

impl Apparmor {
    /// Asks the kernel.
    pub(crate) fn detect(config: &ApparmorConfig) -> Self {
        let kernel = match config.usage {
            LsmUsage::Off => Err("it is switched off in the configuration of this node's runtime".to_owned()),
            LsmUsage::AsHost => Kernel::find(),
        };
        Self {
            kernel,
            default: config.default_profile.clone(),
            own: Mutex::new(Own::Unloaded),
            said: Once::new(),
        }
    }

    /// Whether it confines anything here, and what the default profile would come from.
    ///
    /// # Errors
    /// Why it doesn't.
    pub(crate) fn state(&self) -> Result<String, String> {
        let kernel = self.kernel.as_ref().map_err(String::clone)?;
        let name = self.default.as_deref().unwrap_or(profile::NAME);
        let is_loaded = kernel.has(name).map_err(|error| chain(&error))?;
        Ok(match (is_loaded, &self.default, parser::find()) {
            (true, _, _) => format!("default profile \"{name}\", loaded"),
            (false, Some(_), _) => {
                format!("default profile \"{name}\", NOT loaded: RuntimeDefault is refused")
            }
            (false, None, Some(_)) => format!("default profile \"{name}\", loaded when it is needed"),
            (false, None, None) => {
                format!("NO default profile: {}, so RuntimeDefault is refused", parser::MISSING)
            }
        })
    }

    /// Checks what can be said from the wish alone.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub(crate) fn check(&self, wish: Option<&Profile>) -> Result<(), Error> {
        let Some(Profile::Localhost(name)) = wish else { return Ok(()) };
        let refuse = |why: String| Err(Error::refused(format!("{FIELD}.localhost_ref"), why));
        if let Err(why) = &self.kernel {
            return refuse(format!("the profile \"{name}\": this node has no AppArmor: {why}"));
        }
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(|c: char| c.is_control()) {
            return refuse(format!("\"{}\" is not the name of a profile", name.escape_debug()));
        }
        Ok(())
    }

    /// Checks the wish of a pod. Nothing of a workload's runs as the sandbox, but a profile by name is what its containers will ask for.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Step`] when the kernel doesn't say.
    pub(crate) fn check_pod(&self, security: &PodSecurity) -> Result<(), Error> {
        let wish = security.apparmor.as_ref().filter(|_| !security.privileged);
        self.check(wish)?;
        match (wish, &self.kernel) {
            (Some(Profile::Localhost(name)), Ok(kernel)) => localhost(kernel, name).map(drop),
            _ => Ok(()),
        }
    }

    /// The profile that the processes of a container run under; `None` for none. What is ours is loaded first.
    ///
    /// Safe to cancel: the parser is killed, and profiles are loaded whole.
    ///
    /// # Errors
    /// [`Error::Refused`] with the field, for one that is not there.
    pub(crate) async fn profile(&self, security: &ContainerSecurity) -> Result<Option<String>, Error> {
        let wish = security.apparmor.as_ref().filter(|_| !security.privileged);
        self.check(wish)?;
        let Ok(kernel) = &self.kernel else { return Ok(None) };
        match wish {
            Some(Profile::Unconfined) => Ok(None),
            None if security.privileged => Ok(None),
            Some(Profile::Localhost(name)) => localhost(kernel, name).map(Some),
            Some(Profile::RuntimeDefault) => match self.default_profile(kernel).await? {
                Ok(name) => Ok(Some(name)),
                Err(NoDefault(why)) => {
                    Err(Error::refused(format!("{FIELD}.profile_type"), format!("RuntimeDefault: {why}")))
                }
            },
            None => Ok(match self.default_profile(kernel).await? {
                Ok(name) => Some(name),
                Err(none) => self.without(&none),
            }),
        }
    }

    /// Checks that a profile that was found when a container was made is there still, and loads our own again.
    ///
    /// Safe to cancel, as [`Apparmor::profile`].
    ///
    /// # Errors
    /// [`Error::Step`].
    pub(crate) async fn stands(&self, name: &str) -> Result<(), Error> {
        let failed = |cause: io::Error| Error::step("looking up the AppArmor profile", name, cause);
        let kernel = self.kernel.as_ref().map_err(|why| failed(io::Error::other(why.clone())))?;
        if kernel.has(name)? {
            return Ok(());
        }
        if name == profile::NAME {
            let own = self.own_profile(kernel).await?;
            return own.map_err(|NoDefault(why)| failed(io::Error::other(why)));
        }
        Err(failed(io::Error::new(io::ErrorKind::NotFound, "it is not loaded any more")))
    }

    async fn default_profile(&self, kernel: &Kernel) -> Result<Result<String, NoDefault>, Error> {
        Ok(match &self.default {
            Some(name) if kernel.has(name)? => Ok(name.clone()),
            Some(name) => Err(NoDefault(format!("the configured default profile \"{name}\" is not loaded"))),
            None => self.own_profile(kernel).await?.map(|()| profile::NAME.to_owned()),
        })
    }

    /// For those who have said nothing. A host without a parser has never confined them, with any runtime.
    fn without(&self, NoDefault(why): &NoDefault) -> Option<String> {
        self.said.call_once(|| {
            tracing::warn!(why, "containers that ask for no AppArmor profile run without one");
        });
        None
    }

    /// Loads our own profile: once in the life of a daemon, since an older version may have left its own under the name, and whenever it is gone.
    async fn own_profile(&self, kernel: &Kernel) -> Result<Result<(), NoDefault>, Error> {
        let mut own = self.own.lock().await;
        let is_loaded = kernel.has(profile::NAME)?;
        if is_loaded && *own == Own::Loaded {
            return Ok(Ok(()));
        }
        let text = |has_abi| profile::text(profile::Surroundings { has_abi, daemon: kernel.confinement() });
        let outcome = parser::load(text).await;
        if outcome.is_ok() {
            *own = Own::Loaded;
            tracing::info!(profile = profile::NAME, "the default AppArmor profile is loaded");
        }
        settle(outcome, is_loaded)
    }
}

/// There can be no default profile on this node, and why.
#[derive(Debug, PartialEq, Eq)]
struct NoDefault(String);

/// What an attempt to load our own profile means, where one of its name was loaded before or wasn't.
fn settle(outcome: Result<(), parser::Failed>, is_loaded: bool) -> Result<Result<(), NoDefault>, Error> {
    match (outcome, is_loaded) {
        (Ok(()), _) => Ok(Ok(())),
        // Whoever has loaded one and taken the parser away wants that one.
        (Err(parser::Failed::Missing), true) => Ok(Ok(())),
        (Err(missing @ parser::Failed::Missing), false) => Ok(Err(NoDefault(missing.to_string()))),
        (Err(failed), true) => {
            let error = chain(&failed);
            tracing::warn!(error, "the default AppArmor profile that is loaded already stays in use");
            Ok(Ok(()))
        }
        (Err(failed), false) => Err(Error::step("loading the AppArmor profile", profile::NAME, failed)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn nobody_is_unconfined_for_a_passing_failure() {
        let path = || "/sbin/apparmor_parser".into();
        let passing: [fn(std::path::PathBuf) -> parser::Failed; 3] = [
            |path| parser::Failed::Late { path },
            |path| parser::Failed::Run { path, cause: io::ErrorKind::WouldBlock.into() },
            |path| parser::Failed::Refused { path, status: ExitStatus::from_raw(256), said: "no".to_owned() },
        ];
        for failed in passing {
            let error = settle(Err(failed(path())), false).unwrap_err();
            assert!(matches!(error, Error::Step { .. } | Error::Exhausted { .. }), "{error:?}");
            assert_eq!(settle(Err(failed(path())), true).unwrap(), Ok(()), "one that is loaded is used");
        }
        settle(Err(parser::Failed::Missing), false).unwrap().unwrap_err();
        assert_eq!(settle(Err(parser::Failed::Missing), true).unwrap(), Ok(()));
        assert_eq!(settle(Ok(()), false).unwrap(), Ok(()));
    }
}

//! AppArmor: which profile the processes of a container run under, and loading the default one.
//!
//! | asked for | on a host with AppArmor | without |
//! |---|---|---|
//! | Localhost | the profile, refused when it is not loaded | refused |
//! | RuntimeDefault | the default profile, refused when it can't be had | nothing |
//! | nothing at all | the default profile where it can be had | nothing |
//! | Unconfined, or privileged | nothing | nothing |
//!
//! The default profile is the configured one, or one of our own (see `profile`), which is loaded before its first use and again when somebody has
//! unloaded it. Profiles are compiled by the node's apparmor_parser; the kernel takes them only compiled.
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
            Some(Profile::RuntimeDefault) => match self.default_profile(kernel).await {
                Ok(name) => Ok(Some(name)),
                Err(why) => {
                    Err(Error::refused(format!("{FIELD}.profile_type"), format!("RuntimeDefault: {why}")))
                }
            },
            None => Ok(self.default_if_any(kernel).await),
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
            return self.own_profile(kernel).await.map_err(|why| failed(io::Error::other(why)));
        }
        Err(failed(io::Error::new(io::ErrorKind::NotFound, "it is not loaded any more")))
    }

    async fn default_profile(&self, kernel: &Kernel) -> Result<String, String> {
        match &self.default {
            Some(name) if kernel.has(name).map_err(|error| chain(&error))? => Ok(name.clone()),
            Some(name) => Err(format!("the configured default profile \"{name}\" is not loaded")),
            None => self.own_profile(kernel).await.map(|()| profile::NAME.to_owned()),
        }
    }

    /// For those who have said nothing. A host without a parser has never confined them, with any runtime.
    async fn default_if_any(&self, kernel: &Kernel) -> Option<String> {
        match self.default_profile(kernel).await {
            Ok(name) => Some(name),
            Err(why) => {
                self.said.call_once(|| {
                    tracing::warn!(why, "containers that ask for no AppArmor profile run without one");
                });
                None
            }
        }
    }

    /// Loads our own profile: once in the life of a daemon, since an older version may have left its own under the name, and whenever it is gone.
    async fn own_profile(&self, kernel: &Kernel) -> Result<(), String> {
        let mut own = self.own.lock().await;
        let is_loaded = kernel.has(profile::NAME).map_err(|error| chain(&error))?;
        if is_loaded && *own == Own::Loaded {
            return Ok(());
        }
        let text = |has_abi| profile::text(profile::Surroundings { has_abi, daemon: kernel.confinement() });
        match parser::load(text).await {
            Ok(()) => *own = Own::Loaded,
            // Whoever has loaded one and taken the parser away wants that one.
            Err(parser::Failed::Missing) if is_loaded => {}
            Err(failed) => return Err(failed.to_string()),
        }
        tracing::info!(profile = profile::NAME, "the default AppArmor profile is loaded");
        Ok(())
    }
}

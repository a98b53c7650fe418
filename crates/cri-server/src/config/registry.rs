//! `[registry]`: whose credentials registries see when a pull brings none.
//!
//! Not here: where registries are reached, which `registry_config_dir` says; who may see what (see `image_service`).

use std::path::{Path, PathBuf};

use image_service::CredentialsFile;
use serde::{Deserialize, Serialize};

use super::{Faults, absolute};

/// The keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RegistryConfig {
    /// The node's credentials, in the format of Docker's `config.json`. Empty: those in /etc/knarr/config.json, if it is there.
    /// kubelet's own files needn't be named: what it finds in them comes with its requests.
    pub(crate) credentials: PathBuf,
    /// Where the credential helpers (`docker-credential-…`) that it names are looked for, in order. It is their PATH.
    pub(crate) credential_helper_dirs: Vec<PathBuf>,
}

/// The file that needn't be there.
const USUAL: &str = "/etc/knarr/config.json";

impl Default for RegistryConfig {
    fn default() -> Self {
        let credential_helper_dirs = vec!["/usr/local/bin".into(), "/usr/bin".into(), "/bin".into()];
        Self { credentials: PathBuf::new(), credential_helper_dirs }
    }
}

impl RegistryConfig {
    /// For `image_service`: what is configured must be there, lest a misspelt path be without effect.
    pub(crate) fn credentials(&self) -> CredentialsFile {
        match self.credentials == Path::new("") {
            true => CredentialsFile::IfThere(USUAL.into()),
            false => CredentialsFile::Required(self.credentials.clone()),
        }
    }

    /// Checks every value that can be judged without touching the machine.
    pub(super) fn check(&self) -> Result<(), Faults> {
        let named = Some(&self.credentials).filter(|path| **path != Path::new(""));
        let named = named.map(|path| absolute("registry.credentials", path));
        let dirs = self.credential_helper_dirs.iter();
        Faults::all(named.into_iter().chain(dirs.map(|dir| absolute("registry.credential_helper_dirs", dir))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let of = |text: &str| toml::from_str::<Config>(text).unwrap().registry.credentials();
        assert_eq!(of(""), CredentialsFile::IfThere(USUAL.into()));
        let named = of("[registry]\ncredentials = \"/etc/x.json\"");
        assert_eq!(named, CredentialsFile::Required("/etc/x.json".into()));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_its_key() {
        for (line, key) in [
            ("credentials = \"x.json\"", "registry.credentials"),
            ("credential_helper_dirs = [\"bin\"]", "registry.credential_helper_dirs"),
            ("credential = \"/x\"", "credential"),
        ] {
            let refused = match toml::from_str::<Config>(&format!("[registry]\n{line}")) {
                Err(error) => error.to_string(),
                Ok(config) => config.check().unwrap_err().to_string(),
            };
            assert!(refused.contains(key), "{line}: {refused}");
        }
    }
}

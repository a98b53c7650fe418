//! An image's configuration (OCI image-spec, "Image Configuration").
//!
//! Labels and all else in it are data that is handed on; nothing in it makes the service do anything.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageConfig;

/// What we use of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigFile {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) created: Option<String>,
    pub(crate) config: ImageConfig,
    /// Digests of the layers' uncompressed archives, the lowest first.
    pub(crate) diff_ids: Vec<Digest>,
}

/// Builders write `null` for whatever is empty.
#[derive(Deserialize)]
struct Raw {
    os: Option<String>,
    architecture: Option<String>,
    created: Option<String>,
    config: Option<RawConfig>,
    rootfs: Option<RawRootfs>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<Digest>>,
}

impl ConfigFile {
    /// Reads the configuration whose digest is `id`.
    ///
    /// # Errors
    /// [`Error::Document`].
    pub(crate) fn parse(id: &Digest, bytes: &[u8]) -> Result<ConfigFile, Error> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|cause| Error::Document {
            kind: "configuration",
            digest: id.clone(),
            cause,
        })?;
        let config = raw.config.unwrap_or_default();
        Ok(ConfigFile {
            os: raw.os.unwrap_or_default(),
            architecture: raw.architecture.unwrap_or_default(),
            created: raw.created,
            config: ImageConfig {
                user: config.user.unwrap_or_default(),
                env: config.env.unwrap_or_default(),
                entrypoint: config.entrypoint.unwrap_or_default(),
                cmd: config.cmd.unwrap_or_default(),
                working_dir: config.working_dir.unwrap_or_default(),
                stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
                volumes: config.volumes.unwrap_or_default().into_keys().collect(),
                labels: config.labels.unwrap_or_default(),
            },
            diff_ids: raw.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_shapes_a_container() {
        let text = r#"{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05Z","history":[{}],
            "config":{"User":"1000:1000","Env":["A=b"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w",
                "StopSignal":"SIGQUIT","Volumes":{"/v":{},"/u":{}},"Labels":{"l":"m"},"ExposedPorts":{"80/tcp":{}}},
            "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
        let file = ConfigFile::parse(&Digest::of(text.as_bytes()), text.as_bytes()).unwrap();
        assert_eq!((file.os.as_str(), file.architecture.as_str()), ("linux", "amd64"));
        assert_eq!(file.diff_ids, [Digest::of(b"")]);
        let config = file.config;
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("1000:1000", "/w"));
        assert_eq!((config.env, config.entrypoint), (vec!["A=b".to_owned()], vec!["/e".to_owned()]));
        assert_eq!(
            (config.cmd, config.volumes),
            (vec!["c".to_owned()], vec!["/u".to_owned(), "/v".to_owned()])
        );
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(config.labels["l"], "m");
    }

    #[test]
    fn nulls_are_absent() {
        let text = r#"{"config":{"Env":null,"Cmd":null,"Volumes":null,"Labels":null,"StopSignal":""},"rootfs":null}"#;
        let file = ConfigFile::parse(&Digest::of(b""), text.as_bytes()).unwrap();
        assert_eq!(file.config, ImageConfig::default());
        assert!(file.diff_ids.is_empty() && file.created.is_none());
        assert!(ConfigFile::parse(&Digest::of(b""), b"{\"config\":null}").is_ok());
    }

    #[test]
    fn what_is_no_configuration_is_an_error() {
        for text in ["", "[]", "{\"config\":1}", "{\"rootfs\":{\"diff_ids\":[\"sha256:../x\"]}}"] {
            let parsed = ConfigFile::parse(&Digest::of(b""), text.as_bytes());
            assert!(matches!(parsed, Err(Error::Document { .. })), "{text}");
        }
    }
}

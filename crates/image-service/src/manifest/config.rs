//! An image's configuration (OCI image-spec, "Image Configuration").
//!
//! Labels and all else in it are data that is handed on; nothing in it makes the service do anything. What is kept of it stays
//! in memory as long as the image is here: there are bounds on it.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::error::Error;
use crate::image::ImageConfig;

use super::json::{Bounded, BoundedMap, Keys, Object};
use super::{MAX_LAYERS, read};

/// Entries of each of its lists: no process could be started with that many variables and default limits (execve(2)).
const MAX_LIST: usize = 10_000;
/// Bytes of all texts that are kept: builders write bills of material into labels, of some 100 KiB.
const MAX_TEXT: usize = 2 << 20;

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
    config: Option<Object<RawConfig>>,
    rootfs: Option<Object<RawRootfs>>,
}

impl Keys for Raw {
    const KEYS: &'static [&'static str] =
        &["os", "architecture", "variant", "created", "config", "rootfs", "history"];
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    user: Option<String>,
    env: Option<Bounded<String, MAX_LIST>>,
    entrypoint: Option<Bounded<String, MAX_LIST>>,
    cmd: Option<Bounded<String, MAX_LIST>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BoundedMap<IgnoredAny, MAX_LIST>>,
    labels: Option<BoundedMap<String, MAX_LIST>>,
}

impl Keys for RawConfig {
    const KEYS: &'static [&'static str] =
        &["User", "Env", "Entrypoint", "Cmd", "WorkingDir", "StopSignal", "Volumes", "Labels", "ArgsEscaped"];
}

#[derive(Default, Deserialize)]
struct RawRootfs {
    diff_ids: Option<Bounded<Digest, MAX_LAYERS>>,
}

impl Keys for RawRootfs {
    const KEYS: &'static [&'static str] = &["type", "diff_ids"];
}

impl ConfigFile {
    /// Reads the configuration whose digest is `id`.
    ///
    /// # Errors
    /// [`Error::Document`], [`Error::DocumentRefused`].
    pub(crate) fn parse(id: &Digest, bytes: &[u8]) -> Result<ConfigFile, Error> {
        let raw: Raw = read("configuration", id, bytes)?;
        let refused =
            |reason: String| Error::DocumentRefused { kind: "configuration", digest: id.clone(), reason };
        let diff_ids = raw.rootfs.and_then(|rootfs| rootfs.0.diff_ids);
        Ok(ConfigFile {
            os: raw.os.unwrap_or_default(),
            architecture: raw.architecture.unwrap_or_default(),
            created: raw.created,
            config: config(raw.config.map(|config| config.0).unwrap_or_default()).map_err(refused)?,
            diff_ids: diff_ids.map_or(Ok(Vec::new()), |ids| ids.all("layers")).map_err(refused)?,
        })
    }
}

/// What shapes a container, if it isn't too much.
fn config(raw: RawConfig) -> Result<ImageConfig, String> {
    let list =
        |list: Option<Bounded<String, MAX_LIST>>, name| list.map_or(Ok(Vec::new()), |list| list.all(name));
    let volumes = raw.volumes.map_or(Ok(Default::default()), |volumes| volumes.all("volumes"))?;
    let config = ImageConfig {
        user: raw.user.unwrap_or_default(),
        env: list(raw.env, "variables")?,
        entrypoint: list(raw.entrypoint, "words in its entry point")?,
        cmd: list(raw.cmd, "words in its command")?,
        working_dir: raw.working_dir.unwrap_or_default(),
        stop_signal: raw.stop_signal.filter(|signal| !signal.is_empty()),
        volumes: volumes.into_keys().collect(),
        labels: raw.labels.map_or(Ok(Default::default()), |labels| labels.all("labels"))?,
    };
    let lists = [&config.env, &config.entrypoint, &config.cmd, &config.volumes];
    let words = lists.into_iter().flatten().chain([&config.user, &config.working_dir]);
    let words =
        words.chain(&config.stop_signal).chain(config.labels.iter().flat_map(|(key, value)| [key, value]));
    let bytes: usize = words.map(String::len).sum();
    match bytes > MAX_TEXT {
        true => Err(format!("its settings have {bytes} bytes where {MAX_TEXT} are the most")),
        false => Ok(config),
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

    /// JSON's grammar has it, readers differ about it: where it means something it is refused, elsewhere it isn't looked at.
    #[test]
    fn half_a_surrogate_pair_is_no_text() {
        let parsed = |text: &str| ConfigFile::parse(&Digest::of(b""), text.as_bytes());
        assert!(parsed(r#"{"config":{"User":"\udddd"}}"#).is_err());
        assert!(parsed(r#"{"config":{"Labels":{"\ud800":""}}}"#).is_err());
        let passed_over = parsed(r#"{"rootfsconfig":{"User":"\udddd"}}"#).unwrap();
        assert_eq!(passed_over.config, ImageConfig::default());
    }

    fn refusal(text: &str) -> String {
        crate::error::chain(&ConfigFile::parse(&Digest::of(b""), text.as_bytes()).unwrap_err())
    }

    #[test]
    fn a_million_variables_are_counted_and_refused() {
        let many = |key: &str, item: &str, count: usize| {
            let items = vec![item; count].join(",");
            format!("{{\"config\":{{\"{key}\":[{items}]}}}}")
        };
        assert!(ConfigFile::parse(&Digest::of(b""), many("Env", "\"A=b\"", 10_000).as_bytes()).is_ok());
        let refused = refusal(&many("Env", "\"a\"", 1_000_000));
        assert!(refused.ends_with("it has 1000000 variables where 10000 are the most"), "{refused}");
        assert!(refusal(&many("Cmd", "\"a\"", 10_001)).contains("10001 words in its command"));
        let labels: Vec<String> = (0..20_000).map(|n| format!("\"l{n}\":\"\"")).collect();
        let labels = format!("{{\"config\":{{\"Labels\":{{{}}}}}}}", labels.join(","));
        assert!(refusal(&labels).contains("it has 20000 labels where 10000 are the most"));
        let long = format!("{{\"config\":{{\"User\":\"{}\"}}}}", "u".repeat(3 << 20));
        assert!(refusal(&long).contains("3145728 bytes where 2097152 are the most"));
        let ids = vec![format!("\"{}\"", Digest::of(b"")); 10_000].join(",");
        let layers = format!("{{\"rootfs\":{{\"diff_ids\":[{ids}]}}}}");
        assert!(refusal(&layers).contains("it has 10000 layers where 499 are the most"));
    }

    #[test]
    fn letter_case_makes_no_second_configuration() {
        for text in [
            "{\"Config\":{}}",
            "{\"config\":{\"User\":\"1000\",\"user\":\"0\"}}",
            "{\"config\":{\"env\":[]}}",
            "{\"rootfs\":{\"Diff_IDs\":[]}}",
            "{\"RootFS\":{}}",
        ] {
            assert!(refusal(text).contains("other letter case"), "{text}");
        }
        let free = "{\"config\":{\"Labels\":{\"a\":\"\",\"A\":\"\"}},\"x\":1,\"X\":2}";
        assert!(ConfigFile::parse(&Digest::of(b""), free.as_bytes()).is_ok());
        assert!(ConfigFile::parse(&Digest::of(b""), b"{\"x\":\"\xff\"}").is_err());
    }
}

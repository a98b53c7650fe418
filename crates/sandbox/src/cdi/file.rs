//! One file of the Container Device Interface, as it is written, and its checks (SPEC.md and schema.json).

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::name::{is_device, is_kind};

/// Versions that are understood. Later ones could mean something else by the same words.
const VERSIONS: [&str; 9] = ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0"];

/// Larger files are refused: with hundreds of devices they are some 100 KiB.
const MOST_BYTES: u64 = 4 << 20;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    cdi_version: String,
    /// Vendor and class.
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: IgnoredAny,
    /// What every container gets that has one of the devices.
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
    pub(super) devices: Vec<Device>,
}

/// A device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: IgnoredAny,
    pub(super) container_edits: ContainerEdits,
}

/// What changes about a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ContainerEdits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Vec<Hook>,
    pub(super) intel_rdt: Option<IgnoredAny>,
    pub(super) additional_gids: Vec<u32>,
}

/// A device node; what is not said is as on the host.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    pub(super) path: String,
    #[serde(default)]
    pub(super) host_path: String,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) major: i64,
    #[serde(default)]
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    #[serde(default)]
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// Something mounted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
}

/// A program that runs around a container's start or end.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

impl File {
    /// Reads a file by the ending of its name, `.json` or `.yaml`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = text(path)?;
        let file: Self = if path.extension().is_some_and(|ending| ending == "json") {
            serde_json::from_str(&text).map_err(|error| error.to_string())?
        } else {
            // As the vendors' own tools read it: 0666 is octal.
            let options = serde_saphyr::options! { legacy_octal_numbers: true };
            serde_saphyr::from_str_with_options(&text, options)
                .map_err(|error| one_line(&error.to_string()))?
        };
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        let version = self.cdi_version.trim_start_matches('v');
        if !VERSIONS.contains(&version) {
            let newest = VERSIONS[VERSIONS.len() - 1];
            return Err(format!("cdiVersion \"{version}\" is not known, only those up to {newest}"));
        }
        if !is_kind(&self.kind) {
            return Err(format!("kind \"{}\" is not of the form vendor/class", self.kind.escape_debug()));
        }
        for (at, device) in self.devices.iter().enumerate() {
            if !is_device(&device.name) {
                return Err(format!("devices[{at}].name \"{}\" is no name", device.name.escape_debug()));
            }
            if self.devices[..at].iter().any(|other| other.name == device.name) {
                return Err(format!("devices[{at}].name \"{}\" is there twice", device.name));
            }
        }
        Ok(())
    }
}

fn text(path: &Path) -> Result<String, String> {
    // A pipe must not hold up the open.
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| error.to_string())?;
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut text = String::new();
    file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MOST_BYTES {
        return Err(format!("is larger than {MOST_BYTES} bytes"));
    }
    Ok(text)
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<File, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        File::read(&path)
    }

    const YAML: &str = "---\ncdiVersion: 0.6.0\nkind: vendor.com/gpu\nannotations: {a: b}\ndevices:\n- name: \"0\"\n  containerEdits:\n    \
                        deviceNodes:\n    - {path: /dev/gpu0, fileMode: 0660, permissions: rw}\n- name: 1\n  containerEdits: {env: [A=1]}\n\
                        containerEdits:\n  additionalGids: [44]\n  hooks:\n  - {hookName: createContainer, path: /bin/hook, args: [hook, x]}\n";

    #[test]
    fn both_forms_are_read() {
        let yaml = read("a.yaml", YAML).unwrap();
        assert_eq!((yaml.kind.as_str(), yaml.devices[1].name.as_str()), ("vendor.com/gpu", "1"));
        assert_eq!(yaml.devices[0].container_edits.device_nodes[0].file_mode, Some(0o660));
        assert_eq!(yaml.container_edits.additional_gids, [44]);
        let hook = &yaml.container_edits.hooks[0];
        assert_eq!((hook.hook_name.as_str(), hook.args.len(), hook.timeout), ("createContainer", 2, None));
        let json = r#"{"cdiVersion":"1.0.0","kind":"v.com/c","devices":[{"name":"d","containerEdits":{}}]}"#;
        assert_eq!(read("a.json", json).unwrap().devices[0].name, "d");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let json = |version: &str, kind: &str, rest: &str| {
            format!(r#"{{"cdiVersion":"{version}","kind":"{kind}","devices":[{rest}]}}"#)
        };
        let device = r#"{"name":"d","containerEdits":{}}"#;
        for (text, why) in [
            (json("1.1.0", "v/c", device), "1.1.0"),
            (json("1.0.0", "vc", device), "kind"),
            (json("1.0.0", "v/c", r#"{"name":"-","containerEdits":{}}"#), "devices[0].name"),
            (json("1.0.0", "v/c", &format!("{device},{device}")), "twice"),
            (json("1.0.0", "v/c", r#"{"name":"d","containerEdits":{"netDevices":[]}}"#), "netDevices"),
            ("{".to_owned(), "EOF"),
        ] {
            let error = read("a.json", &text).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
        assert!(read("a.yaml", &YAML.replace("kind:", "colour:")).unwrap_err().contains("colour"));
    }

    #[test]
    fn aliases_that_grow_without_end_are_refused() {
        let mut text =
            "cdiVersion: 1.0.0\nkind: v/c\nannotations:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let before = format!("*a{}, ", level - 1).repeat(9);
            text += &format!("  a{level}: &a{level} [{}]\n", before.trim_end_matches(", "));
        }
        text += "devices: []\n";
        let (done, ends) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(read("a.yaml", &text).map(drop)));
        // Written out it is some three thousand million words: hours, and more memory than there is.
        assert!(ends.recv_timeout(std::time::Duration::from_secs(120)).is_ok(), "it is being written out");
    }

    #[test]
    fn a_pipe_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(File::read(&path).unwrap_err(), "is not a regular file");
    }
}

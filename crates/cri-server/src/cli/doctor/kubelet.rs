//! What kubelet's own settings say of us, where they can be found: the endpoint and the cgroup driver.
//!
//! Read of the running kubelet's command line and the files that it names, else of those that kubeadm writes. A kubelet since 1.28 asks
//! for the driver; older ones, and whoever reads the file, go by it. Only values at the beginning of a line of its file are read.

use std::path::{Path, PathBuf};

use super::Subject;
use super::finding::{Finding, may};
use crate::config::CgroupDriver;

/// Where kubeadm puts kubelet's configuration, and the flags that it adds.
const FILE: &str = "/var/lib/kubelet/config.yaml";
const FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";

/// What kubelet says, as far as it is known.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    /// Where that was found.
    by: String,
    driver: Option<String>,
    endpoint: Option<String>,
    root: Option<String>,
}

pub(super) fn look(subject: &Subject<'_>) -> Vec<Finding> {
    let Some(said) = said() else {
        return vec![Finding::ok("kubelet", "none runs, and there is no file of its")];
    };
    vec![driver(&said, subject.config.cgroup_driver), endpoint(&said, &subject.config.listen)]
}

/// The directory that kubelet keeps volumes in.
pub(super) fn root() -> PathBuf {
    said().and_then(|said| said.root).unwrap_or_else(|| "/var/lib/kubelet".to_owned()).into()
}

fn driver(said: &Said, ours: CgroupDriver) -> Finding {
    let ours = match ours {
        CgroupDriver::Cgroupfs => "cgroupfs",
        CgroupDriver::Systemd => "systemd",
    };
    match said.driver.as_deref() {
        Some(theirs) if theirs != ours => {
            let why = "two that make cgroups in different ways lose track of each other's; kubelet before 1.28 goes by its own setting";
            let remedy = format!(
                "set cgroup_driver = \"{theirs}\" in /etc/knarr/config.toml, or cgroupDriver: {ours} in kubelet's file"
            );
            let seen = format!("cgroupDriver is {theirs} ({}), cgroup_driver {ours}", said.by);
            Finding::lacks("kubelet driver", seen, may(why, "")).remedied(remedy)
        }
        Some(_) => Finding::ok("kubelet driver", format!("{ours}, as here ({})", said.by)),
        None => Finding::ok("kubelet driver", format!("asks the runtime, or has its default ({})", said.by)),
    }
}

fn endpoint(said: &Said, ours: &str) -> Finding {
    match said.endpoint.as_deref() {
        Some(theirs) if theirs != ours => {
            let why = "kubelet speaks to another runtime, or to none";
            let remedy = format!(
                "set containerRuntimeEndpoint: {ours} in kubelet's file (or --container-runtime-endpoint={ours})"
            );
            Finding::lacks("kubelet endpoint", format!("is {theirs} ({})", said.by), may(why, ""))
                .remedied(remedy)
        }
        Some(_) => Finding::ok("kubelet endpoint", format!("{ours} ({})", said.by)),
        None => {
            let remedy = format!("set containerRuntimeEndpoint: {ours} in kubelet's file");
            let why = "kubelet doesn't start without";
            Finding::lacks("kubelet endpoint", format!("not said ({})", said.by), may(why, ""))
                .remedied(remedy)
        }
    }
}

fn said() -> Option<Said> {
    let flags = running().or_else(kubeadm);
    let file = flags.as_deref().and_then(|flags| flag(flags, "config")).unwrap_or_else(|| FILE.to_owned());
    let text = std::fs::read_to_string(Path::new(&file)).ok();
    if flags.is_none() && text.is_none() {
        return None;
    }
    let (flags, text) = (flags.unwrap_or_default(), text.unwrap_or_default());
    Some(combine(&flags, &text, &file))
}

/// Flags win over the file.
fn combine(flags: &[String], text: &str, file: &str) -> Said {
    let either = |name: &str, key: &str| flag(flags, name).or_else(|| scalar(text, key));
    Said {
        by: if text.is_empty() { "its flags".to_owned() } else { file.to_owned() },
        driver: either("cgroup-driver", "cgroupDriver"),
        endpoint: either("container-runtime-endpoint", "containerRuntimeEndpoint"),
        root: flag(flags, "root-dir"),
    }
}

/// The command line of the kubelet that runs.
fn running() -> Option<Vec<String>> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.map(|process| process.path()).find_map(|process| {
        let name = std::fs::read_to_string(process.join("comm")).ok()?;
        let line = std::fs::read(process.join("cmdline")).ok().filter(|_| name.trim() == "kubelet")?;
        Some(String::from_utf8_lossy(&line).split('\0').map(str::to_owned).collect())
    })
}

fn kubeadm() -> Option<Vec<String>> {
    let text = std::fs::read_to_string(FLAGS).ok()?;
    let (_, flags) = text.trim().split_once('=')?;
    Some(flags.trim_matches('"').split_whitespace().map(str::to_owned).collect())
}

fn flag(flags: &[String], name: &str) -> Option<String> {
    let names = |flag: &str| flag.trim_start_matches('-') == name && flag.starts_with('-');
    flags.iter().enumerate().find_map(|(at, flag)| match flag.split_once('=') {
        Some((flag, value)) if names(flag) => Some(value.to_owned()),
        None if names(flag) => flags.get(at + 1).cloned(),
        _ => None,
    })
}

/// A value at the top of a YAML document.
fn scalar(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let value = value.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
    Some(value.to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::State;

    fn flags(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = "kind: KubeletConfiguration\ncgroupDriver: systemd # as kubeadm has it\ncontainerRuntimeEndpoint: \"unix:///run/x.sock\"\nother:\n  cgroupDriver: no\n";
        let said = combine(&[], file, "/f");
        assert_eq!(
            (said.driver.as_deref(), said.endpoint.as_deref()),
            (Some("systemd"), Some("unix:///run/x.sock"))
        );
        let said = combine(
            &flags("kubelet --cgroup-driver=cgroupfs --container-runtime-endpoint unix:///y"),
            file,
            "/f",
        );
        assert_eq!((said.driver.as_deref(), said.endpoint.as_deref()), (Some("cgroupfs"), Some("unix:///y")));
        assert_eq!(combine(&[], "", "/f").driver, None);
    }

    #[test]
    fn what_differs_is_told_with_both_ways_out() {
        let said = combine(
            &[],
            "cgroupDriver: systemd\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock",
            "/f",
        );
        let driver = driver(&said, CgroupDriver::Cgroupfs);
        assert!(
            driver.state == State::Without && driver.remedy.contains("cgroup_driver = \"systemd\""),
            "{driver}"
        );
        let endpoint = endpoint(&said, "unix:///run/knarr/knarr.sock");
        assert!(
            endpoint.state == State::Without && endpoint.remedy.contains("unix:///run/knarr"),
            "{endpoint}"
        );
        assert_eq!(super::driver(&said, CgroupDriver::Systemd).state, State::Ok);
    }
}

//! `knarr doctor`: what this machine can and cannot do, why it matters, and what to do about it.
//!
//! A table of areas, each a module with its checks. A check observes something that knarr uses, without changing the machine. A row
//! that is not well names the consequence and the remedy; the command fails when something without which no pod runs is missing.

mod cgroups;
mod cni;
mod disk;
mod files;
mod finding;
mod handlers;
mod host;
mod kubelet;
mod limits;
mod mounts;
mod registries;
mod security;
mod socket;

use std::error::Error;
use std::io::{self, Write};

use clap::Args;
use serde_json::json;

use self::finding::{Finding, State};
use super::ConfigFile;
use crate::config::Config;

/// `knarr doctor`.
#[derive(Debug, Default, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Print all of it as JSON
    #[arg(long)]
    json: bool,
    /// Ask the registries, too: each host that is configured is connected to
    #[arg(long)]
    reach: bool,
}

/// What checks look at beside the machine.
struct Subject<'a> {
    config: &'a Config,
    /// Whether registries are asked.
    reach: bool,
}

/// One area.
struct Area {
    name: &'static str,
    look: fn(&Subject<'_>) -> Vec<Finding>,
}

const AREAS: [Area; 12] = [
    Area { name: "kernel", look: host::look },
    Area { name: "cgroups", look: cgroups::look },
    Area { name: "kubelet", look: kubelet::look },
    Area { name: "mounts", look: mounts::look },
    Area { name: "limits", look: limits::look },
    Area { name: "security", look: security::look },
    Area { name: "configuration", look: files::look },
    Area { name: "network", look: cni::look },
    Area { name: "handlers", look: handlers::look },
    Area { name: "registries", look: registries::look },
    Area { name: "socket", look: socket::look },
    Area { name: "disk", look: disk::look },
];

/// Prints the table. `Ok(false)` when something that must be there is missing.
///
/// # Errors
/// For the person at the terminal: a configuration that can't be used among them.
pub(crate) fn run(DoctorArgs { file, json, reach }: DoctorArgs) -> Result<bool, Box<dyn Error>> {
    let config = file.sources().load()?.config;
    let subject = Subject { config: &config, reach };
    let findings = AREAS.iter().map(|area| (area.name, (area.look)(&subject))).collect::<Vec<_>>();
    let mut out = io::stdout().lock();
    match json {
        true => writeln!(out, "{:#}", as_json(&findings))?,
        false => print(&findings, &mut out)?,
    }
    Ok(findings.iter().flat_map(|(_, found)| found).all(|finding| finding.state != State::Missing))
}

/// The report for others, with what is not well of it first.
pub(crate) fn report(config: &Config) -> serde_json::Value {
    let subject = Subject { config, reach: false };
    as_json(&AREAS.iter().map(|area| (area.name, (area.look)(&subject))).collect::<Vec<_>>())
}

fn as_json(findings: &[(&'static str, Vec<Finding>)]) -> serde_json::Value {
    let areas: serde_json::Map<_, _> =
        findings.iter().map(|(area, found)| ((*area).to_owned(), json!(found))).collect();
    let count =
        |state| findings.iter().flat_map(|(_, found)| found).filter(|found| found.state == state).count();
    json!({ "areas": areas, "missing": count(State::Missing), "without": count(State::Without) })
}

fn print(findings: &[(&'static str, Vec<Finding>)], out: &mut impl Write) -> io::Result<()> {
    for finding in findings.iter().flat_map(|(_, found)| found) {
        writeln!(out, "{finding}")?;
    }
    Ok(())
}

/// A small file of the kernel's, trimmed.
fn read(path: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(text.trim().to_owned())
}

/// The same as a number; `None` where it is none, or not there.
fn number(path: &str) -> Option<u64> {
    read(path).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::finding::must;
    use super::*;

    #[test]
    fn a_row_says_what_why_and_what_to_do() {
        let finding = Finding::lacks(
            "overlay",
            "the kernel doesn't know it",
            must("roots are overlays", "modprobe overlay"),
        );
        assert_eq!(
            finding.to_string(),
            "MISSING  overlay          the kernel doesn't know it: roots are overlays\n                          remedy: modprobe overlay"
        );
        assert_eq!(Finding::ok("kernel", "6.12").to_string(), "ok       kernel           6.12");
        let told = as_json(&[("kernel", vec![finding])]);
        assert_eq!((told["missing"].as_u64(), told["without"].as_u64()), (Some(1), Some(0)));
        assert_eq!(told["areas"]["kernel"][0]["remedy"], "modprobe overlay");
    }

    #[test]
    fn whoever_finds_something_says_what_to_do() {
        let config = Config { root: "/nonexistent/root".into(), ..Config::default() };
        let subject = Subject { config: &config, reach: false };
        for area in AREAS {
            for finding in (area.look)(&subject) {
                assert_eq!(finding.state == State::Ok, finding.remedy.is_empty(), "{}: {finding}", area.name);
            }
        }
    }
}

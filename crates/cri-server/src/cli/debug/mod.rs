//! `knarr debug dump`: the state of a node for a bug report, without secrets.
//!
//! A table of parts, each a file of the dump. A part that can't be had leaves a line in `errors.txt`, and the others go on: the dump is
//! wanted most when something doesn't work, the daemon among it. Everything that is written goes through `redact`.
//!
//! Not here: what goes on in the daemon, which it tells itself (`own_service::inside`).

mod files;
mod host;
mod redact;

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::files::Dump;
use super::ConfigFile;
use super::endpoint::{ClientError, Endpoint};
use crate::config::Config;
use crate::own_service::v1::InspectRequest;
use crate::own_service::v1::node_client::NodeClient;

/// `knarr debug`.
#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Write the state of this node for a bug report: versions, configuration, doctor's report, pods and containers with their
    /// records, supervisors, cgroups, mounts, what is under way, figures, log lines. Values of environment variables, arguments,
    /// credentials and whatever looks like a secret are removed
    Dump(DumpArgs),
}

/// `knarr debug dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// A directory that isn't there yet, or a file ending in .tar.gz [default: knarr-dump-SECONDS.tar.gz here]
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// How long the daemon may take to tell of itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the parts are made from.
struct Subject {
    config: Config,
    /// What the daemon says of itself.
    ///
    /// # Errors
    /// Why it says nothing.
    daemon: Result<Value, String>,
}

/// A file of the dump.
struct Part {
    name: &'static str,
    make: fn(&Subject) -> Result<Content, String>,
}

/// What is in it, before secrets are removed.
enum Content {
    Json(Value),
    Text(String),
    /// Documents of their own, by names below this one.
    Several(Vec<(String, Content)>),
}

const PARTS: [Part; 11] = [
    Part { name: "version.json", make: version },
    Part { name: "config.toml", make: config },
    Part { name: "doctor.json", make: doctor },
    Part { name: "daemon.json", make: daemon },
    Part { name: "records", make: host::records },
    Part { name: "supervisors.json", make: host::supervisors },
    Part { name: "cgroups.json", make: host::cgroups },
    Part { name: "mounts.txt", make: host::mounts },
    Part { name: "metrics.txt", make: host::metrics },
    Part { name: "log.txt", make: host::log },
    Part { name: "kernel.txt", make: host::kernel },
];

/// Runs the sub-command; the error is for the person at the terminal.
pub(crate) fn run(command: DebugCommand) -> Result<ExitCode, Box<dyn Error>> {
    let DebugCommand::Dump(DumpArgs { output, file, endpoint }) = command;
    let sources = file.sources();
    let (config, problem) = match sources.load() {
        Ok(loaded) => (loaded.config, None),
        // What is asked for most when the configuration is what is wrong.
        Err(error) => (Config { listen: sources.listen(), ..Config::default() }, Some(error.to_string())),
    };
    let daemon = crate::finish(crate::executor()?, inspect(&endpoint)).map_err(|error| crate::chain(&error));
    let daemon = daemon.and_then(|json| serde_json::from_str(&json).map_err(|error| error.to_string()));
    let path = output.unwrap_or_else(|| format!("knarr-dump-{}.tar.gz", crate::now() / 1_000_000_000).into());
    let errors = write(&Subject { config, daemon }, (&path, problem))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", path.display())?;
    for error in errors {
        writeln!(out, "without {error}")?;
    }
    writeln!(out, "Names of pods, images and hosts are in it: look through it before you give it away.")?;
    Ok(ExitCode::SUCCESS)
}

/// Writes all parts; gives what could not be had.
fn write(subject: &Subject, (path, problem): (&Path, Option<String>)) -> io::Result<Vec<String>> {
    let mut dump = Dump::create(path)?;
    let mut errors: Vec<String> = problem.into_iter().collect();
    for part in &PARTS {
        match (part.make)(subject) {
            Ok(content) => add(&mut dump, (part.name, content))?,
            Err(why) => errors.push(redact::text(&format!("{}: {why}", part.name))),
        }
    }
    if !errors.is_empty() {
        dump.add("errors.txt", &(errors.join("\n") + "\n"))?;
    }
    dump.finish()?;
    Ok(errors)
}

/// Adds a file, or several, without secrets.
fn add(dump: &mut Dump, (name, content): (&str, Content)) -> io::Result<()> {
    match content {
        Content::Json(value) => dump.add(name, &format!("{:#}\n", redact::json(value))),
        Content::Text(text) => dump.add(name, &redact::text(&text)),
        Content::Several(files) => files
            .into_iter()
            .try_for_each(|(below, content)| add(dump, (&format!("{name}/{below}"), content))),
    }
}

async fn inspect(endpoint: &Endpoint) -> Result<String, ClientError> {
    let mut node = NodeClient::new(endpoint.connect().await?);
    let asked = tokio::time::timeout(PATIENCE, node.inspect(InspectRequest {})).await;
    let late = |_| ClientError::from(tonic::Status::deadline_exceeded("the daemon does not answer"));
    Ok(asked.map_err(late)??.into_inner().json)
}

fn version(subject: &Subject) -> Result<Content, String> {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let of_daemon = subject.daemon.as_ref().map(|daemon| daemon["version"].clone()).unwrap_or_default();
    Ok(Content::Json(json!({
        "knarr": env!("CARGO_PKG_VERSION"),
        "daemon": of_daemon,
        "kernel": file("/proc/version"),
        "system": file("/etc/os-release"),
        "uptime": file("/proc/uptime"),
        "now": crate::now(),
    })))
}

fn config(subject: &Subject) -> Result<Content, String> {
    toml::to_string(&subject.config).map(Content::Text).map_err(|error| error.to_string())
}

fn doctor(subject: &Subject) -> Result<Content, String> {
    Ok(Content::Json(super::doctor::report(&subject.config)))
}

fn daemon(subject: &Subject) -> Result<Content, String> {
    subject.daemon.clone().map(Content::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_had_is_told_and_the_rest_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dump");
        let config = Config { state: directory.path().join("none"), ..Config::default() };
        let errors =
            write(&Subject { config, daemon: Err("no daemon answers".to_owned()) }, (&path, None)).unwrap();
        assert!(errors.iter().any(|error| error == "daemon.json: no daemon answers"), "{errors:?}");
        for name in ["version.json", "config.toml", "doctor.json", "mounts.txt", "errors.txt"] {
            assert!(path.join(name).exists(), "{name}");
        }
        assert!(
            write(&Subject { config: Config::default(), daemon: Err(String::new()) }, (&path, None)).is_err()
        );
    }
}

//! `knarr registry explain`: where an image would come from, as whom it would be asked for, and what the hosts say.
//!
//! Not here: finding that out, which the daemon does: its environment and its files are what counts.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use image_service::{Explanation, HostExplanation, HostRole, Meant, Probe};

use super::endpoint::{ClientError, Endpoint};
use super::terminal::clean;
use crate::own_service::v1::ExplainRequest;
use crate::own_service::v1::registry_client::RegistryClient;

/// `knarr registry`.
#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// Tell which hosts would be asked for an image, in what order, as whom and why, and ask them; fails if a pull would
    Explain(ExplainArgs),
}

/// `knarr registry explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The image's name, as one would pull it
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Print all of it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// Runs the sub-command; the error is for the person at the terminal. Succeeds if the image could be resolved.
pub(crate) fn run(command: &RegistryCommand) -> Result<ExitCode, Box<dyn Error>> {
    let RegistryCommand::Explain(arguments) = command;
    let json = crate::finish(crate::executor()?, explain(arguments))?;
    let explanation: Explanation = serde_json::from_str(&json)?;
    if arguments.json {
        writeln!(io::stdout(), "{json}")?;
    } else {
        write!(io::stdout(), "{}", for_people(&explanation)?)?;
    }
    Ok(if explanation.is_resolved() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn explain(arguments: &ExplainArgs) -> Result<String, ClientError> {
    let mut registry = RegistryClient::new(arguments.endpoint.connect().await?);
    let request = ExplainRequest { image: arguments.image.clone() };
    Ok(registry.explain(request).await?.into_inner().json)
}

/// The explanation in sentences.
fn for_people(explanation: &Explanation) -> Result<String, fmt::Error> {
    let mut text = String::new();
    writeln!(text, "{}", explanation.reference)?;
    match &explanation.said_by {
        Some(path) => writeln!(text, "  {} says where {} is reached", path.display(), explanation.registry)?,
        None => writeln!(text, "  nothing is configured for {}", explanation.registry)?,
    }
    for dir in &explanation.passed_over {
        writeln!(text, "  {} is without effect for it: only the first directory counts", dir.display())?;
    }
    for (at, host) in explanation.hosts.iter().enumerate() {
        write_host(&mut text, at + 1, host)?;
    }
    writeln!(text)?;
    write_outcome(&mut text, explanation.meant.as_ref())?;
    Ok(text)
}

fn write_host(text: &mut String, number: usize, host: &HostExplanation) -> fmt::Result {
    let role = match host.role {
        HostRole::Registry => "the registry itself",
        HostRole::Mirror => "a mirror",
    };
    let capabilities = match host.capabilities.is_empty() {
        true => "may be asked for nothing".to_owned(),
        false => format!("may {}", host.capabilities.join(", ")),
    };
    writeln!(text, "\n{number}. {}  {role}; {capabilities}", host.address)?;
    let user = host.username.as_ref().map_or_else(String::new, |name| format!(" (user \"{}\")", clean(name)));
    line(text, "sees", format_args!("{}{user}: {}", host.credentials, host.because))?;
    write_connection(text, host)?;
    match (&host.probe, &host.not_asked) {
        (Some(probe), _) => write_probe(text, probe),
        (None, Some(reason)) => line(text, "not asked", format_args!("{}", clean(reason))),
        (None, None) => Ok(()),
    }
}

fn write_connection(text: &mut String, host: &HostExplanation) -> fmt::Result {
    let tls = &host.tls;
    if tls.optional {
        line(
            text,
            "connection",
            format_args!("TLS if it has any, and else without: anybody could take it away"),
        )?;
    } else if !tls.used {
        line(text, "connection", format_args!("without TLS: anybody on the way can read and change it"))?;
    } else if tls.skip_verify {
        line(text, "connection", format_args!("TLS, but any certificate will do (skip_verify)"))?;
    }
    let files = |paths: &[std::path::PathBuf]| {
        paths.iter().map(|path: &std::path::PathBuf| shown(path)).collect::<Vec<_>>().join(", ")
    };
    if !tls.authorities.is_empty() {
        line(text, "trusts", format_args!("{} beside the system's authorities", files(&tls.authorities)))?;
    }
    if let Some(certificate) = &tls.client {
        line(text, "shows", format_args!("the certificate {}", shown(certificate)))?;
    }
    if !host.headers.is_empty() {
        line(text, "headers", format_args!("{}", host.headers.join(", ")))?;
    }
    if let Some(proxy) = &host.proxy {
        line(text, "proxy", format_args!("{proxy}"))?;
    }
    match host.dial_timeout_ms {
        Some(wait) => line(text, "patience", format_args!("{wait} ms for a connection")),
        None => Ok(()),
    }
}

fn write_probe(text: &mut String, probe: &Probe) -> fmt::Result {
    for exchange in &probe.exchanges {
        let answer = match (exchange.status, &exchange.failure) {
            (Some(status), _) => status.to_string(),
            (None, Some(_)) => "nothing".to_owned(),
            (None, None) => String::new(),
        };
        let asked = format!("{} {}", exchange.method, exchange.url);
        line(
            text,
            "asked",
            format_args!("{} -> {answer} after {} ms", clean(&asked), exchange.milliseconds),
        )?;
    }
    match &probe.failure {
        Some(failure) => line(text, "of no use", format_args!("{}", clean(failure))),
        None => {
            let digest = probe.digest.as_deref().unwrap_or("a manifest without a stated digest");
            let media_type = probe.media_type.as_deref().unwrap_or("without a media type");
            line(text, "has it", format_args!("{} ({})", clean(digest), clean(media_type)))
        }
    }
}

fn write_outcome(text: &mut String, meant: Option<&Meant>) -> fmt::Result {
    let Some(meant) = meant else {
        return writeln!(text, "A pull would fail: nobody says what the name means.");
    };
    if let Some(reason) = &meant.refused {
        return writeln!(text, "A pull would fail at what {} has: {}", meant.by, clean(reason));
    }
    writeln!(text, "A pull would take {} from {}.", meant.digest, meant.by)?;
    match (&meant.kind, &meant.manifest) {
        (Some(kind), Some(manifest)) if kind == "index" => {
            writeln!(text, "It is an index; for {} it has {manifest}.", meant.platform)
        }
        _ => writeln!(text, "It is a manifest."),
    }
}

/// One thing about a host.
fn line(text: &mut String, what: &str, words: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(text, "     {what:<11} {words}")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use image_service::{Exchange, TlsExplanation};

    use super::*;

    fn exchange(method: &str, url: &str, status: Option<u16>) -> Exchange {
        let failure = status.is_none().then(|| "connection refused".to_owned());
        Exchange { method: method.to_owned(), url: url.to_owned(), status, failure, milliseconds: 7 }
    }

    fn example() -> Explanation {
        let mirror = HostExplanation {
            address: "https://m.example/v2".to_owned(),
            role: HostRole::Mirror,
            capabilities: vec!["pull".to_owned()],
            tls: TlsExplanation {
                used: true,
                optional: false,
                authorities: vec!["/c/ca.pem".into()],
                client: Some("/c/node.pem".into()),
                skip_verify: false,
            },
            credentials: "the password in \"/c/password\"".to_owned(),
            username: Some("robot".to_owned()),
            because: "hosts.toml says so".to_owned(),
            dial_timeout_ms: Some(500),
            not_asked: Some("it may not say what a tag means, and nobody else does".to_owned()),
            ..HostExplanation::default()
        };
        let registry = HostExplanation {
            address: "http://r.example/v2".to_owned(),
            capabilities: ["resolve", "pull", "push"].map(ToOwned::to_owned).into(),
            credentials: "no credentials".to_owned(),
            because: "nobody has any for it".to_owned(),
            probe: Some(Probe {
                asked_for: "x".to_owned(),
                exchanges: vec![exchange("HEAD", "http://r.example/v2/a/manifests/x", Some(404))],
                failure: Some("answered 404\u{1b}[2J".to_owned()),
                ..Probe::default()
            }),
            ..HostExplanation::default()
        };
        Explanation {
            reference: "r.example/a:x".to_owned(),
            registry: "r.example".to_owned(),
            said_by: Some("/c/r.example/hosts.toml".into()),
            passed_over: vec!["/c/_default".into()],
            hosts: vec![mirror, registry],
            meant: None,
        }
    }

    #[test]
    fn people_are_told_in_the_order_of_asking() {
        let expected = "\
r.example/a:x
  /c/r.example/hosts.toml says where r.example is reached
  /c/_default is without effect for it: only the first directory counts

1. https://m.example/v2  a mirror; may pull
     sees        the password in \"/c/password\" (user \"robot\"): hosts.toml says so
     trusts      /c/ca.pem beside the system's authorities
     shows       the certificate /c/node.pem
     patience    500 ms for a connection
     not asked   it may not say what a tag means, and nobody else does

2. http://r.example/v2  the registry itself; may resolve, pull, push
     sees        no credentials: nobody has any for it
     connection  without TLS: anybody on the way can read and change it
     asked       HEAD http://r.example/v2/a/manifests/x -> 404 after 7 ms
     of no use   answered 404\u{fffd}[2J

A pull would fail: nobody says what the name means.
";
        assert_eq!(for_people(&example()).unwrap(), expected);
    }

    #[test]
    fn the_outcome_is_the_last_line() {
        let meant = Meant {
            by: "https://r.example/v2".to_owned(),
            digest: "sha256:1".to_owned(),
            kind: Some("index".to_owned()),
            platform: "linux/amd64".to_owned(),
            manifest: Some("sha256:2".to_owned()),
            refused: None,
        };
        let told = |meant: Meant| {
            let explanation = Explanation { meant: Some(meant), ..example() };
            for_people(&explanation).unwrap().lines().rev().take(2).collect::<Vec<_>>().join(" | ")
        };
        let taken = "A pull would take sha256:1 from https://r.example/v2.";
        let index = "It is an index; for linux/amd64 it has sha256:2.";
        assert_eq!(told(meant.clone()), format!("{index} | {taken}"));
        let refused = told(Meant { refused: Some("no".to_owned()), ..meant });
        assert!(refused.starts_with("A pull would fail at what https://r.example/v2 has: no"), "{refused}");
    }
}

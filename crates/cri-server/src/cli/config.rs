//! `knarr config`: what the keys are, what is written, whether it can be used; and having a daemon read it again.
//!
//! Not here: reading and checking (`crate::config`), taking over (`crate::reload`).

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use tonic::Status;
use tonic::transport::Channel;

use super::ConfigFile;
use super::endpoint::{self, ClientError, Endpoint};
use crate::config::keys::{Change, KEYS};
use crate::config::{Config, Loaded, Sources, USUAL};
use crate::own_service::v1::node_client::NodeClient;
use crate::own_service::v1::{ReloadRequest, ReloadResponse, VersionRequest};

/// How long a daemon may take: external runtimes and plugins are asked, side by side.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long somebody at a socket may take to say that it is knarr.
const INTRODUCTION: Duration = Duration::from_secs(2);

/// `knarr config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the default configuration as TOML
    Default,
    /// Print what a daemon would run by: all files laid over the defaults, as TOML
    Show {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Check the configuration and tell everything that is wrong with it, with file and line
    Check {
        /// The file; those of the directory FILE.d are checked with it [default: /etc/knarr/config.toml]
        file: Option<PathBuf>,
    },
    /// List all keys, and what becomes of each when it changes while the daemon runs
    Keys,
    /// Have the running daemon read its configuration again; fails if that can't be used, and nothing has changed then
    Reload {
        #[command(flatten)]
        endpoint: Endpoint,
        /// The daemon with this process id, wherever it listens
        #[arg(long, conflicts_with = "endpoint")]
        pid: Option<u32>,
        /// Print nothing when it goes well
        #[arg(long)]
        quiet: bool,
    },
}

/// Runs the sub-command; the error is for the person at the terminal.
pub(crate) fn run(command: ConfigCommand) -> Result<ExitCode, Box<dyn Error>> {
    let mut out = io::stdout().lock();
    match command {
        ConfigCommand::Default => out.write_all(toml::to_string(&Config::default())?.as_bytes())?,
        ConfigCommand::Show { file } => show(&file.sources().load()?, &mut out)?,
        ConfigCommand::Check { file } => check(&Sources::new(file).load()?, &mut out)?,
        ConfigCommand::Keys => keys(&mut out)?,
        ConfigCommand::Reload { endpoint, pid, quiet } => {
            let reloaded = endpoint::within(PATIENCE, reload(&endpoint, pid));
            let answer = crate::finish(crate::executor()?, reloaded)?;
            if !quiet {
                tell(&answer, &mut out)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(Loaded { config, files }: &Loaded, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    for file in files {
        writeln!(out, "# {}", file.display())?;
    }
    Ok(out.write_all(toml::to_string(config)?.as_bytes())?)
}

fn check(Loaded { files, .. }: &Loaded, out: &mut impl Write) -> io::Result<()> {
    if files.is_empty() {
        writeln!(out, "no \"{USUAL}\", and nothing in \"{USUAL}.d\": the defaults are ok")?;
    }
    files.iter().try_for_each(|file| writeln!(out, "{}: ok", file.display()))
}

fn keys(out: &mut impl Write) -> io::Result<()> {
    KEYS.iter().try_for_each(|key| match key.change {
        Change::Reload(_) => writeln!(out, "{:<36} reload", key.path),
        Change::Restart(why) => writeln!(out, "{:<36} restart ({why})", key.path),
    })
}

async fn reload(endpoint: &Endpoint, pid: Option<u32>) -> Result<ReloadResponse, ClientError> {
    let mut node = match pid {
        Some(pid) => of_process(endpoint, pid).await?,
        None => NodeClient::new(endpoint.connect().await?),
    };
    Ok(node.reload(ReloadRequest {}).await?.into_inner())
}

/// The daemon listens at other sockets, too, for others than us: where its files say is asked first, unless they have changed
/// since.
async fn of_process(endpoint: &Endpoint, pid: u32) -> Result<NodeClient<Channel>, ClientError> {
    let usual = endpoint.socket().ok();
    let mut sockets = endpoint::sockets_of(pid);
    sockets.sort_by_key(|socket| Some(socket) != usual.as_ref());
    for socket in sockets {
        let mut node = NodeClient::new(endpoint::channel(&socket));
        let asked = async { Ok(node.version(VersionRequest {}).await?) };
        if endpoint::within(INTRODUCTION, asked).await.is_ok() {
            return Ok(node);
        }
    }
    Err(Status::unavailable(format!("process {pid} is no daemon of ours that answers")).into())
}

fn tell(answer: &ReloadResponse, out: &mut impl Write) -> io::Result<()> {
    if answer.applied.is_empty() && answer.waiting.is_empty() {
        return writeln!(out, "nothing has changed since it was read last");
    }
    for key in &answer.applied {
        writeln!(out, "applied        {key}")?;
    }
    answer.waiting.iter().try_for_each(|key| writeln!(out, "needs restart  {} ({})", key.key, key.why))
}

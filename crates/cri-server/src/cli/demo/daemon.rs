//! The demo's private daemon: a child process on a temporary directory, with a bridge of its own.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config::{CgroupDriver, Config, LogLevel, NetworkConfig, NriConfig};

/// A running daemon, which goes on until [`Daemon::end`]. One that doesn't come up or end well leaves its directory for a look.
pub(super) struct Daemon {
    process: Child,
    directory: PathBuf,
}

impl Daemon {
    /// Starts the daemon and waits for its word that it serves.
    pub(super) fn start() -> io::Result<Self> {
        // Under a name that nobody can have guessed, for its owner alone: a configuration is read from it by root.
        let directory = tempfile::Builder::new().prefix("knarr-demo-").tempdir()?.keep();
        std::fs::create_dir(directory.join("logs"))?;
        let file = directory.join("knarr.toml");
        let toml = toml::to_string(&configuration(&directory)).map_err(io::Error::other)?;
        std::fs::write(&file, toml)?;
        let log = std::fs::File::create(directory.join("daemon.log"))?;
        let mut process = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A Ctrl-C is the demo's to take: the daemon is needed for the cleaning up.
            .process_group(0)
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let daemon = Self { process, directory };
        if line.starts_with("knarr: serving on ") { Ok(daemon) } else { Err(daemon.silent()) }
    }

    /// The address of its socket.
    pub(super) fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The path of its socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("state/knarr.sock")
    }

    /// Where the demo's pod keeps its logs.
    pub(super) fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// Stops the daemon as an operator would, and removes its directory.
    pub(super) async fn end(mut self) -> io::Result<()> {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM)?;
        let waiting = tokio::task::spawn_blocking(move || {
            self.process.wait().map(|status| (status, self.directory.clone()))
        });
        let (status, directory) = waiting.await.map_err(io::Error::other)??;
        if !status.success() {
            return Err(io::Error::other(format!(
                "the daemon ended with {status}, see \"{}\"",
                directory.display()
            )));
        }
        std::fs::remove_dir_all(directory)
    }

    fn silent(&self) -> io::Error {
        let log = std::fs::read_to_string(self.directory.join("daemon.log")).unwrap_or_default();
        io::Error::other(format!("the daemon did not come up: {}", log.trim()))
    }
}

fn configuration(directory: &Path) -> Config {
    let number = std::process::id() % 250;
    Config {
        listen: format!("unix://{}/state/knarr.sock", directory.display()),
        root: directory.join("root"),
        state: directory.join("state"),
        cni_conf_dir: directory.join("cni"),
        registry_config_dir: directory.join("certs.d"),
        log_level: LogLevel::Debug,
        // Nothing of the host's is needed, and nobody else's plugins are served.
        cgroup_driver: CgroupDriver::Cgroupfs,
        nri: NriConfig { enable: false, ..NriConfig::default() },
        network: NetworkConfig {
            builtin: true,
            bridge: format!("knarrdemo{number}"),
            subnets: vec![format!("10.214.{number}.0/24")],
            ..NetworkConfig::default()
        },
        ..Config::default()
    }
}

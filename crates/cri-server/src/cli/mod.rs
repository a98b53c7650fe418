//! The command line: what each sub-command takes. What they do lives in the modules beside this one.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{CgroupDriver, LogFormat, LogLevel, Sources};

pub(crate) mod config;
pub(crate) mod debug;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod endpoint;
pub(crate) mod image;
pub(crate) mod man;
pub(crate) mod registry;
pub(crate) mod terminal;
pub(crate) mod version;

/// A Kubernetes container runtime: kubelet, crictl and critest speak CRI v1 to it over a unix socket.
#[derive(Debug, Parser)]
#[command(name = "knarr", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve CRI until SIGTERM; pods go on without the daemon
    Serve(Box<ServeArgs>),
    /// Run the main job on its own: a registry, a pull, a pod, its logs, an exec, its stats
    Demo(DemoArgs),
    /// Say what this machine can and cannot do, and why
    Doctor(doctor::DoctorArgs),
    /// Gather what a bug report needs
    #[command(subcommand)]
    Debug(debug::DebugCommand),
    /// Say where images would come from, and why
    #[command(subcommand)]
    Registry(registry::RegistryCommand),
    /// Show and check the configuration, and have a running daemon read it again
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Handle the images of a running daemon
    Image(image::ImageArgs),
    /// Pull an image: the same as `image pull`
    Pull {
        #[command(flatten)]
        endpoint: endpoint::Endpoint,
        #[command(flatten)]
        arguments: image::PullArgs,
    },
    /// Write manual pages into a directory
    Man {
        /// It is made if it isn't there
        directory: PathBuf,
    },
    /// Print the version
    Version(version::VersionArgs),
}

/// Which configuration a command is about.
#[derive(Debug, Default, Args)]
pub(crate) struct ConfigFile {
    /// Configuration file (TOML); files `*.toml` in the directory FILE.d are laid over it, in the order of their names
    /// [default: /etc/knarr/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// Where it comes from.
    pub(crate) fn sources(self) -> Sources {
        Sources::new(self.config)
    }
}

/// `knarr demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Pull and run this image instead of the one that the demo packs
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
}

/// `knarr serve`: every flag is also a key of the configuration file, and wins over it.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Where to listen [default: unix:///run/knarr/knarr.sock]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Images, writable layers, addresses [default: /var/lib/knarr]
    #[arg(long, value_name = "DIR")]
    root: Option<String>,
    /// Sockets and records of pods [default: /run/knarr]
    #[arg(long, value_name = "DIR")]
    state: Option<String>,
    /// CNI configuration files [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<String>,
    /// CNI plugins; may be given several times [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR", num_args = 1..)]
    cni_bin_dir: Vec<String>,
    /// Use the built-in pod network instead of CNI configuration files
    #[arg(long)]
    builtin_network: bool,
    /// IP address that clients of exec, attach and port-forward are sent to [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    streaming_address: Option<String>,
    /// Its port; 0 lets the kernel choose [default: 0]
    #[arg(long, value_name = "PORT")]
    streaming_port: Option<u16>,
    /// Certificate for these streams (PEM); kubelet must find its authority among the node's, and the address in it
    /// [default: none, plain HTTP]
    #[arg(long, value_name = "FILE")]
    streaming_tls_cert_file: Option<String>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    streaming_tls_key_file: Option<String>,
    /// Authorities that certificates of clients must come from; kubelet shows none, which ends kubectl's exec, attach and
    /// port-forward [default: none, clients need no certificate]
    #[arg(long, value_name = "FILE")]
    streaming_tls_client_ca_file: Option<String>,
    /// Seconds after which a stream ends in which nothing moves [default: 14400]
    #[arg(long, value_name = "SECONDS")]
    streaming_idle_timeout: Option<u64>,
    /// How many streams there may be at a time [default: 1000]
    #[arg(long, value_name = "NUMBER")]
    streaming_max_connections: Option<u32>,
    /// Bytes that a container's log may grow by in a second; 0 for no limit [default: 0]
    #[arg(long, value_name = "BYTES")]
    log_rate_limit: Option<u64>,
    /// Bytes of a container's log until it is rotated; 0 for no limit [default: 0]
    #[arg(long, value_name = "BYTES")]
    log_size_limit: Option<u64>,
    /// Copy what containers write to journald
    #[arg(long)]
    log_journald: bool,
    /// Where figures for Prometheus are served, an IP address and a port [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<String>,
    /// hosts.toml files of registries [default: /etc/knarr/certs.d]
    #[arg(long, value_name = "DIR")]
    registry_config_dir: Option<String>,
    /// The node's credentials for registries, in the format of Docker's config.json [default: /etc/knarr/config.json,
    /// if it is there]
    #[arg(long, value_name = "FILE")]
    registry_credentials: Option<String>,
    /// Socket that plugins of the node (NRI) connect to [default: /run/nri/nri.sock]
    #[arg(long, value_name = "FILE")]
    nri_socket: Option<String>,
    /// Who makes the cgroups of pods; must be kubelet's [default: cgroupfs]
    #[arg(long, value_name = "DRIVER")]
    cgroup_driver: Option<CgroupDriver>,
    /// Least important level to log [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl ServeArgs {
    /// The file, and the flags that were given.
    pub(crate) fn sources(self) -> Sources {
        let mut from = self.file.sources();
        from.flag("listen", self.listen);
        from.flag("root", self.root);
        from.flag("state", self.state);
        from.flag("cni_conf_dir", self.cni_conf_dir);
        from.flag("cni_bin_dir", Some(self.cni_bin_dir).filter(|dirs| !dirs.is_empty()));
        from.flag("registry_config_dir", self.registry_config_dir);
        from.flag("registry.credentials", self.registry_credentials);
        from.flag("nri.socket", self.nri_socket);
        from.flag("cgroup_driver", self.cgroup_driver.map(name));
        from.flag("log_level", self.log_level.map(name));
        from.flag("log_format", self.log_format.map(name));
        from.flag("streaming.address", self.streaming_address);
        from.flag("streaming.port", self.streaming_port.map(u64::from));
        from.flag("streaming.tls_cert_file", self.streaming_tls_cert_file);
        from.flag("streaming.tls_key_file", self.streaming_tls_key_file);
        from.flag("streaming.tls_client_ca_file", self.streaming_tls_client_ca_file);
        from.flag("streaming.idle_timeout", self.streaming_idle_timeout);
        from.flag("streaming.max_connections", self.streaming_max_connections.map(u64::from));
        from.flag("logs.rate_limit", self.log_rate_limit);
        from.flag("logs.size_limit", self.log_size_limit);
        from.flag("logs.journald", self.log_journald.then_some(true));
        from.flag("metrics.listen", self.metrics_listen);
        from.flag("network.builtin", self.builtin_network.then_some(true));
        from
    }
}

/// A choice as the configuration file has it.
fn name(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let directory = std::env::temp_dir().join(format!("knarr-cli-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("knarr.toml");
        std::fs::write(&file, "root = \"/from/file\"\nstate = \"/from/file\"").unwrap();
        let line = ["knarr", "serve", "--config", file.to_str().unwrap(), "--state", "/from/flag"];
        let Command::Serve(arguments) = Cli::parse_from(line).command else { panic!("serve") };
        let config = arguments.sources().load().unwrap().config;
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(config.root, PathBuf::from("/from/file"));
        assert_eq!(config.state, PathBuf::from("/from/flag"));
    }
}

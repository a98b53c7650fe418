//! Where log lines go: standard error, as text or JSON.

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::config::{Config, LogFormat, LogLevel};

/// The crates that are ours. Dependencies are logged from `warn` on: their details are seldom an operator's.
const OURS: [&str; 6] = ["knarr", "sandbox", "cni", "image_service", "nri", "streaming"];

/// The level of the process' subscriber, which can be changed.
#[derive(Debug, Clone)]
pub(crate) struct Level(Handle<EnvFilter, Registry>);

impl Level {
    /// Logs from this level on.
    pub(crate) fn set(&self, level: LogLevel) {
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::warn!(%error, "the level of the log stays what it was");
        }
    }
}

/// Installs the process' subscriber.
pub(crate) fn init(config: &Config) -> Level {
    let (filter, handle) = reload::Layer::new(filter(config.log_level));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Text => registry.with(lines).init(),
        LogFormat::Json => registry.with(lines.json()).init(),
    }
    Level(handle)
}

fn filter(level: LogLevel) -> EnvFilter {
    let ours = OURS.map(|crate_name| format!("{crate_name}={}", level.directive()));
    EnvFilter::new(format!("warn,{}", ours.join(",")))
}

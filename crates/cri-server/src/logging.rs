//! Where log lines go: standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// The crates that are ours. Dependencies are logged from `warn` on: their details are seldom an operator's.
const OURS: [&str; 6] = ["knarr", "sandbox", "cni", "image_service", "nri", "streaming"];

/// Installs the process' subscriber.
pub(crate) fn init(config: &Config) {
    let level = config.log_level.directive();
    let ours = OURS.map(|crate_name| format!("{crate_name}={level}"));
    let filter = EnvFilter::new(format!("warn,{}", ours.join(",")));
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match config.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

//! Where log lines go: standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Installs the process' subscriber. Dependencies are logged from `warn` on: their details are seldom an operator's.
pub(crate) fn init(config: &Config) {
    let level = config.log_level.directive();
    let ours = ["knarr", "sandbox", "cni", "image_service"].map(|crate_name| format!("{crate_name}={level}"));
    let filter = EnvFilter::new(format!("warn,{}", ours.join(",")));
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match config.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

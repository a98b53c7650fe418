//! Where log lines go: standard error, as text or JSON. What watches spans is installed with it: stages, and traces where
//! they are wanted.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{Config, ConfigError, LogFormat};
use crate::telemetry::Telemetry;
use crate::telemetry::traces::{self, Exporter};

/// The crates that are ours. Dependencies are logged from `warn` on: their details are seldom an operator's.
const OURS: [&str; 5] = ["knarr", "sandbox", "cni", "image_service", "streaming"];

/// Installs the process' subscriber. The exporter sends spans, if there are to be any.
///
/// # Errors
/// What of the configuration of traces can't be used.
pub(crate) fn init(config: &Config) -> Result<(Telemetry, Option<Exporter>), ConfigError> {
    let level = config.log_level.directive();
    let ours = OURS.map(|crate_name| format!("{crate_name}={level}"));
    // For all layers: spans that are watched are errors by their level, and so never left out.
    let filter = EnvFilter::new(format!("warn,{}", ours.join(",")));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match config.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let traces = config.tracing.target()?;
    let traces = traces.map(|target| traces::start(target, config.tracing.sampling_per_million));
    let (traces, exporter) = traces.unzip();
    let telemetry = Telemetry { traces: traces.clone(), ..Telemetry::default() };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(telemetry.stages.clone())
        .with(traces)
        .init();
    Ok((telemetry, exporter))
}

//! Where log lines go: standard error, as text or JSON. What watches spans is installed with it: stages, and traces where
//! they are wanted.

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt};

use crate::config::{Config, Fault, LogFormat, LogLevel};
use crate::telemetry::Telemetry;
use crate::telemetry::traces::{self, Exporter};

/// The crates that are ours. Dependencies are logged from `warn` on: their details are seldom an operator's.
const OURS: [&str; 6] = ["knarr", "sandbox", "cni", "image_service", "nri", "streaming"];

/// What watches the daemon.
pub(crate) struct Observers {
    /// The level of the log.
    pub(crate) level: Level,
    /// Calls, stages and traces.
    pub(crate) telemetry: Telemetry,
    /// Sends spans, if there are to be any.
    pub(crate) spans: Option<Exporter>,
}

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
///
/// # Errors
/// What of the configuration of traces can't be used.
pub(crate) fn init(config: &Config) -> Result<Observers, Fault> {
    // For all layers: spans that are watched are errors by their level, and so never left out.
    let (filter, handle) = reload::Layer::new(filter(config.log_level));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match config.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let traces = config.tracing.target()?;
    let traces = traces.map(|target| traces::start(target, config.tracing.sampling_per_million));
    let (traces, spans) = traces.unzip();
    let telemetry = Telemetry { traces: traces.clone(), ..Telemetry::default() };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    subscriber.with(telemetry.stages.clone()).with(traces).init();
    Ok(Observers { level: Level(handle), telemetry, spans })
}

fn filter(level: LogLevel) -> EnvFilter {
    let ours = OURS.map(|crate_name| format!("{crate_name}={}", level.directive()));
    EnvFilter::new(format!("warn,{}", ours.join(",")))
}

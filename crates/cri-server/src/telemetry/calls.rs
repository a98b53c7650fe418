//! How long calls take and which fail.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use super::methods;

/// Upper ends of the buckets, in seconds: a list takes less than the first, the start of a container a few milliseconds, a pod
/// with executed plugins tens of them, a pull up to minutes.
const BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// Makes histograms of times.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times;

impl MetricConstructor<Histogram> for Times {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// Times by the values of labels.
pub(super) type TimesBy<L> = Family<L, Histogram, Times>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    method: &'static str,
    code: &'static str,
}

/// The calls that have been answered. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    durations: TimesBy<Method>,
    failures: Family<Failure, Counter>,
}

impl Default for Calls {
    fn default() -> Self {
        Self { durations: Family::new_with_constructor(Times), failures: Family::default() }
    }
}

impl Calls {
    /// Counts a call that was answered, or given up by its client (Cancelled).
    pub(crate) fn ended(&self, method: &str, (code, after): (Code, Duration)) {
        let method = methods::known(method);
        self.durations.get_or_create(&Method { method }).observe(after.as_secs_f64());
        if code != Code::Ok {
            self.failures.get_or_create(&Failure { method, code: name(code) }).inc();
        }
    }

    /// Has the figures shown.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "call_duration",
            "Time from a call to its answer, or to the beginning of a stream of answers",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "call_failures",
            "Calls that were answered with a gRPC code other than OK, and those that their clients gave up (Cancelled)",
            self.failures.clone(),
        );
    }
}

/// The word for a code (gRPC's "Status codes and their use").
pub(crate) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

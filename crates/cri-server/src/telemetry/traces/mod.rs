//! Traces for a collector of OpenTelemetry's: each call a span that goes on with its caller's trace, each stage a child.
//!
//! Off unless `[tracing] endpoint` says where to. A span that is over goes into a bounded queue (`export`); a collector
//! that is absent or slow costs spans, which are counted, and never waits of calls nor memory. Not here: figures of the
//! same stages (`telemetry::stages`).

mod attributes;
mod context;
mod export;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tonic::Code;
use tonic::codegen::http::HeaderMap;
use tracing::Subscriber;
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::calls;
use super::fields::Texts;
use super::stages;
use attributes::Described;
use context::{Caller, Place};
pub(crate) use export::{Exporter, Target};

/// Spans that wait for the collector, at most: some seconds of a node that starts pods as fast as it can.
const QUEUE: usize = 1024;

/// What is made from the published protocol.
mod v1 {
    #![allow(
        missing_docs,
        unreachable_pub,
        rust_2018_idioms,
        dead_code,
        clippy::all,
        reason = "generated code"
    )]
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}

/// Where spans go. As a layer of `tracing` it watches stages. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    queue: mpsc::Sender<Finished>,
    counts: Arc<Counts>,
    /// Of a million calls whose callers say nothing of a trace, so many begin one.
    per_million: u32,
}

/// What became of spans.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// The collector has them.
    pub(crate) exported: AtomicU64,
    /// The queue was full, or the collector refused them.
    pub(crate) dropped: AtomicU64,
}

/// A span that is over.
#[derive(Debug)]
struct Finished {
    place: Place,
    parent: Parent,
    name: String,
    /// Nanoseconds since the epoch.
    began: i64,
    ended: i64,
    described: Described,
    outcome: Outcome,
}

/// What a span is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parent {
    /// Nothing: it begins a trace.
    None,
    /// A span of the caller's.
    Remote([u8; 8]),
    /// A span of ours.
    Own([u8; 8]),
}

/// How a span ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// With this code, and these words if it counts as a failure of ours.
    Call(Code, String),
    Stage(StageOutcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StageOutcome {
    Done,
    Failed,
}

/// A span that is open, kept with that of `tracing`.
#[derive(Debug)]
struct Open {
    place: Place,
    parent: Parent,
    name: String,
    began: i64,
    described: Described,
    outcome: StageOutcome,
}

/// A call that is traced.
#[derive(Debug)]
pub(crate) struct Call {
    span: tracing::Span,
    traces: Traces,
}

/// Starts tracing: what spans are given to, and what sends them.
pub(crate) fn start(target: Target, per_million: u32) -> (Traces, Exporter) {
    let (queue, waiting) = mpsc::channel(QUEUE);
    let counts = Arc::<Counts>::default();
    let exporter = Exporter::new(target, waiting, counts.clone());
    (Traces { queue, counts, per_million }, exporter)
}

impl Traces {
    /// What became of spans.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Begins the span of a call, if it is to be traced. `path` is `/service/method`.
    pub(crate) fn begin(&self, span: &tracing::Span, (path, headers): (&str, &HeaderMap)) -> Option<Call> {
        let (place, parent) = match context::read(headers) {
            Caller::NotSampled => return None,
            Caller::Sampled(caller) => {
                let parent = Parent::Remote(caller.span);
                (Place { span: random()?, ..caller }, parent)
            }
            // The usual case, several times a second: without drawing numbers.
            Caller::Untraced if self.per_million == 0 => return None,
            Caller::Untraced => {
                let trace = random().filter(|trace| self.samples(trace))?;
                (Place { trace, span: random()?, state: Arc::default() }, Parent::None)
            }
        };
        span.record("trace", context::hexadecimal(&place.trace));
        let name = path.trim_start_matches('/').to_owned();
        let (described, began) = (Described::call(&name), crate::now());
        let open = Open { place, parent, name, began, described, outcome: StageOutcome::Done };
        let_registry(span, |registry, id| {
            if let Some(span) = registry.span(id) {
                span.extensions_mut().replace(open);
            }
        })?;
        Some(Call { span: span.clone(), traces: self.clone() })
    }

    /// Whether a trace that begins here is recorded: by its random number, so that all who ask come to the same answer.
    fn samples(&self, trace: &[u8; 16]) -> bool {
        let mut last = [0; 8];
        last.copy_from_slice(&trace[8..]);
        u64::from_be_bytes(last) % 1_000_000 < u64::from(self.per_million)
    }

    fn finish(&self, span: Finished) {
        if self.queue.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Call {
    /// Ends the span. Stages that go on without the call are its children all the same.
    pub(crate) fn end(self, code: Code, message: &str) {
        let message = if is_failure_of_ours(code) { message } else { "" };
        let finished = let_registry(&self.span, |registry, id| {
            let span = registry.span(id)?;
            let mut extensions = span.extensions_mut();
            let open = extensions.get_mut::<Open>()?;
            Some(Finished {
                place: open.place.clone(),
                parent: open.parent,
                name: open.name.clone(),
                began: open.began,
                ended: crate::now(),
                described: open.described.clone(),
                outcome: Outcome::Call(code, message.to_owned()),
            })
        });
        if let Some(finished) = finished.flatten() {
            self.traces.finish(finished);
        }
    }
}

/// Calls a function with the registry of spans and a span's number there.
fn let_registry<T>(span: &tracing::Span, work: impl FnOnce(&Registry, &Id) -> T) -> Option<T> {
    span.with_subscriber(|(id, subscriber)| Some(work(subscriber.downcast_ref()?, id))).flatten()
}

/// Codes that a server's span is marked with as failed (OpenTelemetry, "Semantic conventions for gRPC"): the others are what
/// the client did wrong.
fn is_failure_of_ours(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    // Zero means none.
    (bytes != [0; N]).then_some(bytes)
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Traces {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() != stages::SPAN {
            return;
        }
        let Some(span) = context.span(id) else { return };
        // The nearest one that is traced; a stage of nobody's call is in no trace.
        let around = span.scope().skip(1).find_map(|around| {
            let extensions = around.extensions();
            let open = extensions.get::<Open>()?;
            Some((open.place.clone(), open.described.identity()))
        });
        let (Some((parent, mut described)), Some(number)) = (around, random()) else { return };
        let mut name = String::new();
        attributes.record(&mut Texts(|field, value: &str| match field {
            "stage" => value.clone_into(&mut name),
            _ => described.add(field, value),
        }));
        let (place, parent) = (Place { span: number, ..parent.clone() }, Parent::Own(parent.span));
        let (began, outcome) = (crate::now(), StageOutcome::Done);
        span.extensions_mut().insert(Open { place, parent, name, began, described, outcome });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(open) = extensions.get_mut::<Open>() else { return };
        values.record(&mut Texts(|field, value: &str| match (field, value) {
            ("failed", "true") => open.outcome = StageOutcome::Failed,
            _ => open.described.add(field, value),
        }));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        if span.name() != stages::SPAN {
            return;
        }
        let Some(open) = span.extensions_mut().remove::<Open>() else { return };
        let Open { place, parent, name, began, described, outcome } = open;
        let (ended, outcome) = (crate::now(), Outcome::Stage(outcome));
        self.finish(Finished { place, parent, name, began, ended, described, outcome });
    }
}

#[cfg(test)]
mod tests;

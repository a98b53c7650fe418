//! Sending spans to a collector: OTLP over gRPC, many at a time.
//!
//! What can't be sent is tried again a few times and then dropped, while the queue drops what finds no place. Only changes
//! are logged: that spans are not taken, and that they are again.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::v1::trace_service_client::TraceServiceClient;
use super::{Counts, Finished, Outcome, Parent, StageOutcome, attributes, v1};

/// Spans in one message.
const BATCH: usize = 256;

/// How long spans wait for others to go with.
const GATHERING: Duration = Duration::from_millis(500);

/// How long the collector may take for a message.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long to wait before a message is sent again: this at first, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How often a message is sent before it is given up: for 15 s in all where the connection is refused, 65 s where nobody answers.
const ATTEMPTS: u32 = 5;

/// How long the last spans may take when the daemon ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The message in a refusal's details that says when to come again (google/rpc/error_details.proto).
const RETRY_INFO: &[u8] = b"google.rpc.RetryInfo";

/// The flags of a sampled trace, with the bit that says that the next one is meant (opentelemetry-proto, SpanFlags).
const FLAGS: u32 = 0x101;

/// That the parent is a span of another process (the same).
const REMOTE: u32 = 0x200;

/// Where spans are sent.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// How it is reached.
    pub(crate) endpoint: Endpoint,
    /// For log lines.
    pub(crate) name: String,
}

/// Sends spans.
#[derive(Debug)]
pub(crate) struct Exporter {
    target: Target,
    /// Made when it is needed first, within the executor.
    client: Option<TraceServiceClient<Channel>>,
    waiting: mpsc::Receiver<Finished>,
    counts: Arc<Counts>,
    /// What is being sent.
    batch: Vec<v1::Span>,
    is_failing: bool,
}

impl Exporter {
    pub(super) fn new(target: Target, waiting: mpsc::Receiver<Finished>, counts: Arc<Counts>) -> Self {
        Self { target, client: None, waiting, counts, batch: Vec::new(), is_failing: false }
    }

    /// Sends spans for ever. Safe to cancel: what was under way stays for [`Exporter::finish`].
    pub(crate) async fn run(&mut self) -> Infallible {
        loop {
            self.gather().await;
            self.send().await;
        }
    }

    /// Sends what is left, if that can be done at once. A message that was under way is sent again: its spans may be counted, and be had by the collector, twice.
    pub(crate) async fn finish(mut self) {
        while let Ok(span) = self.waiting.try_recv() {
            self.batch.push(shown(span));
        }
        if !self.batch.is_empty() {
            let _not_in_time = tokio::time::timeout(LAST_WORDS, self.attempt()).await;
        }
    }

    /// Waits for spans, and a little for more of them.
    pub(super) async fn gather(&mut self) {
        if self.batch.is_empty() {
            match self.waiting.recv().await {
                Some(first) => self.batch.push(shown(first)),
                // The other end is the subscriber's, which stays.
                None => std::future::pending().await,
            }
        }
        let end = tokio::time::Instant::now() + GATHERING;
        while self.batch.len() < BATCH {
            match tokio::time::timeout_at(end, self.waiting.recv()).await {
                Ok(Some(span)) => self.batch.push(shown(span)),
                Ok(None) | Err(_) => return,
            }
        }
    }

    pub(super) async fn send(&mut self) {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            let Err(refused) = self.attempt().await else { return };
            if attempt == ATTEMPTS || !may_pass(&refused) {
                break;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let given_up = std::mem::take(&mut self.batch).len();
        self.dropped(given_up);
    }

    /// Sends what is gathered, once.
    async fn attempt(&mut self) -> Result<(), Status> {
        let mut request = tonic::Request::new(message(self.batch.clone()));
        request.set_timeout(DEADLINE);
        let endpoint = &self.target.endpoint;
        let client = self.client.get_or_insert_with(|| TraceServiceClient::new(endpoint.connect_lazy()));
        let sent = tokio::time::timeout(DEADLINE, client.export(request)).await;
        match sent.unwrap_or_else(|_| Err(Status::deadline_exceeded("the collector does not answer"))) {
            Ok(answer) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(collector = self.target.name, "spans are taken again");
                }
                let refused = answer.into_inner().partial_success.unwrap_or_default().rejected_spans;
                let refused = usize::try_from(refused).unwrap_or(0).min(self.batch.len());
                let taken = std::mem::take(&mut self.batch).len() - refused;
                self.counts.exported.fetch_add(taken as u64, Ordering::Relaxed);
                self.dropped(refused);
                Ok(())
            }
            Err(refused) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    let (code, why) = (refused.code(), refused.message());
                    let collector = &self.target.name;
                    tracing::warn!(
                        collector,
                        ?code,
                        why,
                        "spans are not taken; those that are too many are dropped"
                    );
                }
                Err(refused)
            }
        }
    }

    fn dropped(&self, spans: usize) {
        self.counts.dropped.fetch_add(spans as u64, Ordering::Relaxed);
    }
}

/// Whether the same message may be taken later (OTLP, "Failures").
fn may_pass(refused: &Status) -> bool {
    match refused.code() {
        // For good, unless the collector says when to come again.
        Code::ResourceExhausted => {
            let said = refused.details();
            said.windows(RETRY_INFO.len()).any(|part| part == RETRY_INFO)
        }
        code => matches!(
            code,
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
        ),
    }
}

fn message(spans: Vec<v1::Span>) -> v1::ExportTraceServiceRequest {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut host = vec![attributes::text("service.name", "knarr".to_owned())];
    host.push(attributes::text("service.version", version.clone()));
    if let Ok(name) = nix::unistd::gethostname() {
        host.push(attributes::text("host.name", name.to_string_lossy().into_owned()));
    }
    let scope = Some(v1::InstrumentationScope { name: "knarr".to_owned(), version });
    let resource = Some(v1::Resource { attributes: host });
    let scope_spans = vec![v1::ScopeSpans { scope, spans }];
    v1::ExportTraceServiceRequest { resource_spans: vec![v1::ResourceSpans { resource, scope_spans }] }
}

fn shown(span: Finished) -> v1::Span {
    let Finished { place, parent, name, began, ended, described, outcome } = span;
    let (parent, flags) = match parent {
        Parent::None => (Vec::new(), FLAGS),
        Parent::Own(span) => (span.to_vec(), FLAGS),
        Parent::Remote(span) => (span.to_vec(), FLAGS | REMOTE),
    };
    let mut attributes = described.into_attributes();
    let (kind, failure) = match outcome {
        Outcome::Call(code, message) => {
            attributes.extend(super::attributes::code(code));
            let failure = super::is_failure_of_ours(code).then_some(message);
            (v1::SpanKind::Server, failure)
        }
        Outcome::Stage(StageOutcome::Failed) => (v1::SpanKind::Internal, Some(String::new())),
        Outcome::Stage(StageOutcome::Done) => (v1::SpanKind::Internal, None),
    };
    let code = v1::StatusCode::Error as i32;
    v1::Span {
        trace_id: place.trace.to_vec(),
        span_id: place.span.to_vec(),
        trace_state: place.state.to_string(),
        parent_span_id: parent,
        name,
        kind: kind as i32,
        start_time_unix_nano: u64::try_from(began).unwrap_or(0),
        // A clock that was set back makes no span end before it began.
        end_time_unix_nano: u64::try_from(ended.max(began)).unwrap_or(0),
        attributes,
        status: failure.map(|message| v1::SpanStatus { message, code }),
        flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_given_up_unless_the_collector_says_when_to_come_again() {
        assert!(!may_pass(&Status::resource_exhausted("a quota")));
        let details = [b"\n type.googleapis.com/" as &[u8], RETRY_INFO].concat();
        let later = Status::with_details(Code::ResourceExhausted, "busy", details.into());
        assert!(may_pass(&later));
        assert!(may_pass(&Status::unavailable("not there")) && !may_pass(&Status::internal("broken")));
    }
}

//! One structured log line a call: method, pod or container, code, time; also for a call that nobody waited for any more. Calls that only look are logged at debug, for kubelet makes them all the
//! time. Counts the calls under way, so that an ending daemon knows when the last one is answered, and tells figures and traces of each.
//!
//! A call has a span with whom it is about; what is done for it is done within that, and so are log lines about it. Not here: the
//! identity of pods in lines about what they do by themselves (`sandbox`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::http::{HeaderMap, Request, Response};
use sandbox::{ContainerMetadata, PodMetadata, Pods};
use tokio::sync::watch;
use tonic::Code;
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::telemetry::{Telemetry, traces};

/// Wraps every call of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallLog {
    under_way: Arc<watch::Sender<usize>>,
    /// Told of each call that does more than look, when it begins and when it ends.
    work: Arc<watch::Sender<()>>,
    telemetry: Telemetry,
}

impl CallLog {
    /// A log that tells figures and traces.
    pub(crate) fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, ..Self::default() }
    }

    /// Waits until no call is under way. Safe to cancel.
    pub(crate) async fn idle(&self) {
        let mut calls = self.under_way.subscribe();
        // Fails only without a sender, and there is one here.
        let _zero = calls.wait_for(|calls| *calls == 0).await;
    }

    /// Changes with each call that does more than look, when it begins and when it ends.
    pub(crate) fn work(&self) -> watch::Receiver<()> {
        self.work.subscribe()
    }

    fn works(&self, method: &str) {
        if !only_looks(method) {
            self.work.send_replace(());
        }
    }
}

/// A call that counts as long as it lives, whether it is answered or dropped.
struct UnderWay {
    log: CallLog,
    method: String,
    span: Span,
    trace: Option<traces::Call>,
    begun: Instant,
    is_answered: bool,
}

impl UnderWay {
    fn begin(log: &CallLog, (path, headers): (&str, &HeaderMap)) -> Self {
        log.under_way.send_modify(|calls| *calls += 1);
        let method = path.rsplit('/').next().unwrap_or_default();
        log.works(method);
        let span = span(method);
        let traces = log.telemetry.traces.as_ref();
        let trace = traces.and_then(|traces| traces.begin(&span, (path, headers)));
        Self {
            log: log.clone(),
            method: method.to_owned(),
            span,
            trace,
            begun: Instant::now(),
            is_answered: false,
        }
    }

    /// Tells figures and trace of the end, and gives how many microseconds it took.
    fn ended(&mut self, (code, message): (Code, &str)) -> u64 {
        let after = self.begun.elapsed();
        self.log.telemetry.calls.ended(&self.method, (code, after));
        if let Some(trace) = self.trace.take() {
            trace.end(code, message);
        }
        u64::try_from(after.as_micros()).unwrap_or(u64::MAX)
    }

    /// A failed call has its code in the headers, for nothing follows them; a call without one there went well.
    fn answered<B>(&mut self, response: &Response<B>) {
        self.is_answered = true;
        let failure =
            tonic::Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok);
        let outcome = failure.as_ref().map_or((Code::Ok, ""), |status| (status.code(), status.message()));
        let microseconds = self.ended(outcome);
        let _in_span = self.span.enter();
        match failure {
            Some(status) => {
                tracing::warn!(code = ?status.code(), microseconds, "call failed: {}", status.message());
            }
            None if only_looks(&self.method) => tracing::debug!(microseconds, "call"),
            None => tracing::info!(microseconds, "call"),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.log.under_way.send_modify(|calls| *calls -= 1);
        self.log.works(&self.method);
        if !self.is_answered {
            let microseconds = self.ended((Code::Cancelled, ""));
            let _in_span = self.span.enter();
            // What it waited for goes on; see `sandbox`. The call that hangs is the one that an operator looks for.
            tracing::warn!(
                microseconds,
                "call cancelled: its client or this daemon did not wait for the answer"
            );
        }
    }
}

/// A call's span. Of the highest level, so that it is there for whatever line is written in it.
fn span(method: &str) -> Span {
    tracing::error_span!(
        "call",
        method,
        trace = Empty,
        pod = Empty,
        pod.name = Empty,
        pod.namespace = Empty,
        pod.uid = Empty,
        container = Empty,
        container.name = Empty,
        image = Empty,
    )
}

/// Puts the pod that a call is about into its log lines and trace.
pub(crate) fn about_pod(pods: &Pods, id: &str) {
    has_pod(id);
    if let Ok(pod) = pods.pod(id) {
        about_new_pod(&pod.config.metadata);
    }
}

/// The same of one that has no id yet.
pub(crate) fn about_new_pod(metadata: &PodMetadata) {
    let span = Span::current();
    span.record("pod.name", metadata.name.as_str());
    span.record("pod.namespace", metadata.namespace.as_str());
    span.record("pod.uid", metadata.uid.as_str());
}

/// The id of that, once it has one.
pub(crate) fn has_pod(id: &str) {
    Span::current().record("pod", id);
}

/// Puts the container that a call is about into its log lines and trace, and its pod.
pub(crate) fn about_container(pods: &Pods, id: &str) {
    has_container(id);
    if let Ok(container) = pods.container(id) {
        about_new_container(&container.config.metadata);
        about_pod(pods, container.pod.as_str());
    }
}

/// The same of one that has no id yet.
pub(crate) fn about_new_container(metadata: &ContainerMetadata) {
    Span::current().record("container.name", metadata.name.as_str());
}

/// The id of that, once it has one.
pub(crate) fn has_container(id: &str) {
    Span::current().record("container", id);
}

/// Puts the image that a call is about into its log lines and trace.
pub(crate) fn about_image(name: &str) {
    Span::current().record("image", name);
}

/// The wrapped server.
#[derive(Debug, Clone)]
pub(crate) struct Logged<S> {
    inner: S,
    log: CallLog,
}

impl<S> Layer<S> for CallLog {
    type Service = Logged<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Logged { inner, log: self.clone() }
    }
}

impl<S, A, B> Service<Request<A>> for Logged<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let mut under_way = UnderWay::begin(&self.log, (request.uri().path(), request.headers()));
        let answer = self.inner.call(request).instrument(under_way.span.clone());
        Box::pin(async move {
            let response = answer.await?;
            under_way.answered(&response);
            Ok(response)
        })
    }
}

fn only_looks(method: &str) -> bool {
    method == "Version"
        || method == "RuntimeConfig"
        || method == "ImageFsInfo"
        || method.starts_with("List")
        || method.starts_with("Stream")
        || method.starts_with("Inspect")
        || method.ends_with("Status")
        || method.ends_with("Stats")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Calls StopPodSandbox of a server that names the pod and then does as `answer` says, and gives the log.
    async fn logged<F>(answer: F) -> (String, usize)
    where
        F: Future<Output = Response<()>> + Send + 'static,
    {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _default = tracing::subscriber::set_default(subscriber);
        let log = CallLog::default();
        let mut answer = Some(answer);
        let server = tower::service_fn(move |_: Request<()>| {
            let answer = answer.take();
            async move {
                has_pod("p1");
                Ok::<_, io::Error>(answer.expect("one call").await)
            }
        });
        let mut server = log.layer(server);
        let request = Request::builder().uri("http://x/runtime.v1.RuntimeService/StopPodSandbox").body(());
        let call = server.call(request.unwrap());
        let _cut = tokio::time::timeout(std::time::Duration::from_millis(20), call).await;
        let under_way = *log.under_way.borrow();
        (lines.text(), under_way)
    }

    #[tokio::test]
    async fn a_call_is_logged_with_its_pod() {
        let (lines, under_way) = logged(async { Response::new(()) }).await;
        assert!(lines.contains("method=\"StopPodSandbox\" pod=\"p1\"") && lines.contains("INFO"), "{lines}");
        assert_eq!((lines.lines().count(), under_way), (1, 0));
    }

    #[tokio::test]
    async fn a_failed_call_is_logged_with_its_code_and_message() {
        let (lines, _) = logged(async { tonic::Status::not_found("no pod").into_http::<()>() }).await;
        assert!(lines.contains("WARN") && lines.contains("call failed: no pod code=NotFound"), "{lines}");
    }

    #[tokio::test]
    async fn a_call_that_nobody_waits_for_is_logged_once() {
        let (lines, under_way) = logged(std::future::pending()).await;
        assert!(
            lines.contains("WARN") && lines.contains("pod=\"p1\"") && lines.contains("cancelled"),
            "{lines}"
        );
        assert_eq!((lines.lines().count(), under_way), (1, 0));
    }
}

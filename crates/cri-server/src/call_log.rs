//! One structured log line a call: method, pod or container, code, time; also for a call that nobody waited for any more. Calls that only look are logged at debug, for kubelet makes them all the
//! time. Counts the calls under way, so that an ending daemon knows when the last one is answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::http::{Request, Response};
use tokio::sync::watch;
use tonic::Code;
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument, Span};

/// Wraps every call of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallLog {
    under_way: Arc<watch::Sender<usize>>,
}

impl CallLog {
    /// Waits until no call is under way. Safe to cancel.
    pub(crate) async fn idle(&self) {
        let mut calls = self.under_way.subscribe();
        // Fails only without a sender, and there is one here.
        let _zero = calls.wait_for(|calls| *calls == 0).await;
    }
}

/// A call that counts as long as it lives, whether it is answered or dropped.
struct UnderWay {
    calls: Arc<watch::Sender<usize>>,
    method: String,
    span: Span,
    begun: Instant,
    is_answered: bool,
}

impl UnderWay {
    fn begin(calls: &Arc<watch::Sender<usize>>, method: &str) -> Self {
        calls.send_modify(|calls| *calls += 1);
        // Of the highest level, so that it is there for whatever line is written in it.
        let span = tracing::error_span!("call", method, pod = Empty, container = Empty);
        Self {
            calls: calls.clone(),
            method: method.to_owned(),
            span,
            begun: Instant::now(),
            is_answered: false,
        }
    }

    fn microseconds(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A failed call has its code in the headers, for nothing follows them; a call without one there went well.
    fn answered<B>(&mut self, response: &Response<B>) {
        self.is_answered = true;
        let _in_span = self.span.enter();
        let microseconds = self.microseconds();
        match tonic::Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok) {
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
        self.calls.send_modify(|calls| *calls -= 1);
        if !self.is_answered {
            let _in_span = self.span.enter();
            let microseconds = self.microseconds();
            // What it waited for goes on; see `sandbox`. The call that hangs is the one that an operator looks for.
            tracing::warn!(
                microseconds,
                "call cancelled: its client or this daemon did not wait for the answer"
            );
        }
    }
}

/// Puts the pod that a call is about into its log lines.
pub(crate) fn about_pod(id: &str) {
    Span::current().record("pod", id);
}

/// Puts the container that a call is about into its log lines.
pub(crate) fn about_container(id: &str) {
    Span::current().record("container", id);
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
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let mut under_way = UnderWay::begin(&self.log.under_way, &method);
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
                about_pod("p1");
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

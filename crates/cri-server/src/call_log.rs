//! One structured log line a call: method, code, time. Calls that only look are logged at debug, for kubelet makes them all the
//! time. Counts the calls under way, so that an ending daemon knows when the last one is answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::http::{Request, Response};
use tokio::sync::watch;
use tower::{Layer, Service};

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
struct UnderWay(Arc<watch::Sender<usize>>);

impl UnderWay {
    fn begin(calls: &Arc<watch::Sender<usize>>) -> Self {
        calls.send_modify(|calls| *calls += 1);
        Self(calls.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
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
        let begun = Instant::now();
        let under_way = UnderWay::begin(&self.log.under_way);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let _under_way = under_way;
            let response = answer.await?;
            log(&method, &response, begun);
            Ok(response)
        })
    }
}

/// A failed call has its code in the headers, for nothing follows them; a call without one there went well.
fn log<B>(method: &str, response: &Response<B>, begun: Instant) {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let code = header("grpc-status").and_then(|code| code.parse::<i32>().ok()).unwrap_or(0);
    let microseconds = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    if code != 0 {
        let code = tonic::Code::from_i32(code);
        let message =
            tonic::Status::from_header_map(response.headers()).map(|status| status.message().to_owned());
        tracing::warn!(method, ?code, microseconds, "call failed: {}", message.unwrap_or_default());
    } else if only_looks(method) {
        tracing::debug!(method, microseconds, "call");
    } else {
        tracing::info!(method, microseconds, "call");
    }
}

fn only_looks(method: &str) -> bool {
    method == "Version"
        || method == "RuntimeConfig"
        || method == "ImageFsInfo"
        || method.starts_with("List")
        || method.starts_with("Stream")
        || method.ends_with("Status")
        || method.ends_with("Stats")
}

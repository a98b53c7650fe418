//! The time that a client gives a call (`grpc-timeout`, gRPC over HTTP/2, "Requests").
//!
//! tonic ends such a call with CANCELLED. What clients of other servers see, and look for, is DEADLINE_EXCEEDED; so the call
//! is answered here, a moment before.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::http::{Request, Response};
use tower::{Layer, Service};

/// How long before its end a call is answered, at most; short times are cut by a tenth. On a busy node an answer takes tens of
/// milliseconds, and the client's own clock began to run before ours.
const MARGIN: Duration = Duration::from_millis(100);

/// Wraps every call of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline;

/// The wrapped server.
#[derive(Debug, Clone)]
pub(crate) struct Bounded<S>(S);

impl<S> Layer<S> for Deadline {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Bounded(inner)
    }
}

impl<S, A, B> Service<Request<A>> for Bounded<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let given = request.headers().get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
        let answer = self.0.call(request);
        let Some(given) = given else { return Box::pin(answer) };
        let after = given - MARGIN.min(given / 10);
        Box::pin(async move {
            match tokio::time::timeout(after, answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    let message =
                        format!("the {given:?} that the client gave are over; what was begun goes on");
                    Ok(tonic::Status::deadline_exceeded(message).into_http())
                }
            }
        })
    }
}

/// At most eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_protocol_has_them() {
        let cases = [
            ("2H", Some(7_200_000)),
            ("3M", Some(180_000)),
            ("4S", Some(4000)),
            ("500m", Some(500)),
            ("99999999u", Some(99_999)),
            ("", None),
            ("S", None),
            ("-1S", None),
            ("999999999S", None),
            ("1s", None),
            ("1é", None),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(parse(text).map(|time| time.as_millis()), milliseconds, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_too_long_is_answered_in_time() {
        let slow = tower::service_fn(|_: Request<()>| async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok::<_, std::convert::Infallible>(Response::new(String::new()))
        });
        let request = |timeout| Request::builder().header("grpc-timeout", timeout).body(()).unwrap();
        let answered = Deadline.layer(slow).call(request("1S")).await.unwrap();
        assert_eq!(answered.headers()["grpc-status"], "4");
        let answered = Deadline.layer(slow).call(request("2M")).await.unwrap();
        assert!(!answered.headers().contains_key("grpc-status"));
    }
}

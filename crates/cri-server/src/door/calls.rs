//! The bound on calls under way, of all connections together and of those beyond the bound on connections.
//!
//! A call is under way until its answer has been taken, or dropped: a stream of events as long as it lasts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use hyper::http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::guests::Seat;

/// Wraps every call of a server.
#[derive(Debug, Clone)]
pub(crate) struct CallLimit {
    most: usize,
    places: Arc<Semaphore>,
}

impl CallLimit {
    /// So many at a time.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self { most, places: Arc::new(Semaphore::new(most)) }
    }

    /// What a call keeps for as long as it is under way.
    ///
    /// # Errors
    /// ResourceExhausted, with the key that says so.
    fn admit(&self, seat: Option<&Arc<Seat>>) -> Result<impl Send + Sync + use<>, Status> {
        if let Some(most) = seat.and_then(|seat| seat.is_beyond()) {
            let why = format!("there are {most} connections already (server.max_connections), all in use");
            return Err(Status::resource_exhausted(why));
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let why = format!("{} calls are under way already (server.max_calls)", self.most);
            return Err(Status::resource_exhausted(why));
        };
        Ok((place, seat.map(Seat::call)))
    }
}

/// The wrapped server.
#[derive(Debug, Clone)]
pub(crate) struct Limited<S> {
    inner: S,
    limit: CallLimit,
}

impl<S> Layer<S> for CallLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limited { inner, limit: self.clone() }
    }
}

impl<S, A> Service<Request<A>> for Limited<S>
where
    S: Service<Request<A>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let under_way = match self.limit.admit(request.extensions().get()) {
            Ok(under_way) => under_way,
            Err(refused) => return Box::pin(async move { Ok(refused.into_http()) }),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let held = move |error| {
                let _until_it_is_taken = &under_way;
                error
            };
            Ok(answer.await?.map(|body| Body::new(body.map_err(held))))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use hyper::body::{Bytes, Frame};

    use super::*;

    #[tokio::test]
    async fn one_call_too_many_is_told_the_key_and_an_answer_makes_room_when_it_was_taken() {
        let never = || futures::stream::pending::<Result<Frame<Bytes>, Status>>();
        let endless = move || Body::new(StreamBody::new(never()));
        let server = tower::service_fn(move |_: Request<()>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(endless())))
        });
        let mut server = CallLimit::new(2).layer(server);
        let mut call = || server.call(Request::new(()));
        let first = call().await.unwrap();
        let _second = call().await.unwrap();
        let third = call().await.unwrap();
        let refused = Status::from_header_map(third.headers()).unwrap();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("server.max_calls"), "{refused}");
        drop(first);
        assert!(Status::from_header_map(call().await.unwrap().headers()).is_none());
    }
}

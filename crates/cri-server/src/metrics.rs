//! Figures for Prometheus: `/metrics` over plain HTTP, off unless `[metrics] listen` says where.
//!
//! Figures are gathered when somebody asks: a daemon that nobody asks spends nothing on them. Each part of the daemon has a
//! collector of its own, a module below this one with a table of its figures.
//! Not here: the metrics of pods that kubelet asks for over CRI.

mod images;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at a time. Prometheus has one, with a second server for when the first is down; the others wait.
const CONNECTIONS: usize = 16;

/// Longest that a connection lasts: a scrape takes milliseconds, and who is silent makes room.
const PATIENCE: Duration = Duration::from_secs(30);

/// The form that is answered in (OpenMetrics 1.0.0, section "Overall Structure"); Prometheus reads it since 2.5.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures of the whole daemon.
pub(crate) fn registry(images: image_service::Images) -> Registry {
    let mut registry = Registry::with_prefix("knarr");
    registry.register_collector(Box::new(images::ImageFigures(images)));
    registry
}

/// A server that has its address and answers nobody yet.
pub(crate) struct Server {
    listener: TcpListener,
    registry: Arc<Registry>,
}

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    /// The system's answer.
    pub(crate) async fn bind(address: SocketAddr, registry: Registry) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        tracing::info!(address = %listener.local_addr()?, "serving metrics");
        Ok(Self { listener, registry: Arc::new(registry) })
    }

    /// Answers for ever. Safe to cancel: connections under way end by themselves.
    pub(crate) async fn serve(self) -> Infallible {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // Never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            match self.listener.accept().await {
                Ok((connection, _)) => {
                    let registry = Arc::clone(&self.registry);
                    tokio::spawn(async move {
                        let _place = place;
                        // Who goes away or is too slow hears nothing more, and nobody else minds.
                        let _ = tokio::time::timeout(PATIENCE, answer(connection, registry)).await;
                    });
                }
                // For want of descriptors, most likely: they come back when calls end.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

async fn answer(connection: TcpStream, registry: Arc<Registry>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let response = respond(&request, &registry);
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(connection), service)
        .await
}

fn respond(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is /metrics and nothing else");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "figures can only be read");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => {
            let mut response = Response::new(Full::new(text.into()));
            let form = hyper::header::HeaderValue::from_static(OPEN_METRICS);
            response.headers_mut().insert(CONTENT_TYPE, form);
            response
        }
        Err(std::fmt::Error) => {
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the figures cannot be written down")
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

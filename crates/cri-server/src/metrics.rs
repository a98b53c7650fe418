//! Figures for Prometheus: `/metrics` over plain HTTP, off unless `[metrics] listen` says where.
//!
//! Figures are gathered when somebody asks: a daemon that nobody asks spends nothing on them. Each part of the daemon has a
//! collector of its own, a module below this one with a table of its figures.
//! Not here: the metrics of pods that kubelet asks for over CRI.

mod classic;
mod images;
mod pods;
mod process;
mod table;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use sandbox::Pods;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::telemetry::Telemetry;
use crate::telemetry::traces::Traces;

/// Connections at a time. Prometheus has one, with a second server for when the first is down; the others wait.
const CONNECTIONS: usize = 16;

/// Longest that a connection lasts: a scrape takes milliseconds, and who is silent makes room.
const PATIENCE: Duration = Duration::from_secs(30);

/// The form that is answered in to whoever takes it (OpenMetrics 1.0.0, section "Overall Structure"); Prometheus does since 2.5.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What figures are read from.
pub(crate) struct Sources {
    /// Images and pulls.
    pub(crate) images: image_service::Images,
    /// Pods, containers, supervisors.
    pub(crate) pods: Pods,
    /// Calls, stages, traces.
    pub(crate) telemetry: Telemetry,
}

/// The figures of the whole daemon.
pub(crate) fn registry(sources: Sources) -> Registry {
    let mut all = Registry::default();
    all.register_collector(Box::new(process::ProcessFigures));
    let registry = all.sub_registry_with_prefix("knarr");
    registry.register_collector(Box::new(Build));
    registry.register_collector(Box::new(images::ImageFigures(sources.images)));
    registry.register_collector(Box::new(pods::PodFigures(sources.pods)));
    sources.telemetry.calls.register(registry);
    sources.telemetry.stages.register(registry);
    if let Some(traces) = sources.telemetry.traces {
        registry.register_collector(Box::new(Spans(traces)));
    }
    all
}

/// The daemon's version.
#[derive(Debug)]
struct Build;

impl Collector for Build {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let gauge = ConstGauge::new(1.0);
        let help = "The daemon's version; always 1";
        let mut family = encoder.encode_descriptor("build_info", help, None, gauge.metric_type())?;
        gauge.encode(family.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }
}

/// What became of spans.
#[derive(Debug)]
struct Spans(Traces);

impl Collector for Spans {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        let counts = self.0.counts();
        let outcomes = [("exported", read(&counts.exported)), ("dropped", read(&counts.dropped))];
        let help = "Spans that a collector has taken, and those that it has not";
        table::counters(&mut encoder, ("trace_spans", help, None), ("outcome", outcomes))
    }
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
        let registry = Arc::clone(&registry);
        async move { Ok::<_, Infallible>(respond(&request, registry).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(connection), service)
        .await
}

async fn respond(request: &Request<Incoming>, registry: Arc<Registry>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is /metrics and nothing else");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "figures can only be read");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    // procfs is read for it, which waits for locks of the processes that it is about.
    let encoded = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).map(|()| text)
    });
    let Ok(Ok(text)) = encoded.await else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "the figures cannot be written down");
    };
    let (text, form) = match takes_open_metrics(request) {
        true => (text, OPEN_METRICS),
        false => (classic::text(&text), classic::FORM),
    };
    let mut response = Response::new(Full::new(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(form));
    response
}

fn takes_open_metrics(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|form| form.trim().starts_with("application/openmetrics-text"))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

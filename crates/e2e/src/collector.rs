//! A collector of traces: it keeps what it is told, read by the published protocol.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1 as otlp;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

pub use opentelemetry_proto::tonic::trace::v1 as otel;

use crate::until;

/// How long a caller may keep its spans until it tells of them: kubelet five seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A span and whose it is.
#[derive(Debug, Clone)]
pub struct Told {
    /// `service.name` of who told it.
    pub service: String,
    /// The span.
    pub span: otel::Span,
}

/// Keeps what it is told. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Collector(Arc<Mutex<Vec<Told>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<otlp::ExportTraceServiceRequest>,
    ) -> Result<Response<otlp::ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let attributes = texts(&of_resource.resource.unwrap_or_default().attributes);
            let service = attributes.get("service.name").cloned().unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let told = spans.map(|span| Told { service: service.clone(), span });
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(told);
        }
        Ok(Response::new(otlp::ExportTraceServiceResponse { partial_success: None }))
    }
}

/// Attributes that are texts or whole numbers.
pub fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    let pair = |attribute: &KeyValue| {
        let value = attribute.value.as_ref()?.value.as_ref()?;
        Some((attribute.key.clone(), text(value)?))
    };
    attributes.iter().filter_map(pair).collect()
}

impl Collector {
    /// Serves on this address, or one that the kernel chooses, and gives it.
    ///
    /// # Panics
    /// When the address can't be had.
    pub async fn serve(&self, address: &str) -> SocketAddr {
        self.serve_at(TcpListener::bind(address).await.expect("an address"))
    }

    /// Serves whoever comes to a listener.
    ///
    /// # Panics
    /// When that has no address.
    pub fn serve_at(&self, listener: TcpListener) -> SocketAddr {
        let address = listener.local_addr().expect("an address");
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    /// Everything so far.
    pub fn told(&self) -> Vec<Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first span that is as asked for, once there is one.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn find(&self, what: &str, is_it: impl Fn(&Told) -> bool) -> Told {
        until(PATIENCE, what, || async {
            let told = self.told();
            let names: Vec<String> = told.iter().map(|told| told.span.name.clone()).collect();
            told.into_iter().find(&is_it).ok_or(names)
        })
        .await
    }

    /// The daemon's span of a call, and all below it, once these stages are.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn tree(&self, method: &str, stages: &[&str]) -> (otel::Span, Vec<otel::Span>) {
        let is_it = |told: &Told| told.span.kind() == SpanKind::Server && told.span.name.ends_with(method);
        let call = self.find(method, is_it).await.span;
        let below = self.below_with(&call, stages).await;
        (call, below)
    }

    /// All that is below a span, once these stages are: they may come in later messages than the call, or go on without it.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn below_with(&self, top: &otel::Span, stages: &[&str]) -> Vec<otel::Span> {
        until(PATIENCE, &format!("all stages of {}", top.name), || async {
            let below = self.below(top);
            let is_there = |stage: &&str| below.iter().any(|span| span.name == *stage);
            let missing: Vec<_> = stages.iter().filter(|stage| !is_there(stage)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("without {missing:?}: {below:?}")) }
        })
        .await;
        self.below(top)
    }

    /// All that is below a span, to any depth.
    pub fn below(&self, top: &otel::Span) -> Vec<otel::Span> {
        let spans: Vec<otel::Span> = self.told().into_iter().map(|told| told.span).collect();
        let is_below = |span: &&otel::Span| {
            let mut parent = &span.parent_span_id;
            while let Some(above) = spans.iter().find(|above| above.span_id == *parent) {
                if above.span_id == top.span_id {
                    return true;
                }
                parent = &above.parent_span_id;
            }
            false
        };
        spans.iter().filter(is_below).cloned().collect()
    }
}

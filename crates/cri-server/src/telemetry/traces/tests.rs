//! Calls and stages as spans, up to a collector of the test's.

use std::sync::Mutex;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tracing::field::Empty;
use tracing_subscriber::layer::SubscriberExt;

use super::v1::trace_service_server::{TraceService, TraceServiceServer};
use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[derive(Clone, Default)]
struct Collector {
    refuses: Arc<Mutex<Vec<Status>>>,
    has: Arc<Mutex<Vec<v1::Span>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<v1::ExportTraceServiceRequest>,
    ) -> Result<Response<v1::ExportTraceServiceResponse>, Status> {
        if let Some(refusal) = self.refuses.lock().unwrap().pop() {
            return Err(refusal);
        }
        let resources = request.into_inner().resource_spans;
        let spans =
            resources.into_iter().flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.has.lock().unwrap().extend(spans);
        Ok(Response::new(v1::ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn serve(&self) -> Target {
        let name = format!("http://127.0.0.1:{}", self.serve_by(Server::builder()).await);
        Target { endpoint: Endpoint::from_shared(name.clone()).unwrap(), name }
    }

    /// Gives the port.
    async fn serve_by(&self, mut server: Server) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = server.add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(served.serve_with_incoming(TcpListenerStream::new(listener)));
        port
    }
}

fn headers(flags: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-{flags}").parse().unwrap());
    headers
}

fn call_span() -> tracing::Span {
    tracing::error_span!("call", trace = Empty, pod.name = Empty)
}

fn number(span: &[u8]) -> String {
    context::hexadecimal(span)
}

#[tokio::test]
async fn a_call_goes_on_with_its_callers_trace_and_stages_are_its_children() {
    let collector = Collector::default();
    let (traces, mut exporter) = start(collector.serve().await, 0);
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(traces.clone()));
    let span = call_span();
    let headers = headers("01");
    let call = traces.begin(&span, ("/runtime.v1.RuntimeService/RunPodSandbox", &headers)).expect("sampled");
    span.record("pod.name", "web");
    let within = tracing::error_span!(parent: &span, "pod", pod = "of no trace");
    let stage = tracing::error_span!(parent: &within, "stage", stage = "network", failed = Empty);
    let plugin = tracing::error_span!(parent: &stage, "stage", stage = "cni_plugin", plugin = "bridge");
    drop(plugin);
    stage.record("failed", true);
    call.end(Code::Internal, "it failed");
    // It goes on without the call.
    drop(stage);
    drop(tracing::error_span!(parent: None, "stage", stage = "of nobody's call"));
    tokio::select! {
        never = exporter.run() => match never {},
        () = async {
            while traces.counts().exported.load(Ordering::Relaxed) < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    let spans = collector.has.lock().unwrap();
    let of = |name: &str| spans.iter().find(|span| span.name == name).expect(name);
    let call = of("runtime.v1.RuntimeService/RunPodSandbox");
    assert_eq!((number(&call.parent_span_id).as_str(), call.flags), ("00f067aa0ba902b7", 0x301));
    assert_eq!(call.status.as_ref().map(|status| status.message.as_str()), Some("it failed"));
    assert_eq!(of("network").parent_span_id, call.span_id);
    assert_eq!(of("network").status.as_ref().map(|status| status.code), Some(v1::StatusCode::Error as i32));
    assert_eq!(
        (&of("cni_plugin").parent_span_id, of("cni_plugin").status.clone()),
        (&of("network").span_id, None)
    );
    for span in spans.iter() {
        assert_eq!(number(&span.trace_id), TRACE);
        let names = span.attributes.iter().filter(|attribute| attribute.key == "k8s.pod.name");
        assert_eq!(names.count(), 1, "{span:?}");
        assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    assert_eq!(spans.len(), 3, "each once: {spans:?}");
}

#[tokio::test]
async fn what_callers_have_decided_counts_and_else_the_configured_share() {
    let (never, _exporter) = start(Collector::default().serve().await, 0);
    let (always, _other) = start(Collector::default().serve().await, 1_000_000);
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry());
    let begins =
        |traces: &Traces, headers: &HeaderMap| traces.begin(&call_span(), ("/s/M", headers)).is_some();
    assert!(begins(&never, &headers("01")) && !begins(&never, &HeaderMap::new()));
    assert!(!begins(&always, &headers("00")) && begins(&always, &HeaderMap::new()));
}

#[tokio::test(start_paused = true)]
async fn an_absent_collector_costs_spans_and_nothing_else() {
    let target = Target { endpoint: Endpoint::from_static("http://127.0.0.1:1"), name: String::new() };
    let (traces, mut exporter) = start(target, 1_000_000);
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry());
    let calls = 2 * QUEUE;
    for _ in 0..calls {
        let span = call_span();
        traces.begin(&span, ("/s/M", &HeaderMap::new())).expect("sampled").end(Code::Ok, "");
    }
    let dropped = || usize::try_from(traces.counts().dropped.load(Ordering::Relaxed)).unwrap();
    assert_eq!(dropped(), calls - QUEUE);
    tokio::select! {
        never = exporter.run() => match never {},
        () = async {
            while dropped() < calls {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        } => {}
    }
    exporter.finish().await;
    assert_eq!(traces.counts().exported.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_collector_that_refuses_for_now_is_asked_again_and_one_that_refuses_for_good_is_not() {
    let collector = Collector::default();
    *collector.refuses.lock().unwrap() = vec![Status::unavailable("starting")];
    let (traces, mut exporter) = start(collector.serve().await, 1_000_000);
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry());
    let call = || {
        let span = call_span();
        traces.begin(&span, ("/s/M", &HeaderMap::new())).expect("sampled").end(Code::Ok, "");
    };
    call();
    exporter.gather().await;
    exporter.send().await;
    assert_eq!(collector.has.lock().unwrap().len(), 1);
    *collector.refuses.lock().unwrap() = vec![Status::invalid_argument("no")];
    call();
    exporter.gather().await;
    exporter.send().await;
    assert_eq!(traces.counts().dropped.load(Ordering::Relaxed), 1);
    call();
    exporter.finish().await;
    assert_eq!(collector.has.lock().unwrap().len(), 2, "what was left went when it ended");
}

#[tokio::test]
async fn a_collector_with_tls_is_trusted_by_the_authority_that_is_named() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
    let collector = Collector::default();
    let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
    let port = collector.serve_by(server).await;
    let target = |keys: &str| {
        let text = format!("[tracing]\nendpoint = \"localhost:{port}\"\n{keys}");
        toml::from_str::<crate::config::Config>(&text).unwrap().tracing.target().unwrap().expect("a target")
    };
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry());
    let call = |traces: &Traces| {
        traces.begin(&call_span(), ("/s/M", &HeaderMap::new())).expect("sampled").end(Code::Ok, "");
    };
    for refused in [target("insecure = true"), target("")] {
        let (traces, exporter) = start(refused, 1_000_000);
        call(&traces);
        exporter.finish().await;
        assert_eq!(traces.counts().exported.load(Ordering::Relaxed), 0);
    }
    let (traces, mut exporter) = start(target(&format!("ca = {ca:?}")), 1_000_000);
    call(&traces);
    exporter.gather().await;
    exporter.send().await;
    assert_eq!(traces.counts().exported.load(Ordering::Relaxed), 1);
}

//! `knarr serve`: from a configuration to a daemon that answers, and back.
//!
//! Order: directories and their lock → network → images → pods (recovery) → streams → socket, metrics and signals → the word that it serves.
//! SIGTERM and SIGINT stop serving; pods go on without the daemon. SIGHUP has the configuration read again (`reload`).

use std::convert::Infallible;
use std::fs::{DirBuilder, Permissions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nri::Nri;
use proto::runtime::v1::image_service_server::ImageServiceServer;
use proto::runtime::v1::runtime_service_server::RuntimeServiceServer;
use sandbox::{PodConfig, PodFilter, Pods};
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::adapters::DiskOf;
use crate::adapters::network::CniNetwork;
use crate::adapters::plugins::{NodeContainers, NodePlugins};
use crate::adapters::rootfs::ImageRootfs;
use crate::adapters::streaming::PodStreams;
use crate::call_log::CallLog;
use crate::config::{Config, Fault, Faults, NriConfig, Sources};
use crate::deadline::Deadline;
use crate::door::{self, CallLimit};
use crate::images::Images;
use crate::locks::lock;
use crate::logging::Observers;
use crate::own_service::inside::Inside;
use crate::own_service::v1::images_server::ImagesServer;
use crate::own_service::v1::{node_server::NodeServer, registry_server::RegistryServer};
use crate::own_service::{self, ImagesAtHand, Registry};
use crate::pod_cidrs::PodCidrs;
use crate::reload::{Parts, Reloader};
use crate::runtime_service::Runtime;
use crate::runtime_service::exec::Turns;
use crate::telemetry::traces::Exporter;
use crate::{metrics, parts, rest, streams_port, watchdog};

/// The largest request that is read: kubelet sends no more than 16 MiB.
const MESSAGE_BYTES: usize = 16 << 20;

/// How long calls under way may take when the daemon ends. What they work at goes on in the supervisors or is recovered.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// How long the last answer has to reach its client. One that keeps its connection open after that holds up nobody.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long the network may take to finish what it does behind answers when the daemon ends; the next one collects the rest.
const LAST_DETACHES: Duration = Duration::from_secs(2);

/// How often it is looked how full the disk of images is: it costs a system call.
const LOOK_AT_DISK: Duration = Duration::from_secs(60);

/// How often what belongs to no pod any more is looked for.
const COLLECTION: Duration = Duration::from_secs(600);

/// Taken when the kernel doesn't say how many files may be open.
const LEAST_OPEN_FILES: (u64, u64) = (1_024, 1_024);

/// Why the daemon did not come up.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    /// A file, directory or socket of the daemon's.
    #[error("{action} \"{}\"", path.display())]
    File {
        /// What was done to it.
        action: &'static str,
        /// The thing.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// The signals that end it can't be caught.
    #[error("catching signals")]
    Signals {
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// Another daemon has a directory.
    #[error("another daemon runs on \"{}\": its lock is held by {holders}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Its processes, for a person.
        holders: String,
    },
    /// Another daemon, of other directories, answers at the socket.
    #[error("another daemon runs on \"{}\"", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] Faults),
    /// The pod network.
    #[error("opening the pod network")]
    Network(#[from] cni::Error),
    /// The image store.
    #[error("opening the image store")]
    Images(#[from] image_service::Error),
    /// Pods that were there before.
    #[error("taking up the pods")]
    Pods(#[from] sandbox::Error),
    /// The server for streams.
    #[error("starting the server for streams")]
    Streams(#[from] streaming::Error),
    /// The server for metrics.
    #[error("serving metrics on \"{address}\"")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// The connection itself.
    #[error("serving")]
    Serve(#[from] tonic::transport::Error),
}

impl From<Fault> for ServeError {
    fn from(fault: Fault) -> Self {
        Self::Config(fault.into())
    }
}

/// What a daemon is started with.
pub(crate) struct Beginning {
    /// What it runs by at first.
    pub(crate) config: Config,
    /// Where that came from.
    pub(crate) sources: Sources,
    /// What watches it.
    pub(crate) observers: Observers,
}

/// Serves until a signal ends it.
pub(crate) async fn serve(Beginning { config, sources, observers }: Beginning) -> Result<(), ServeError> {
    let Observers { level, telemetry, mut spans } = observers;
    crate::undumped::keep_undumped();
    crate::inherited::disown();
    // By itself it would end the process. One that comes before the daemon serves has its effect then.
    let hangups = caught(SignalKind::hangup())?;
    let running = watch::Sender::new(Arc::new(config.clone()));
    for directory in [&config.root, &config.state] {
        make_private(directory)?;
    }
    let _locks = [lock(&config.state, "lock").await?, lock(&config.root, "root.lock").await?];
    let open_files = raise_open_files();
    let (end, ending) = watch::channel(false);
    let (runtime, images, plugins) = open(running.subscribe(), open_files, ending.clone()).await?;
    let (pods, networks, store) = (runtime.pods.clone(), runtime.networks.clone(), images.images.clone());
    let streams = runtime.streams.clone();
    let parts = Parts { pods: pods.clone(), networks: networks.clone(), images: store.clone(), level };
    let follows = running.subscribe();
    let reloader = Reloader::new(sources, running, parts);
    let socket = config.socket()?.to_owned();
    let listener = listen(&socket)?;
    let (calls, stages) = (CallLog::new(telemetry.clone()), telemetry.stages.clone());
    let figures = metrics::Sources { images: store.clone(), pods: pods.clone(), telemetry };
    let metrics = metrics_server(&config, figures).await?;
    // Before the word that it serves: whoever has read it may end the daemon at once.
    let stop = stopped(signals()?, end);
    tokio::spawn(announce(config.listen.clone()));
    let inside = Inside {
        pods: pods.clone(),
        images: store.clone(),
        networks: networks.clone(),
        stages,
        plugins: plugins.clone(),
        since: crate::now(),
    };
    let node = own_service::Node { reloader: reloader.clone(), inside };
    let at_hand = ImagesAtHand { images: store.clone(), pods: pods.clone() };
    let collects = at_hand.clone();
    let bounds = config.server.bounds();
    let served = tonic::transport::Server::builder()
        .max_concurrent_streams(config.server.max_calls)
        .http2_keepalive_interval(Some(door::PING))
        .http2_keepalive_timeout(Some(door::PONG))
        .layer(calls.clone())
        .layer(CallLimit::new(bounds.calls))
        .layer(Deadline)
        .add_service(RuntimeServiceServer::new(runtime).max_decoding_message_size(MESSAGE_BYTES))
        .add_service(ImageServiceServer::new(images).max_decoding_message_size(MESSAGE_BYTES))
        .add_service(NodeServer::new(node))
        .add_service(ImagesServer::new(at_hand))
        .add_service(RegistryServer::new(Registry { images: store.clone() }))
        .serve_with_incoming_shutdown(door::guests(listener, bounds), stop);
    let ended = tokio::select! {
        ended = bounded(served, ending, &calls) => ended,
        never = upkeep(&pods, &store) => match never {},
        never = store.take_care() => match never {},
        never = keep_below(collects, follows) => match never {},
        never = reloader.at(hangups) => match never {},
        never = rest::whenever(&calls) => match never {},
        never = watchdog::feed(&socket) => match never {},
        never = serve_metrics(metrics) => match never {},
        never = send_spans(spans.as_mut()) => match never {},
    };
    let _ = std::fs::remove_file(&socket);
    streams.stop().await;
    pods.shutdown().await;
    if let Some(plugins) = plugins {
        plugins.stop().await;
    }
    if let Ok(Err(error)) = tokio::time::timeout(LAST_DETACHES, networks.settle()).await {
        tracing::warn!(error = crate::chain(&error), "a network without pods stays");
    }
    if let Some(spans) = spans {
        spans.finish().await;
    }
    ended
}

async fn send_spans(spans: Option<&mut Exporter>) -> Infallible {
    match spans {
        Some(spans) => spans.run().await,
        None => std::future::pending().await,
    }
}

/// What is done from time to time.
async fn upkeep(pods: &Pods, store: &image_service::Images) -> Infallible {
    loop {
        tokio::time::sleep(COLLECTION).await;
        pods.collect().await;
        if let Err(error) = store.collect().await {
            tracing::warn!(error = crate::chain(&error), "layers that nobody needs stay");
        }
    }
}

/// Removes images that nothing uses while the disk is fuller than it should be, as long as that is wanted.
async fn keep_below(images: ImagesAtHand, mut config: watch::Receiver<Arc<Config>>) -> Infallible {
    loop {
        if config.wait_for(|config| config.images.collect_above > 0).await.is_err() {
            return std::future::pending().await;
        }
        if let Err(error) = images.collect_unused().await {
            tracing::warn!(error = crate::chain(&error), "images that nothing uses stay on a full disk");
        }
        tokio::time::sleep(LOOK_AT_DISK).await;
    }
}

/// Takes the address of metrics, if they are wanted: one that can't be had is told at the start.
async fn metrics_server(
    config: &Config,
    sources: metrics::Sources,
) -> Result<Option<metrics::Server>, ServeError> {
    let Some(address) = config.metrics.address()? else { return Ok(None) };
    let bound = metrics::Server::bind(address, metrics::registry(sources)).await;
    bound.map(Some).map_err(|cause| ServeError::Metrics { address, cause })
}

async fn serve_metrics(server: Option<metrics::Server>) -> Infallible {
    match server {
        Some(server) => server.serve().await,
        None => std::future::pending().await,
    }
}

async fn open(
    running: watch::Receiver<Arc<Config>>,
    open_files: Option<u64>,
    ending: watch::Receiver<bool>,
) -> Result<(Runtime, Images, Option<Arc<Nri>>), ServeError> {
    let config = Arc::clone(&running.borrow());
    let networks = cni::Networks::open(parts::network(&config)?)?;
    let images = image_service::Images::open(parts::images(&config))?;
    let pod_cidrs = config.network.pod_cidr.then(|| config.root.join("networks/pod-cidrs"));
    let pod_cidrs = pod_cidrs.map(|path| Arc::new(PodCidrs::open(path)));
    let network = Arc::new(CniNetwork {
        networks: networks.clone(),
        config: running.clone(),
        pod_cidrs: pod_cidrs.clone(),
    });
    let rootfs = Arc::new(ImageRootfs(images.clone()));
    let plugins = config.nri.plugins().map(|config| Arc::new(Nri::new(config)));
    let settings = parts::pods(&config, open_files)?;
    let settings = sandbox::Config { plugins: plugins.clone().map(plugged), ..settings };
    let pods = Pods::open(settings, network, rootfs).await?;
    if let Some(plugins) = &plugins {
        let_in(plugins, &config.nri, &pods).await;
    }
    let layers = config.root.join("containers");
    let streams = streams(&config, &pods)?;
    let disk = DiskOf::default();
    let known = plugins.clone();
    let turns = Turns::new(config.server.exec_syncs());
    let runtime = Runtime {
        pods,
        networks,
        pod_cidrs,
        streams,
        config: running,
        layers,
        disk,
        plugins: known,
        turns,
        ending,
    };
    let images = Images { images, pods: runtime.pods.clone() };
    Ok((runtime, images, plugins))
}

fn plugged(plugins: Arc<Nri>) -> Arc<dyn sandbox::Plugins> {
    Arc::new(NodePlugins(plugins))
}

/// Starts the node's plugins, and takes in those that connect. One that can't be had keeps no pod from being made, unless the
/// configuration says that it is required.
async fn let_in(plugins: &Nri, config: &NriConfig, pods: &Pods) {
    plugins.serve(Arc::new(NodeContainers(pods.clone())));
    let NriConfig { socket, plugin_dir, conf_dir, disable_connections, .. } = config;
    if let Err(error) = plugins.launch(plugin_dir, conf_dir).await {
        tracing::warn!(error = crate::chain(&error), "the node's plugins are not started");
    }
    if *disable_connections {
        return;
    }
    match plugins.listen(socket) {
        Ok(()) => tracing::info!(socket = %socket.display(), "plugins can connect"),
        Err(error) => tracing::warn!(error = crate::chain(&error), "plugins can't connect"),
    }
}

/// The server that clients of exec, attach and port-forward come to.
fn streams(config: &Config, pods: &Pods) -> Result<streaming::Server, ServeError> {
    let (open_files, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or(LEAST_OPEN_FILES);
    let config = config.streaming.server(open_files)?;
    if config.tls.is_none() && !config.address.is_loopback() {
        // Who listens in between sees the token, and what is typed.
        tracing::warn!(address = %config.address, "streams are served without TLS beyond this node");
    }
    let server = beside_pods(&config, pods)?;
    tracing::info!(address = server.base(), "serving streams");
    Ok(server)
}

/// Listens where no pod has a host port: to the kernel, which chooses, a mapped port is a free one.
fn beside_pods(config: &streaming::Config, pods: &Pods) -> Result<streaming::Server, ServeError> {
    let all = pods.pods(&PodFilter::default());
    // Kept until there is a better one, so that it isn't chosen again.
    let mut taken = Vec::new();
    loop {
        let server = streaming::Server::start(config.clone(), Arc::new(PodStreams(pods.clone())))?;
        let takes = |config: &PodConfig| streams_port::taken_by(config, server.address()).is_some();
        let Some(pod) = all.iter().find(|pod| takes(&pod.config)) else {
            return Ok(server);
        };
        if config.port != 0 || taken.len() == streams_port::ATTEMPTS {
            tracing::warn!(address = %server.address(), pod = %pod.id, "a pod has the streams' port as its host port");
            return Ok(server);
        }
        taken.push(server);
    }
}

/// Raises the number of files that this process may have open as far as it may by itself, and gives the number from before, which
/// is for its children. A pod needs two, a call one, an exec four: systemd's 1024 would be used up by 400 pods.
fn raise_open_files() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        tracing::warn!(%error, soft, hard, "raising the number of open files");
    }
    Some(soft)
}

/// A directory that only root can look into.
fn make_private(path: &Path) -> Result<(), ServeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    let kept = made.and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)));
    kept.map_err(|cause| ServeError::File { action: "making the directory", path: path.to_owned(), cause })
}

/// Binds the socket. What lies in its way is a dead daemon's, since the state directory is locked; a live one of another state
/// directory is found out by asking.
fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let failed =
        |action: &'static str| move |cause| ServeError::File { action, path: path.to_owned(), cause };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServeError::Taken { path: path.to_owned() });
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        make_private(directory)?;
    }
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            return Err(failed("removing the old socket")(cause));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed("listening on"))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed("setting the mode of"))?;
    Ok(listener)
}

/// Says on standard output, and to systemd where there is one, that calls are answered from now on.
async fn announce(address: String) {
    let _ = writeln!(io::stdout(), "knarr: serving on {address}");
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "telling systemd that the daemon is ready");
    }
    tracing::info!(address, version = env!("CARGO_PKG_VERSION"), "serving");
}

/// SIGTERM and SIGINT, caught from now on.
fn signals() -> Result<[Signal; 2], ServeError> {
    Ok([caught(SignalKind::terminate())?, caught(SignalKind::interrupt())?])
}

fn caught(kind: SignalKind) -> Result<Signal, ServeError> {
    signal(kind).map_err(|cause| ServeError::Signals { cause })
}

/// Waits for the signal to end, and lets endless streams know.
async fn stopped([mut terminate, mut interrupt]: [Signal; 2], end: watch::Sender<bool>) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending; pods go on");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    end.send_replace(true);
}

/// Serving, with an end to waiting for the last calls.
async fn bounded(
    served: impl Future<Output = Result<(), tonic::transport::Error>>,
    mut ending: watch::Receiver<bool>,
    calls: &CallLog,
) -> Result<(), ServeError> {
    let patience = async {
        if ending.wait_for(|ending| *ending).await.is_ok() {
            let _calls_go_on = tokio::time::timeout(LAST_CALLS, calls.idle()).await;
            tokio::time::sleep(LAST_WORDS).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = served => ended.map_err(ServeError::Serve),
        () = patience => Ok(()),
    }
}

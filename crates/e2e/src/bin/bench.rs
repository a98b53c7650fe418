//! Measures knarr and its peers in turn and prints the table.
//!
//! `bench CONTAINERD_DIR [FLOOR_PROGRAM]`: the directory of containerd's binaries; a peer that isn't there is left out and said so.
//! `BENCH_QUICK` does less of everything, `BENCH_ROWS=streams` only what goes through streams,
//! `BENCH_ROWS=pods` only pods' lives, `BENCH_ROWS=lists` only lists of a thousand containers, `BENCH_ROWS=pulls` only pulls of
//! images, also by a containerd that syncs what it unpacks.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use e2e::bench::floor::{self, Floor};
use e2e::bench::leftovers;
use e2e::bench::measure::{self, Effort, Images, Rows};
use e2e::bench::peers::{Kind, Peer, Plugins};
use e2e::bench::stages;
use e2e::bench::streams::Sizes;
use e2e::bench::table;
use e2e::image::{Image, Layer, Packing};
use e2e::{Registry, needs, node};
use tokio::signal::unix::{SignalKind, signal};

/// Bytes of each of the eight layers, before compression.
const LAYER: usize = 40 << 20;

#[tokio::main]
async fn main() -> ExitCode {
    leftovers::take_away_on_panic();
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler of signals");
    let mut terminate = signal(SignalKind::terminate()).expect("a handler of signals");
    // Dropped, whatever is being measured takes its pods, cgroups and links away.
    tokio::select! {
        () = measure_all() => ExitCode::SUCCESS,
        _ = interrupt.recv() => ExitCode::FAILURE,
        _ = terminate.recv() => ExitCode::FAILURE,
    }
}

async fn measure_all() {
    let mut arguments = std::env::args().skip(1);
    let containerd = PathBuf::from(arguments.next().unwrap_or_else(|| "target/peers/bin".into()));
    let quick = std::env::var_os("BENCH_QUICK").is_some();
    let effort = if quick {
        let streams = Sizes { exec: 64, attach: 16, runs: 2 };
        Effort { cycles: 5, burst: 10, standing: 10, crowd: 20, pulls: 1, streams }
    } else {
        let streams = Sizes { exec: 1024, attach: 256, runs: 5 };
        Effort { cycles: 40, burst: 100, standing: 50, crowd: 1000, pulls: 5, streams }
    };
    let rows = match std::env::var("BENCH_ROWS").as_deref() {
        Ok("streams") => Rows::Streams,
        Ok("pods") => Rows::Pods,
        Ok("pulls") => Rows::Pulls,
        Ok("lists") => Rows::Lists,
        _ => Rows::All,
    };
    let registry = Registry::shared().await;
    let images = Images {
        busybox: registry.image("busybox:latest"),
        layered: registry.image("layered:v1"),
        zstd: registry.image("layered:zstd"),
        small_files: registry.image("small-files:v1"),
    };
    if matches!(rows, Rows::All | Rows::Pulls) {
        let size = if quick { LAYER / 20 } else { LAYER };
        layered(size, 0).push(registry.address(), "layered:v1").await;
        // Of other bytes, so that no layer is there already.
        layered(size, 8).packed(Packing::Zstd).push(registry.address(), "layered:zstd").await;
        small_files(if quick { FILES / 20 } else { FILES }).push(registry.address(), "small-files:v1").await;
    }
    pause().push(registry.address(), "pause:v1").await;
    let mut columns = Vec::new();
    for kind in kinds(rows) {
        if let Some(reason) = missing(kind, &containerd) {
            println!("{} is left out: {reason}", kind.name());
            continue;
        }
        eprintln!("measuring {}", kind.name());
        let peer = Peer::start(kind, &containerd, &registry.image("pause:v1")).await;
        if let Err(reason) = measure::works(&peer, &images).await {
            println!("{} is left out: {reason}", kind.name());
            continue;
        }
        let mut figures = measure::all(&peer, &images, (rows, effort)).await;
        drop(peer);
        if matches!(kind, Kind::Knarr(_)) && matches!(rows, Rows::All | Rows::Pods) {
            let peer = Peer::start(Kind::Knarr(Plugins::Native), &containerd, "").await;
            figures.extend(measure::native(&peer, &images, effort).await);
        }
        columns.push((kind.name(), figures));
    }
    // Last, when no daemon is left that could disturb it.
    let floor = arguments.next().and_then(|program| floor_of(Path::new(&program)));
    println!("{}", table::render(&columns, floor.as_ref()));
    if let Some((_, ours)) = columns.first() {
        println!("{}", stages::shares(ours));
    }
    if matches!(rows, Rows::All | Rows::Pulls) {
        println!("{SYNCED}");
    }
}

/// What whoever compares pulls must know.
const SYNCED: &str = "Pulls: knarr answers when the image is synced to disk. containerd syncs the blobs alone, and what it unpacks only \
    as \"containerd, synced\", which is not its default.";

/// For pulls it is all the same who runs the pods.
fn kinds(rows: Rows) -> Vec<Kind> {
    let ours = Kind::Knarr(Plugins::Executed);
    match rows {
        Rows::Pulls => vec![ours, Kind::Containerd("runc"), Kind::ContainerdSynced],
        Rows::All | Rows::Pods | Rows::Streams | Rows::Lists => {
            vec![ours, Kind::Containerd("runc"), Kind::Containerd("crun")]
        }
    }
}

fn missing(kind: Kind, containerd: &Path) -> Option<String> {
    match kind {
        Kind::Knarr(_) => None,
        Kind::Containerd(runtime) if needs::program(runtime).is_none() => {
            Some(format!("no {runtime} on PATH"))
        }
        Kind::Containerd(_) | Kind::ContainerdSynced => {
            let binary = containerd.join("containerd");
            (!binary.exists()).then(|| format!("no \"{}\"", binary.display()))
        }
    }
}

/// Files of the image of small ones.
const FILES: usize = 30_000;

/// Eight layers of bytes that compress to about a half, as programs do; the first of them is number `first` of all there are.
fn layered(size: usize, first: u64) -> Image {
    let mut image = Image::new(serde_json::json!({ "Cmd": ["/none"] }));
    for number in first..first + 8 {
        let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut content = Vec::with_capacity(size);
        while content.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let word = state.to_le_bytes();
            content.extend_from_slice(&word);
            content.extend_from_slice(&word);
        }
        image = image.layer(Layer::new().file(&format!("layer-{number}"), 0o644, &content));
    }
    image
}

/// Files of a few bytes, a hundred to a directory.
fn small_files(count: usize) -> Image {
    let mut layer = Layer::new();
    for number in 0..count {
        let directory = format!("d{}", number / 100);
        if number % 100 == 0 {
            layer = layer.directory(&directory, 0o755);
        }
        layer = layer.file(&format!("{directory}/f{number}"), 0o644, number.to_string().as_bytes());
    }
    Image::new(serde_json::json!({ "Cmd": ["/none"] })).layer(layer)
}

/// What a peer's sandboxes run: a small static program that waits for a signal.
fn pause() -> Image {
    let program = std::fs::read(node::binary("knarr-demo-workload")).expect("the built demo workload");
    let config = serde_json::json!({ "Entrypoint": ["/pause"], "User": "65535:65535" });
    Image::new(config).layer(Layer::new().file("pause", 0o755, &program))
}

fn floor_of(program: &Path) -> Option<Floor> {
    match floor::run(program) {
        Ok((floor, text)) => {
            println!("floor, p50 / p95 in µs:\n{text}\n");
            Some(floor)
        }
        Err(reason) => {
            println!("the floor is left out: {reason}");
            None
        }
    }
}

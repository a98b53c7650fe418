//! What all who take part in a run share: the ways to the daemon, who is alive, what went wrong.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonic::{Code, Status};

use super::beside::events::Heard;
use super::crowd::Crowd;
use super::latencies::Latencies;
use super::plan::Plan;
use crate::image::Layer;
use crate::{Client, Node, image, patience};

/// Nothing takes so long, however loaded the machine: what does is stuck.
const STUCK: Duration = Duration::from_secs(120);

/// How often one looks whether a killed daemon is back.
const AGAIN: Duration = Duration::from_millis(5);

/// As many complaints are kept, and a run that has them ends.
const ENOUGH: usize = 20;

/// The run's ground.
pub struct Place {
    /// What is to be done.
    pub plan: Plan,
    /// Who is alive.
    pub crowd: Crowd,
    /// How long calls took.
    pub clock: Latencies,
    /// What the daemon told by itself.
    pub heard: Heard,
    /// Whether those beside have to end.
    pub over: AtomicBool,
    /// Where the daemon's figures are read, "host:port".
    pub metrics: Mutex<String>,
    /// The image of the pods' containers.
    pub image: String,
    /// The registry, "host:port".
    pub registry: String,
    pub(super) cgroup_parent: String,
    pub(super) logs: PathBuf,
    socket: PathBuf,
    serial: AtomicUsize,
    kills: AtomicU64,
    is_away: AtomicBool,
    complaints: Mutex<Vec<String>>,
}

impl Place {
    /// On a node that serves; puts the images into its registry.
    ///
    /// # Panics
    /// When the registry refuses.
    pub async fn new(node: &Node, plan: Plan) -> Self {
        let registry = node.registry.address().to_owned();
        for number in 0..super::plan::IMAGES {
            // Of bytes that don't get smaller.
            let mut dice = crate::Dice::new(number as u64 + 1);
            let bytes: Vec<u8> = (0..256 << 10).map(|_| dice.below(256) as u8).collect();
            let layer = Layer::new().file("changing", 0o644, &bytes);
            image::busybox().layer(layer).push(&registry, &format!("changing:v{number}")).await;
        }
        let place = Self {
            plan,
            crowd: Crowd::default(),
            clock: Latencies::default(),
            heard: Heard::default(),
            over: AtomicBool::new(false),
            metrics: Mutex::default(),
            image: node.registry.image("busybox:latest"),
            registry,
            cgroup_parent: node.cgroup_parent(),
            logs: node.path("logs"),
            socket: node.socket(),
            serial: AtomicUsize::new(0),
            kills: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
            complaints: Mutex::default(),
        };
        place.find_metrics(node);
        place.client().pull(&place.image).await.expect("the busybox image");
        place
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// A number that no other pod of the run has.
    pub fn number(&self) -> usize {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that something went wrong.
    pub fn complain(&self, what: String) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < ENOUGH {
            eprintln!("soak: {what}");
            complaints.push(what);
        }
    }

    /// Everything that went wrong.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether so much went wrong that there is no use in going on.
    pub fn is_hopeless(&self) -> bool {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).len() >= ENOUGH
    }

    /// Whether those beside have to end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// How often the daemon was killed so far.
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::SeqCst)
    }

    /// Kills the daemon and starts it again; gives how long it took until it served.
    pub fn kill(&self, node: &mut Node) -> Duration {
        self.is_away.store(true, Ordering::SeqCst);
        self.kills.fetch_add(1, Ordering::SeqCst);
        node.kill_daemon();
        let begun = std::time::Instant::now();
        node.start_daemon();
        let took = begun.elapsed();
        self.find_metrics(node);
        self.is_away.store(false, Ordering::SeqCst);
        took
    }

    /// Whether the daemon was killed since there had been so many kills, or is away.
    pub fn was_killed_since(&self, kills: u64) -> bool {
        self.is_away.load(Ordering::SeqCst) || self.kills() != kills
    }

    /// Calls, and calls again for as long as an answer was lost because the daemon was killed meanwhile, as kubelet would.
    ///
    /// # Errors
    /// The daemon's own answer; DeadlineExceeded when there is none.
    pub async fn insist<T, F>(&self, call: impl Fn() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        loop {
            let kills = self.kills();
            let Ok(answer) = tokio::time::timeout(patience(STUCK), call()).await else {
                return Err(Status::deadline_exceeded(format!("no answer in {STUCK:?}")));
            };
            match answer {
                Err(status) if is_lost(&status) && self.was_killed_since(kills) => self.is_back().await,
                answer => return answer,
            }
        }
    }

    async fn is_back(&self) {
        while self.is_away.load(Ordering::SeqCst) {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The port is the kernel's choice, each time anew.
    fn find_metrics(&self, node: &Node) {
        let log = std::fs::read_to_string(node.path("daemon.log")).unwrap_or_default();
        let said = log.lines().rev().find_map(|line| line.split_once("serving metrics address="));
        let address = said.and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_default();
        *self.metrics.lock().unwrap_or_else(PoisonError::into_inner) = address.to_owned();
    }
}

/// What tonic makes of a connection that broke or couldn't be had.
fn is_lost(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
}

//! How far pulls have come, for whoever looks: written by those who work, as counters, and put together only when somebody asks.
//!
//! Not here: what the numbers of a layer's stages mean (`unpack::Stage`).

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::manifest::Descriptor;
use crate::unpack::{Meter, Stage};

/// How far a pull has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// The full reference.
    pub image: String,
    /// What it is at.
    pub stage: PullStage,
    /// Its layers, the lowest first; none before they are known.
    pub layers: Vec<LayerProgress>,
    /// What it cost so far.
    pub statistics: PullStatistics,
}

/// What a pull is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStage {
    /// Finding out what the image is made of.
    Resolving,
    /// Fetching layers.
    Fetching,
    /// All layers are here; the catalogue is being written.
    Recording,
    /// The image is here.
    Done,
    /// It came to nothing.
    Failed,
}

/// How far a layer has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Digest of its compressed bytes.
    pub digest: Digest,
    /// Digest of its uncompressed bytes.
    pub diff_id: Digest,
    /// Compressed bytes.
    pub size: u64,
    /// Compressed bytes that are here, those of earlier attempts included.
    pub fetched: u64,
    /// What it is at.
    pub state: LayerState,
}

/// What a layer is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// For a connection, or for another pull that fetches it.
    Waiting,
    /// Its bytes arrive, and are unpacked as they do.
    Fetching,
    /// All its bytes are here.
    Unpacking,
    /// All its files are written, and on their way to the disk.
    Syncing,
    /// It is in the store.
    Done,
    /// It was in the store already, or another pull brought it.
    AlreadyHere,
}

/// What a pull cost. Times are sums over all layers, several of which are worked on at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullStatistics {
    /// From the beginning to the end, or to now.
    pub wall: Duration,
    /// Compressed bytes that came from registries.
    pub bytes_fetched: u64,
    /// Compressed bytes that an earlier attempt had kept.
    pub bytes_resumed: u64,
    /// Uncompressed bytes.
    pub bytes_unpacked: u64,
    /// Layers of the image.
    pub layers: usize,
    /// Layers that had to be fetched.
    pub layers_new: usize,
    /// Requests for layers that failed and were tried again.
    pub retries: u32,
    /// Time in which a layer had nothing to work on but waited for its bytes.
    pub waiting: Duration,
    /// Processor time of keeping compressed bytes for a later attempt.
    pub spooling: Duration,
    /// Processor time of decompression.
    pub decompressing: Duration,
    /// Processor time of both digests.
    pub hashing: Duration,
    /// Processor time of reading archives and writing files.
    pub writing: Duration,
    /// Time in which layers waited for the disk at their end.
    pub syncing: Duration,
}

/// The counters of a pull.
#[derive(Debug)]
pub(crate) struct Progress {
    image: String,
    begun: Instant,
    ended: OnceLock<Duration>,
    stage: AtomicU8,
    layers: OnceLock<Vec<Arc<LayerMeter>>>,
}

/// The counters of one layer of a pull.
#[derive(Debug)]
pub(super) struct LayerMeter {
    digest: Digest,
    diff_id: Digest,
    size: u64,
    /// Of all attempts at it in this pull.
    pub(super) layer: Arc<Meter>,
    state: AtomicU8,
    /// It was or became clear that it has to be fetched.
    new: AtomicBool,
    here: AtomicU64,
    fetched: AtomicU64,
    resumed: AtomicU64,
    retries: AtomicU32,
}

const STAGES: [PullStage; 5] =
    [PullStage::Resolving, PullStage::Fetching, PullStage::Recording, PullStage::Done, PullStage::Failed];

const WAITING: u8 = 0;
const FETCHING: u8 = 1;
const DONE: u8 = 2;
const ALREADY_HERE: u8 = 3;

impl Progress {
    pub(crate) fn new(image: String) -> Progress {
        let (ended, layers) = (OnceLock::new(), OnceLock::new());
        Progress { image, begun: Instant::now(), ended, stage: AtomicU8::new(0), layers }
    }

    pub(super) fn set_stage(&self, stage: PullStage) {
        if matches!(stage, PullStage::Done | PullStage::Failed) {
            let _ = self.ended.set(self.begun.elapsed());
        }
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// The layers are known from now on. Those of a second try are counted on, unless the name means another image by then.
    pub(super) fn set_layers(&self, layers: &[(Digest, Descriptor)]) -> Vec<Arc<LayerMeter>> {
        let meter = |(diff_id, blob): &(Digest, Descriptor)| Arc::new(LayerMeter::new(diff_id, blob));
        let make = || layers.iter().map(meter).collect::<Vec<_>>();
        let known = self.layers.get_or_init(make);
        let of = |meter: &Arc<LayerMeter>, (diff_id, blob): &(Digest, Descriptor)| {
            meter.diff_id == *diff_id && meter.digest == blob.digest
        };
        let same = known.len() == layers.len() && known.iter().zip(layers).all(|(a, b)| of(a, b));
        if same { known.clone() } else { make() }
    }

    pub(crate) fn now(&self) -> PullProgress {
        let meters = self.layers.get().map_or(&[][..], Vec::as_slice);
        PullProgress {
            image: self.image.clone(),
            stage: STAGES[usize::from(self.stage.load(Ordering::Relaxed)).min(STAGES.len() - 1)],
            layers: meters.iter().map(|meter| meter.now()).collect(),
            statistics: self.statistics(),
        }
    }

    pub(crate) fn statistics(&self) -> PullStatistics {
        let meters = self.layers.get().map_or(&[][..], Vec::as_slice);
        let wall = self.ended.get().copied().unwrap_or_else(|| self.begun.elapsed());
        let mut sum = PullStatistics { wall, layers: meters.len(), ..PullStatistics::default() };
        for meter in meters {
            meter.add_to(&mut sum);
        }
        sum
    }
}

impl LayerMeter {
    fn new(diff_id: &Digest, blob: &Descriptor) -> LayerMeter {
        LayerMeter {
            digest: blob.digest.clone(),
            diff_id: diff_id.clone(),
            size: blob.size,
            layer: Arc::default(),
            state: AtomicU8::new(WAITING),
            new: AtomicBool::new(false),
            here: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            retries: AtomicU32::new(0),
        }
    }

    pub(super) fn already_here(&self) {
        self.here.store(self.size, Ordering::Relaxed);
        self.state.store(ALREADY_HERE, Ordering::Relaxed);
    }

    /// Its bytes are counted from none on.
    pub(super) fn begins(&self) {
        self.here.store(0, Ordering::Relaxed);
        self.new.store(true, Ordering::Relaxed);
        self.state.store(FETCHING, Ordering::Relaxed);
    }

    pub(super) fn done(&self) {
        self.state.store(DONE, Ordering::Relaxed);
    }

    /// So many more bytes came from a registry; `of_use` of them weren't here before.
    pub(super) fn fetched(&self, bytes: u64, of_use: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.here.fetch_add(of_use, Ordering::Relaxed);
    }

    pub(super) fn resumed(&self, bytes: u64) {
        self.resumed.fetch_add(bytes, Ordering::Relaxed);
        self.here.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> LayerProgress {
        let fetched = self.here.load(Ordering::Relaxed);
        let state = match self.state.load(Ordering::Relaxed) {
            WAITING => LayerState::Waiting,
            DONE => LayerState::Done,
            ALREADY_HERE => LayerState::AlreadyHere,
            _ if self.layer.is_syncing() => LayerState::Syncing,
            _ if fetched >= self.size => LayerState::Unpacking,
            _ => LayerState::Fetching,
        };
        let (digest, diff_id) = (self.digest.clone(), self.diff_id.clone());
        LayerProgress { digest, diff_id, size: self.size, fetched, state }
    }

    fn add_to(&self, sum: &mut PullStatistics) {
        sum.bytes_fetched += self.fetched.load(Ordering::Relaxed);
        sum.bytes_resumed += self.resumed.load(Ordering::Relaxed);
        sum.bytes_unpacked += self.layer.unpacked();
        sum.layers_new += usize::from(self.new.load(Ordering::Relaxed));
        sum.retries += self.retries.load(Ordering::Relaxed);
        sum.waiting += self.layer.time(Stage::Waiting);
        sum.spooling += self.layer.time(Stage::Spooling);
        sum.decompressing += self.layer.time(Stage::Decompressing);
        sum.hashing += self.layer.time(Stage::Hashing);
        sum.writing += self.layer.time(Stage::Writing);
        sum.syncing += self.layer.time(Stage::Syncing);
    }
}

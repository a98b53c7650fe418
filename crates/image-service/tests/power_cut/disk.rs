//! A disk in memory that writes down what it is told, and what it holds after the power was cut at some moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::work::Event;

/// Bytes of a block: what file systems write in.
const BLOCK: usize = 4096;
/// Bytes that a disk writes wholly or not at all: the physical sector of today's. btrfs needs it for its superblock.
const SECTOR: usize = 4096;

/// The blocks of a disk; those never written are zeros. Cheap to clone: blocks are shared until one is written.
#[derive(Clone, Default)]
pub(crate) struct Blocks(HashMap<u64, Arc<[u8; BLOCK]>>);

impl Blocks {
    pub(crate) fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size);
        for (block, at, length) in pieces(offset, size) {
            match self.0.get(&block) {
                Some(block) => bytes.extend_from_slice(&block[at..at + length]),
                None => bytes.resize(bytes.len() + length, 0),
            }
        }
        bytes
    }

    pub(crate) fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        for (block, at, length) in pieces(offset, bytes.len()) {
            let block = self.0.entry(block).or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(block)[at..at + length].copy_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
        }
    }
}

/// The blocks that a range touches: number, first byte in it, bytes.
fn pieces(offset: u64, size: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let (mut offset, mut left) = (offset, size);
    std::iter::from_fn(move || {
        let (block, at) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
        let length = left.min(BLOCK - at);
        offset += length as u64;
        left -= length;
        (length > 0).then_some((block, at, length))
    })
}

/// What happened to a disk, or to those who use it.
#[derive(Clone)]
pub(crate) enum Step {
    Write {
        offset: u64,
        bytes: Arc<[u8]>,
    },
    /// Everything written before is safe from now on.
    Flush,
    Event(Event),
}

/// A disk.
pub(crate) struct Disk {
    pub(crate) size: u64,
    state: Mutex<State>,
}

struct State {
    blocks: Blocks,
    /// Steps since it was asked to write them down.
    log: Option<Vec<Step>>,
}

impl Disk {
    pub(crate) fn new(size: u64, blocks: Blocks) -> Arc<Disk> {
        Arc::new(Disk { size, state: Mutex::new(State { blocks, log: None }) })
    }

    pub(crate) fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let size = size.min(usize::try_from(self.size.saturating_sub(offset)).unwrap());
        self.state.lock().unwrap().blocks.read(offset, size)
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.blocks.write(offset, bytes);
        if let Some(log) = &mut state.log {
            log.push(Step::Write { offset, bytes: bytes.into() });
        }
    }

    pub(crate) fn flush(&self) {
        if let Some(log) = &mut self.state.lock().unwrap().log {
            log.push(Step::Flush);
        }
    }

    /// Puts down when something happened that isn't the disk's business.
    pub(crate) fn note(&self, event: Event) {
        if let Some(log) = &mut self.state.lock().unwrap().log {
            log.push(Step::Event(event));
        }
    }

    /// Writes down what happens from now on; the answer is what it holds.
    pub(crate) fn record(&self) -> Blocks {
        let mut state = self.state.lock().unwrap();
        state.log = Some(Vec::new());
        state.blocks.clone()
    }

    /// Ends the record.
    pub(crate) fn recorded(&self) -> Vec<Step> {
        self.state.lock().unwrap().log.take().unwrap_or_default()
    }
}

/// Numbers that look random and are the same for a seed (SplitMix64).
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Which of the writes that nothing has flushed yet a disk had done when the power went.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    /// All: as if every write were flushed.
    Nothing,
    Everything,
    /// Each with even odds, and of each a part that isn't the same for all its sectors.
    Some,
}

/// Goes through a record from its beginning and gives what the disk would hold after a cut.
pub(crate) struct Replay<'a> {
    log: &'a [Step],
    /// What is on the disk for certain.
    safe: Blocks,
    /// Steps that are in `safe`: up to a flush.
    done: usize,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(blocks: Blocks, log: &'a [Step]) -> Replay<'a> {
        Replay { log, safe: blocks, done: 0 }
    }

    /// What the disk holds when the power is cut after `moment` steps: not before an earlier cut.
    pub(crate) fn cut(&mut self, moment: usize, loss: Loss, random: &mut Random) -> Blocks {
        let since = &self.log[self.done..moment];
        if let Some(last) = since.iter().rposition(|step| matches!(step, Step::Flush)) {
            for step in &since[..last] {
                if let Step::Write { offset, bytes } = step {
                    self.safe.write(*offset, bytes);
                }
            }
            self.done += last;
        }
        let mut blocks = self.safe.clone();
        for step in &self.log[self.done..moment] {
            let Step::Write { offset, bytes } = step else { continue };
            match loss {
                Loss::Nothing => blocks.write(*offset, bytes),
                Loss::Everything => {}
                Loss::Some => lose_some(&mut blocks, (*offset, bytes), random),
            }
        }
        blocks
    }
}

/// A write that is done, not done, or begun: in whichever order the disk likes to write its sectors.
fn lose_some(blocks: &mut Blocks, (offset, bytes): (u64, &[u8]), random: &mut Random) {
    match random.below(5) {
        0 | 1 => blocks.write(offset, bytes),
        2 | 3 => {}
        _ => {
            for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                if random.below(2) == 0 {
                    blocks.write(offset + (n * SECTOR) as u64, sector);
                }
            }
        }
    }
}

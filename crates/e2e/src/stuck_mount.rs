//! A directory on a filesystem whose server takes every question and answers none: whoever asks waits where no signal reaches it (state D).
//!
//! The kernel lets go of a question that a FUSE server hasn't read (see [`DeadMount`](crate::DeadMount)); one that it has read must be
//! answered. Layouts are those of fuse(4) and the kernel's `linux/fuse.h`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// FUSE_INIT, the one question that is answered: without it the kernel asks nothing else.
const INIT: u32 = 26;

/// The head of a question: length, opcode, unique number, node, user, group, process, padding.
const HEAD: usize = 40;

/// A mount that takes hold of whoever looks into it, until this is dropped.
pub struct StuckMount {
    path: PathBuf,
    is_asked: Arc<AtomicBool>,
    end: Option<UnixStream>,
    server: Option<JoinHandle<()>>,
}

impl StuckMount {
    /// Mounts at `path`, which it makes. `None` on a machine without FUSE.
    ///
    /// # Panics
    /// When the directory can't be made.
    pub fn new(path: PathBuf) -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        std::fs::create_dir_all(&path).expect("a directory");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(Some("stuck"), &path, Some("fuse"), MsFlags::empty(), Some(options.as_str())).ok()?;
        let (end, ended) = UnixStream::pair().expect("a pair of sockets");
        let is_asked = Arc::default();
        let asked = Arc::clone(&is_asked);
        let server = std::thread::spawn(move || serve(device, &ended, &asked));
        Some(Self { path, is_asked, end: Some(end), server: Some(server) })
    }

    /// Whether somebody has looked into it, and waits for an answer: still by a sleep that a signal can end, until one does, and then by
    /// one that none ends.
    pub fn holds_somebody(&self) -> bool {
        self.is_asked.load(Ordering::SeqCst)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StuckMount {
    fn drop(&mut self) {
        // Without looking at it; whoever waits is let go when the device is closed.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        drop(self.end.take());
        let _ = self.server.take().map(JoinHandle::join);
    }
}

fn serve(mut device: File, ended: &UnixStream, is_asked: &AtomicBool) {
    let mut question = vec![0; 128 << 10];
    loop {
        let mut waited =
            [PollFd::new(device.as_fd(), PollFlags::POLLIN), PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waited, PollTimeout::NONE).is_err() {
            continue;
        }
        if waited[1].any() != Some(false) {
            return;
        }
        let Ok(length) = device.read(&mut question) else { return };
        if length >= HEAD && question[4..8] == INIT.to_ne_bytes() {
            let _ = device.write(&introduction(&question[8..16]));
        } else {
            is_asked.store(true, Ordering::SeqCst);
        }
    }
}

/// The answer to FUSE_INIT with that unique number: version 7.31, and no feature.
fn introduction(unique: &[u8]) -> Vec<u8> {
    let words = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<u8>>();
    // Length and error; then version, read ahead, flags, both limits of what waits, the largest write, granularity of times.
    let mut answer = words(&[80, 0]);
    answer.extend(unique);
    answer.extend(words(&[7, 31, 0, 0, 0, 4096, 1]));
    answer.resize(80, 0);
    answer
}

//! Serves disks as files, so that loop devices can be made of them: the kernel's FUSE protocol, as far as a directory of
//! files of fixed sizes needs it.
//!
//! Layouts and numbers are those of `linux/fuse.h` (protocol 7.31). A loop device passes each write on as it comes and each
//! flush as an fsync of its file, so what arrives here is what a disk would be told.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::disk::Disk;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Bytes of the header of a request.
const HEADER: usize = 40;
/// Bytes before the data of a write.
const WRITE_HEADER: usize = 40;
/// Largest write: 256 pages.
const MAX_WRITE: u32 = 256 * 4096;
/// Capabilities: large writes (bit 5), more than 32 pages a request (bit 22).
const CAPABILITIES: u32 = (1 << 5) | (1 << 22);
/// The root directory's number.
const ROOT: u64 = 1;
/// Seconds that the kernel may keep what it was told about names and sizes.
const VALID: u64 = 3600;

type Disks = Arc<Mutex<HashMap<u64, Arc<Disk>>>>;

/// A mounted directory of disks.
pub(crate) struct Server {
    dir: PathBuf,
    disks: Disks,
    next: u64,
}

impl Server {
    /// Mounts at `dir`, in the mount namespace of the calling thread.
    pub(crate) fn start(dir: &Path) -> Server {
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("power-cut", dir, "fuse", flags, options.as_c_str()).unwrap();
        let disks = Disks::default();
        let served = Arc::clone(&disks);
        // It ends when nobody has a disk open any more, which may be a moment after the unmounting.
        std::thread::spawn(move || serve(device, &served));
        Server { dir: dir.to_owned(), disks, next: ROOT }
    }

    /// The file of another disk.
    pub(crate) fn add(&mut self, disk: Arc<Disk>) -> PathBuf {
        self.next += 1;
        self.disks.lock().unwrap().insert(self.next, disk);
        self.dir.join(self.next.to_string())
    }

    /// Forgets a disk that nobody has open any more.
    pub(crate) fn remove(&mut self, file: &Path) {
        self.disks.lock().unwrap().remove(&number(file.file_name().unwrap().as_encoded_bytes()).unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.dir, rustix::mount::UnmountFlags::DETACH);
    }
}

fn number(name: &[u8]) -> Option<u64> {
    std::str::from_utf8(name).ok()?.trim_end_matches('\0').parse().ok()
}

fn serve(mut device: File, disks: &Disks) {
    let mut buffer = vec![0; MAX_WRITE as usize + 65_536];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => continue,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // Unmounted.
            Err(_) => return,
        };
        let request = Request(&buffer[..length]);
        let Some(answer) = request.answer(disks) else { continue };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend_from_slice(&u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
        message.extend_from_slice(&error.to_ne_bytes());
        message.extend_from_slice(&request.u64(8).to_ne_bytes());
        message.extend_from_slice(&body);
        // Whoever asked may have given up meanwhile.
        let _ = device.write_all(&message);
    }
}

/// A request as the kernel wrote it.
struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    /// Nothing for requests that have no answer.
    fn answer(&self, disks: &Disks) -> Option<Result<Vec<u8>, Errno>> {
        let node = self.u64(16);
        let disk = || disks.lock().unwrap().get(&node).cloned().ok_or(Errno::NOENT);
        Some(match self.u32(4) {
            FORGET | BATCH_FORGET | INTERRUPT => return None,
            INIT => Ok(init()),
            LOOKUP => lookup(&self.0[HEADER..], disks),
            GETATTR | SETATTR if node == ROOT => Ok(attr_answer(&attr(ROOT, None))),
            GETATTR | SETATTR => disk().map(|disk| attr_answer(&attr(node, Some(disk.size)))),
            OPEN => disk().map(|_| opened()),
            OPENDIR => Ok(vec![0; 16]),
            READ => disk().map(|disk| disk.read(self.u64(HEADER + 8), self.u32(HEADER + 16) as usize)),
            WRITE => disk().map(|disk| self.write(&disk)),
            FSYNC => disk().map(|disk| {
                disk.flush();
                Vec::new()
            }),
            STATFS => Ok(vec![0; 80]),
            FLUSH | RELEASE | RELEASEDIR => Ok(Vec::new()),
            _ => Err(Errno::NOSYS),
        })
    }

    fn write(&self, disk: &Disk) -> Vec<u8> {
        let (offset, size) = (self.u64(HEADER + 8), self.u32(HEADER + 16));
        let first = HEADER + WRITE_HEADER;
        disk.write(offset, &self.0[first..first + size as usize]);
        [size.to_ne_bytes(), [0; 4]].concat()
    }
}

fn init() -> Vec<u8> {
    let mut body = Vec::new();
    for number in [7, 31, 0, CAPABILITIES] {
        body.extend_from_slice(&u32::to_ne_bytes(number));
    }
    // Requests in the background, and from when on there are too many.
    body.extend_from_slice(&u16::to_ne_bytes(64));
    body.extend_from_slice(&u16::to_ne_bytes(48));
    body.extend_from_slice(&MAX_WRITE.to_ne_bytes());
    // Times in nanoseconds.
    body.extend_from_slice(&u32::to_ne_bytes(1));
    body.extend_from_slice(&u16::to_ne_bytes(u16::try_from(MAX_WRITE / 4096).unwrap()));
    body.resize(64, 0);
    body
}

fn lookup(name: &[u8], disks: &Disks) -> Result<Vec<u8>, Errno> {
    let node = number(name).ok_or(Errno::NOENT)?;
    let size = disks.lock().unwrap().get(&node).ok_or(Errno::NOENT)?.size;
    let mut body = Vec::new();
    for number in [node, 0, VALID, VALID, 0] {
        body.extend_from_slice(&u64::to_ne_bytes(number));
    }
    body.extend_from_slice(&attr(node, Some(size)));
    Ok(body)
}

fn attr_answer(attr: &[u8]) -> Vec<u8> {
    [&VALID.to_ne_bytes()[..], &[0; 8], attr].concat()
}

/// A file of that size, or a directory.
fn attr(node: u64, size: Option<u64>) -> Vec<u8> {
    let mut body = Vec::new();
    let bytes = size.unwrap_or(0);
    for number in [node, bytes, bytes / 512, 0, 0, 0] {
        body.extend_from_slice(&u64::to_ne_bytes(number));
    }
    let mode = if size.is_some() { 0o100_600 } else { 0o40_700 };
    for number in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        body.extend_from_slice(&u32::to_ne_bytes(number));
    }
    body
}

/// Without the page cache: what is written comes at once.
fn opened() -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend_from_slice(&u32::to_ne_bytes(1));
    body.resize(16, 0);
    body
}

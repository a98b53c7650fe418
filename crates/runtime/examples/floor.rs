//! What the kernel alone needs for one container: the least that any runtime can take here.
//!
//! `floor [ROUNDS [PROGRAM]]` makes containers one after another (200; of Debian's static busybox, as `true`):
//! cgroups, clone3(2) with new mount, pid, network, ipc and uts namespaces, joining the cgroups and their
//! namespace, an overlay through fsopen(2) to move_mount(2), pivot_root(2), /proc, execve(2), wait, removal.
//! It prints a line for each figure: its name, then p50 and p95 in microseconds.
//!
//! What does not live here: whatever a runtime adds, such as records, logs, seccomp, masked paths, devices,
//! a process of its own. An example and no benchmark of this crate, since nothing of the crate is
//! measured: it borrows the clone, which is the one step that takes `unsafe`, as source from `sys`, so that
//! neither the crate's interface nor the place of `unsafe` changes for it.

#![allow(clippy::print_stdout, reason = "its result")]

use std::error::Error;
use std::ffi::CString;
use std::fs::{create_dir, remove_dir, remove_dir_all, write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, fchdir, pivot_root, waitid};
use tempfile::TempDir;

#[path = "../src/sys/clone.rs"]
#[allow(unsafe_code, dead_code, reason = "a part of runtime::sys, the home of unsafe code; not all is used")]
mod clone;

/// Where clone.rs looks for the token.
mod thread {
    pub(crate) use runtime::thread::SingleThread;
}

use clone::{Child, CloneFlags, Cloned, clone_process};
use thread::SingleThread;

type Failed = Box<dyn Error>;

const ROUNDS: usize = 200;
/// Rounds before the first that counts: caches fill.
const WARM_UP: usize = 10;

fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    let place = Place::make(Path::new(&arguments.next().unwrap_or_else(|| "/bin/busybox".into())))?;
    let proof = SingleThread::prove()?;
    for _ in 0..WARM_UP {
        place.round(&proof)?;
    }
    let taken = (0..rounds).map(|_| place.round(&proof)).collect::<Result<Vec<_>, _>>()?;
    print("clone to exec", taken.iter().map(|times| times.executed));
    print("clone to exit", taken.iter().map(|times| times.exited));
    print("whole, with its cgroups and directories made and removed", taken.iter().map(|times| times.whole));
    Ok(())
}

fn print(name: &str, times: impl Iterator<Item = Duration>) {
    let mut sorted: Vec<u128> = times.map(|time| time.as_micros()).collect();
    sorted.sort_unstable();
    let part = |percent: usize| {
        sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
    };
    println!("{name}: {} / {}", part(50), part(95));
}

/// What one round took.
struct Times {
    executed: Duration,
    exited: Duration,
    whole: Duration,
}

/// The root filesystem and the cgroups that rounds are made in; removed when dropped.
struct Place {
    directory: TempDir,
    hierarchies: Hierarchies,
}

/// This program's cgroup in every hierarchy.
struct Hierarchies {
    unified: Option<PathBuf>,
    legacy: Vec<PathBuf>,
}

impl Place {
    fn make(program: &Path) -> Result<Self, Failed> {
        let directory = tempfile::Builder::new().prefix("knarr-floor-").tempdir()?;
        let lower = directory.path().join("lower");
        create_dir(&lower)?;
        create_dir(lower.join("proc"))?;
        std::fs::copy(program, lower.join("true"))
            .map_err(|error| format!("cannot copy \"{}\": {error}", program.display()))?;
        Ok(Self { directory, hierarchies: Hierarchies::make()? })
    }

    fn round(&self, proof: &SingleThread) -> Result<Times, Failed> {
        let layers = ["upper", "work"].map(|name| self.directory.path().join(name));
        let options = CString::new("true")?;
        let begun = Instant::now();
        self.hierarchies.each(create_dir)?;
        layers.iter().try_for_each(create_dir)?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let cgroup = self.hierarchies.open_unified()?;
        let cloned = Instant::now();
        let child = match clone_process(proof, namespaces(), cgroup.as_ref().map(AsFd::as_fd))? {
            Cloned::Child => self.become_container(&options),
            Cloned::Parent(child) => child,
        };
        drop(writer);
        // The end of the pipe is closed by execve(2), or by the end of a child that failed.
        rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut [0_u8; 1]))?;
        let executed = cloned.elapsed();
        wait(child)?;
        let exited = cloned.elapsed();
        layers.iter().try_for_each(remove_dir_all)?;
        self.hierarchies.each(remove_dir)?;
        Ok(Times { executed, exited, whole: begun.elapsed() })
    }

    /// The child's part; it ends here.
    fn become_container(&self, program: &CString) -> ! {
        let Err(error) = self.build_container(program);
        println!("the container failed: {error}");
        std::process::exit(1)
    }

    fn build_container(&self, program: &CString) -> Result<std::convert::Infallible, Failed> {
        // A thread that moves itself by `tasks` avoids the lock against all forks that `cgroup.procs` takes.
        self.hierarchies.legacy.iter().try_for_each(|own| write(own.join("one/tasks"), "0"))?;
        // Not with the clone: a cgroup namespace is rooted where its maker is, in version 1 only now.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let layer = |name: &str| self.directory.path().join(name);
        let root = filesystem(
            "overlay",
            &[("lowerdir", layer("lower")), ("upperdir", layer("upper")), ("workdir", layer("work"))],
        )?;
        move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        fchdir(&root)?;
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        fchdir(&root)?;
        let proc = filesystem("proc", &[])?;
        move_mount(&proc, "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(nix::unistd::execve(c"/true", &[program], &[c"PATH=/"])?)
    }
}

fn namespaces() -> CloneFlags {
    [CloneFlags::PID, CloneFlags::NETWORK, CloneFlags::IPC, CloneFlags::UTS]
        .into_iter()
        .fold(CloneFlags::MOUNT, CloneFlags::with)
}

fn filesystem(kind: &str, options: &[(&str, PathBuf)]) -> Result<OwnedFd, Failed> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        fsconfig_set_string(&context, *name, value)?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

fn wait(child: Child) -> Result<(), Failed> {
    let (_, pidfd) = child.hand_over().ok_or("the child is gone")?;
    let ended = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
    match ended.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        status => Err(format!("the container ended with {status:?}").into()),
    }
}

impl Hierarchies {
    /// Takes every mount in /sys/fs/cgroup, or that itself, by the files that tell the versions apart.
    fn make() -> Result<Self, Failed> {
        let top = PathBuf::from("/sys/fs/cgroup");
        let mut own = Self { unified: None, legacy: Vec::new() };
        let below = std::fs::read_dir(&top)?.flatten().map(|entry| entry.path());
        let links = |path: &PathBuf| !path.is_symlink();
        if top.join("cgroup.controllers").exists() {
            own.unified = Some(own_cgroup(&top)?);
            return Ok(own);
        }
        for mount in below.filter(links) {
            if mount.join("cgroup.controllers").exists() {
                own.unified = Some(own_cgroup(&mount)?);
            } else if mount.join("tasks").exists() {
                let made = own_cgroup(&mount)?;
                let inherits = made.join("cpuset.cpus").exists();
                own.legacy.push(made);
                if inherits {
                    prepare_cpuset(&mount)?;
                }
            }
        }
        Ok(own)
    }

    /// Does something to the cgroup of a round, in every hierarchy.
    fn each(&self, act: impl Fn(PathBuf) -> std::io::Result<()>) -> std::io::Result<()> {
        self.unified.iter().chain(&self.legacy).try_for_each(|own| act(own.join("one")))
    }

    fn open_unified(&self) -> Result<Option<OwnedFd>, Failed> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let open = |own: &PathBuf| open(own.join("one"), flags, Mode::empty());
        Ok(self.unified.as_ref().map(open).transpose()?)
    }
}

fn name() -> String {
    format!("knarr-floor-{}", std::process::id())
}

fn own_cgroup(mount: &Path) -> std::io::Result<PathBuf> {
    let own = mount.join(name());
    create_dir(&own)?;
    Ok(own)
}

/// A new cpuset takes no process until it has processors and memory: here those of the one above it, and the
/// kernel copies them to each cgroup below.
fn prepare_cpuset(mount: &Path) -> std::io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        write(mount.join(name()).join(file), std::fs::read_to_string(mount.join(file))?.trim())?;
    }
    write(mount.join(name()).join("cgroup.clone_children"), "1")
}

impl Drop for Hierarchies {
    fn drop(&mut self) {
        for own in self.unified.iter().chain(&self.legacy) {
            // The first is there only when a round has failed.
            let _ = remove_dir(own.join("one"));
            let _ = remove_dir(own);
        }
    }
}

//! A pod, an image and what a daemon would do around a container.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use runtime::cgroup::{Cgroup, Host};
use runtime::container::{ExecRequest, LaunchRequest, Launched, Streams, Until, exec, launch};
use runtime::handshake::{Handshake, Progress};
use runtime::namespaces::{PodNamespaces, create_pod};
use runtime::plan::{
    NamespacePlan, NamespaceSource, Plan, PlanInput, PodNamespace, PodPlan, ProcessPlan, SHARED_MEMORY_BYTES,
};
use runtime::spec::{self, oci};
use runtime::thread::SingleThread;
use runtime::{Failure, mount, plan};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::patience::{patience, until};

/// Kubernetes' default capabilities, as numbers.
pub const DEFAULT_CAPABILITIES: &[oci::Capability] = &[
    oci::Capability::Chown,
    oci::Capability::DacOverride,
    oci::Capability::Fsetid,
    oci::Capability::Fowner,
    oci::Capability::Mknod,
    oci::Capability::NetRaw,
    oci::Capability::Setgid,
    oci::Capability::Setuid,
    oci::Capability::Setfcap,
    oci::Capability::Setpcap,
    oci::Capability::NetBindService,
    oci::Capability::SysChroot,
    oci::Capability::Kill,
    oci::Capability::AuditWrite,
];

/// What a test must not leave behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    mounts: usize,
    descriptors: usize,
    children: String,
}

impl Left {
    pub fn now() -> Self {
        let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        Self {
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            children,
        }
    }
}

pub struct Rig {
    directory: tempfile::TempDir,
    pub pod: PodNamespaces,
    pub cgroup: Cgroup,
}

/// How a process ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub signal: i32,
    pub output: String,
    pub failure: Option<Failure>,
}

impl Outcome {
    pub fn lines(&self) -> Vec<&str> {
        assert!(self.failure.is_none(), "{self:?}");
        self.output.lines().collect()
    }

    pub fn failed(&self) -> &Failure {
        self.failure.as_ref().unwrap_or_else(|| panic!("it ran: {self:?}"))
    }
}

pub fn pod_plan() -> PodPlan {
    PodPlan {
        network: PodNamespace::Own,
        ipc: PodNamespace::Own,
        uts: PodNamespace::Own,
        pid: PodNamespace::Host,
        hostname: Some("boat".to_owned()),
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "81".to_owned())].into(),
        shared_memory: Some(SHARED_MEMORY_BYTES),
        user: None,
        joined: None,
        mount_label: None,
    }
}

pub fn namespaces() -> NamespacePlan {
    NamespacePlan {
        network: NamespaceSource::Pod,
        ipc: NamespaceSource::Pod,
        uts: NamespaceSource::Pod,
        pid: NamespaceSource::Own,
        cgroup: NamespaceSource::Own,
        user: NamespaceSource::Host,
    }
}

impl Rig {
    pub fn new() -> Self {
        Self::with_pod(&pod_plan())
    }

    pub fn with_pod(pod: &PodPlan) -> Self {
        Self::with_network(pod, None)
    }

    /// The pod's network namespace is one that is ready.
    pub fn with_network(pod: &PodPlan, prepared: Option<OwnedFd>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        for part in ["image", "upper", "work"] {
            fs::create_dir(directory.path().join(part)).unwrap();
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("/knarr-runtime-test-{}/c{number}", std::process::id());
        let cgroup = Cgroup::create(&Host::detect().unwrap(), &name).unwrap();
        let pod = create_pod(&SingleThread::prove().unwrap(), pod, prepared).unwrap();
        let rig = Self { directory, pod, cgroup };
        rig.unpack_image();
        rig
    }

    fn unpack_image(&self) {
        let image = self.image();
        for part in ["bin", "etc", "tmp", "root", "data"] {
            fs::create_dir(image.join(part)).unwrap();
        }
        fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "id", "ls", "mount", "hostname", "stat", "touch", "pwd", "env", "sleep", "tty",
            "ps", "stty", "readlink", "wc", "mkdir", "test", "kill",
        ] {
            symlink("busybox", image.join("bin").join(name)).unwrap();
        }
        fs::write(image.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/data:/bin/sh\n")
            .unwrap();
        fs::write(image.join("etc/group"), "root:x:0:\nweb:x:33:\n").unwrap();
        fs::set_permissions(image.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    }

    /// The image's directory, below the container's own changes.
    pub fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// A directory that is no part of the image.
    pub fn outside(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A fresh root filesystem: the image with an empty layer over it.
    pub fn root(&self) -> OwnedFd {
        if let Some(user) = &self.pod.user {
            return self.mapped_root(user.namespace.as_fd());
        }
        self.overlay()
    }

    fn mapped_root(&self, user: BorrowedFd<'_>) -> OwnedFd {
        let mapped = |path: &Path| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let clone = open_tree(CWD, path, flags).unwrap();
            mount::map_ids(clone.as_fd(), user).unwrap();
            clone
        };
        // Attached over itself while the overlay is made: kernels before 6.15 name no layer that is attached nowhere.
        let image = self.image();
        move_mount(mapped(&image), "", CWD, &image, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
        // What is written belongs to the users outside.
        let upper = self.directory.path().join("upper");
        let owner = self.pod.user.as_ref().and_then(|user| user.ids.outside_uid(0));
        std::os::unix::fs::chown(&upper, owner, owner).unwrap();
        let overlay = self.overlay();
        unmount(&image, UnmountFlags::DETACH).unwrap();
        overlay
    }

    fn overlay(&self) -> OwnedFd {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for (name, part) in [("lowerdir", "image"), ("upperdir", "upper"), ("workdir", "work")] {
            fsconfig_set_string(&context, name, self.directory.path().join(part).as_os_str()).unwrap();
        }
        fsconfig_create(&context).unwrap();
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
    }

    /// Plans, starts and waits for a container.
    pub fn run(&self, spec: &oci::Spec) -> Outcome {
        self.run_planned(&planned(spec))
    }

    pub fn run_planned(&self, plan: &Plan) -> Outcome {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        match self.start(plan, &write) {
            Ok(launched) => {
                drop(write);
                finish(launched, File::from(read))
            }
            Err(failure) => Outcome { code: -1, signal: 0, output: String::new(), failure: Some(failure) },
        }
    }

    /// Starts a container whose output goes to `output`.
    pub fn start(&self, plan: &Plan, output: &OwnedFd) -> Result<Launched, Failure> {
        let sources: Vec<OwnedFd> =
            plan.sources.iter().map(|source| mount::open_source(source).unwrap()).collect();
        let root = self.root();
        launch(
            &SingleThread::prove().unwrap(),
            &LaunchRequest {
                plan,
                root: root.as_fd(),
                sources: &sources,
                pod: &self.pod,
                pid_target: None,
                cgroup: &self.cgroup,
                streams: Streams { stdin: None, stdout: Some(output.as_fd()), stderr: Some(output.as_fd()) },
                until: Until::Executed,
            },
        )?
        .wait(patience())
    }

    /// Runs a process in a running container.
    pub fn exec(&self, container: &Launched, process: &ProcessPlan) -> Outcome {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let started = exec(
            &SingleThread::prove().unwrap(),
            &ExecRequest {
                process,
                container: container.pidfd.as_fd(),
                user: self.pod.user.as_ref(),
                cgroup: &self.cgroup,
                streams: Streams { stdin: None, stdout: Some(write.as_fd()), stderr: Some(write.as_fd()) },
            },
        );
        drop(write);
        match started.and_then(|birth| birth.wait(patience())) {
            Ok(launched) => finish(launched, File::from(read)),
            Err(failure) => Outcome { code: -1, signal: 0, output: String::new(), failure: Some(failure) },
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(pid) = self.pod.pid.take() {
            pidfd_send_signal(&pid.init_pidfd, Signal::KILL).unwrap();
            wait(&pid.init_pidfd);
        }
        let _ = self.cgroup.kill();
        let parent = self.cgroup.path().rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap();
        let parent = Cgroup::at(&Host::detect().unwrap(), &parent).unwrap();
        until("its cgroup can be removed", || parent.remove().ok());
    }
}

pub fn wait(pidfd: &OwnedFd) -> (i32, i32) {
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    (status.exit_status().unwrap_or(-1), status.terminating_signal().unwrap_or(0))
}

/// Waits until the handshake is over; the terminal's master comes along.
pub fn handshake(handshake: &mut Handshake) -> (Option<OwnedFd>, Result<(), Failure>) {
    let mut terminal = None;
    let bound = Timespec { tv_sec: 20, tv_nsec: 0 };
    loop {
        match handshake.receive() {
            Progress::Pending => {
                let ready = poll(&mut [PollFd::new(&*handshake, PollFlags::IN)], Some(&bound)).unwrap();
                assert!(ready > 0, "the child has not reported for 20 s");
            }
            Progress::Terminal(master) => terminal = Some(master),
            Progress::Waiting(halt) => panic!("it waits: {halt:?}"),
            Progress::Ready => return (terminal, Ok(())),
            Progress::Failed(failure) => return (terminal, Err(failure)),
        }
    }
}

pub fn finish(mut launched: Launched, mut output: File) -> Outcome {
    let (_, result) = handshake(&mut launched.handshake);
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes).unwrap();
    let (code, signal) = wait(&launched.pidfd);
    Outcome { code, signal, output: String::from_utf8_lossy(&bytes).into_owned(), failure: result.err() }
}

/// Reads until a line is complete.
pub fn line(file: &mut File) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while text.last() != Some(&b'\n') {
        match file.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

pub fn planned(spec: &oci::Spec) -> Plan {
    plan::plan(&PlanInput { spec, namespaces: namespaces(), seccomp: None }).unwrap()
}

/// An unprivileged container's specification, as Kubernetes' defaults make it.
pub fn spec(args: &[&str]) -> oci::Spec {
    let linux = oci::LinuxBuilder::default()
        .masked_paths(spec::MASKED_PATHS.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>())
        .readonly_paths(spec::READONLY_PATHS.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>())
        .build()
        .unwrap();
    let mut root = oci::Root::default();
    root.set_readonly(Some(false));
    let mut spec = oci::Spec::default();
    spec.set_hostname(None)
        .set_root(Some(root))
        .set_mounts(Some(spec::default_mounts()))
        .set_linux(Some(linux))
        .set_process(Some(process(args)));
    spec
}

pub fn process(args: &[&str]) -> oci::Process {
    let capabilities: oci::Capabilities = DEFAULT_CAPABILITIES.iter().copied().collect();
    let sets = oci::LinuxCapabilitiesBuilder::default()
        .bounding(capabilities.clone())
        .effective(capabilities.clone())
        .permitted(capabilities)
        .inheritable(oci::Capabilities::new())
        .ambient(oci::Capabilities::new())
        .build()
        .unwrap();
    oci::ProcessBuilder::default()
        .args(args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
        .env(["PATH=/bin".to_owned(), "FLAG=up".to_owned()])
        .cwd("/")
        .capabilities(sets)
        .no_new_privileges(true)
        .rlimits(Vec::new())
        .build()
        .unwrap()
}

/// A shell that runs `script`.
pub fn shell(script: &str) -> oci::Spec {
    spec(&["sh", "-c", script])
}

pub fn edit_process(spec: &mut oci::Spec, edit: impl FnOnce(&mut oci::Process)) {
    let mut process = spec.process().clone().unwrap();
    edit(&mut process);
    spec.set_process(Some(process));
}

pub fn add_mount(spec: &mut oci::Spec, source: &Path, destination: &str, options: &[&str]) {
    let mut mounts = spec.mounts().clone().unwrap();
    mounts.push(
        oci::MountBuilder::default()
            .typ("bind")
            .source(source)
            .destination(destination)
            .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
            .build()
            .unwrap(),
    );
    spec.set_mounts(Some(mounts));
}

/// How many times as long as a bare process something takes, each by the best of 50 that are made by turns: whatever else the
/// machine does only makes them longer, and what takes longer meets more of it.
pub fn times_a_bare_process(mut work: impl FnMut()) -> f64 {
    let bare = || assert!(std::process::Command::new("/bin/true").status().unwrap().success());
    let took = |work: &mut dyn FnMut()| {
        let begun = std::time::Instant::now();
        work();
        begun.elapsed().as_secs_f64()
    };
    let (ours, bares): (Vec<_>, Vec<_>) = (0..50).map(|_| (took(&mut work), took(&mut || bare()))).unzip();
    let least = |times: Vec<f64>| times.into_iter().min_by(f64::total_cmp).unwrap();
    let (ours, bare) = (least(ours), least(bares));
    println!("    {:.0} us, a bare process {:.0} us at best", ours * 1e6, bare * 1e6);
    ours / bare
}

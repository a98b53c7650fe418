//! A supervisor of the built binary, with what a daemon would put around it: directory, cgroups, images, log
//! directory.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use runtime::cgroup::{Cgroup, Host};
use runtime::container::Until;
use runtime::plan::{
    Bundle, NamespacePlan, NamespaceSource, Plan, PlanInput, PodNamespace, PodPlan, ProcessPlan,
    SHARED_MEMORY_BYTES,
};
use runtime::spec::{self, oci};
use runtime::supervisor::{Arguments, Begin};
use runtime::wire::{
    JournalCopy, Listener, LogLimits, Reply, Request, Scope, StartContainer, StartExec, Stdin, Stream,
    Target, VERSION,
};
use runtime::{mount, plan};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::client::Client;
use crate::patience::{slowness, until};

/// The binary that is installed, where the Makefile names one; the one that cargo has just built otherwise.
pub fn binary() -> PathBuf {
    let installed =
        std::env::var_os("KNARR_BIN_DIR").map(|directory| Path::new(&directory).join("knarr-supervisor"));
    installed.unwrap_or_else(|| env!("CARGO_BIN_EXE_knarr-supervisor").into())
}

/// How many files what a supervisor makes may have open: less than it may itself.
pub const GIVEN_FILES: u64 = 500;

pub struct Rig {
    pub directory: tempfile::TempDir,
    pid: i32,
    pidfd: OwnedFd,
    host: Host,
    cgroups: String,
}

/// What a test may change of a start.
pub struct Container<'a> {
    pub id: &'a str,
    pub spec: oci::Spec,
    pub namespaces: NamespacePlan,
    pub stdin: Stdin,
    pub deadline_ms: u64,
    pub until: Until,
    pub log_limits: Option<LogLimits>,
    pub log_copy: Option<JournalCopy>,
}

pub fn container<'a>(id: &'a str, script: &str) -> Container<'a> {
    Container {
        id,
        spec: spec(&["sh", "-c", script]),
        namespaces: namespaces(),
        stdin: Stdin::Null,
        deadline_ms: 10_000 * u64::from(slowness()),
        until: Until::Executed,
        log_limits: None,
        log_copy: None,
    }
}

impl Rig {
    /// A supervisor whose pod has its namespaces.
    pub fn new() -> (Self, Client) {
        let rig = Self::bare();
        let mut client = rig.connect();
        match client.call(Request::CreatePod(pod_plan())) {
            Reply::PodCreated(_) => (rig, client),
            other => panic!("{other:?}"),
        }
    }

    /// A supervisor that nothing has been asked of.
    pub fn bare() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        for part in ["pod", "logs", "image/bin", "image/tmp"] {
            fs::create_dir_all(directory.path().join(part)).unwrap();
        }
        unpack_image(&directory.path().join("image"));
        let host = Host::detect().unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroups = format!("/knarr-supervisor-test-{}-{number}", std::process::id());
        let own = Cgroup::create(&host, &format!("{cgroups}/supervisor")).unwrap();
        let pod = directory.path().join("pod");
        let listener = Listener::bind(&pod, "supervisor.sock").unwrap();
        let arguments = Arguments {
            pod: "p1".to_owned(),
            directory: pod.clone(),
            cgroup: Some(own),
            begin: Begin::AtOnce,
            open_files: Some(GIVEN_FILES),
        };
        // The supervisor is a copy of what is started here, and our child as well.
        let mut starter = Command::new(binary())
            .args(arguments.to_vec())
            .stdin(listener.into_descriptor())
            .stdout(Stdio::null())
            .stderr(File::create(pod.join("supervisor.log")).unwrap())
            .spawn()
            .unwrap();
        let mut client = Client::silent(&pod);
        let Reply::Welcome { pid, .. } = client.call(Request::Hello { version: VERSION }) else {
            panic!("no welcome");
        };
        assert!(starter.wait().unwrap().success());
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        Self { directory, pid, pidfd, host, cgroups }
    }

    pub fn pod(&self) -> PathBuf {
        self.directory.path().join("pod")
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.pod())
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.directory.path().join("logs").join(format!("{id}.log"))
    }

    /// The log, without its times: `<stream> <tag> <content>` a line.
    pub fn log(&self, id: &str) -> Vec<String> {
        lines(&self.log_path(id))
    }

    pub fn cgroup(&self, id: &str) -> Cgroup {
        Cgroup::create(&self.host, &format!("{}/{id}", self.cgroups)).unwrap()
    }

    /// A fresh root filesystem: the image with an empty layer over it.
    fn root(&self, id: &str) -> OwnedFd {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        let layer = tempfile::tempdir_in(self.directory.path()).unwrap().keep();
        for part in ["upper", "work"] {
            fs::create_dir(layer.join(part)).unwrap();
        }
        let image = self.directory.path().join("image");
        for (name, path) in
            [("lowerdir", image), ("upperdir", layer.join("upper")), ("workdir", layer.join("work"))]
        {
            fsconfig_set_string(&context, name, path.as_os_str()).unwrap();
        }
        fsconfig_create(&context).unwrap_or_else(|errno| panic!("root of {id}: {errno}"));
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
    }

    /// Where a container's specification would be.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.pod().join("containers").join(id)
    }

    fn planned_in_bundle(&self, container: &Container<'_>) -> Plan {
        let (directory, root) = (self.bundle(container.id), self.bundle(container.id).join("rootfs"));
        fs::create_dir_all(&root).unwrap();
        let (namespaces, seccomp) = (container.namespaces.clone(), None);
        let bundle = Bundle { id: container.id, directory: &directory, root: &root };
        plan::plan_in_bundle(&PlanInput { spec: &container.spec, namespaces, seccomp }, &bundle).unwrap()
    }

    /// Everything but sending it.
    pub fn request(&self, container: &Container<'_>) -> (StartContainer, Vec<OwnedFd>) {
        let plan = self.planned_in_bundle(container);
        let mut descriptors = vec![self.root(container.id)];
        descriptors.extend(plan.sources.iter().map(|source| mount::open_source(source).unwrap()));
        let start = StartContainer {
            container: container.id.to_owned(),
            plan,
            cgroup: self.cgroup(container.id),
            log: Some(self.log_path(container.id)),
            log_limits: container.log_limits,
            log_copy: container.log_copy.clone(),
            stdin: container.stdin,
            deadline_ms: container.deadline_ms,
            external: None,
            until: container.until,
            streams: Vec::new(),
        };
        (start, descriptors)
    }

    pub fn try_start(&self, client: &mut Client, container: &Container<'_>) -> Reply {
        let (start, descriptors) = self.request(container);
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        client.call_with(Request::Start(Box::new(start)), &borrowed)
    }

    /// Starts a container, that has to begin, and gives the number of its first process.
    pub fn start(&self, client: &mut Client, container: &Container<'_>) -> i32 {
        match self.try_start(client, container) {
            Reply::Started { pid, .. } => pid,
            other => panic!("{other:?}; {}", self.complaints()),
        }
    }

    /// What the supervisor wrote on standard error.
    pub fn complaints(&self) -> String {
        fs::read_to_string(self.pod().join("supervisor.log")).unwrap_or_default()
    }

    /// Has the supervisor end.
    pub fn shut_down(&mut self, client: &mut Client) {
        assert_eq!(client.call(Request::Shutdown), Reply::Done);
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0), "{}", self.complaints());
    }

    pub fn is_alive(&self) -> bool {
        is_alive(self.pid)
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // ESRCH and ECHILD: it was shut down.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        let all = Cgroup::at(&self.host, &self.cgroups).unwrap();
        let _ = all.kill();
        // What was killed ends in its own time, which a slow and busy machine takes more of than removal waits for.
        if std::thread::panicking() {
            let _ = all.remove();
        } else {
            until("its cgroup can be removed", || all.remove().ok());
        }
    }
}

/// A container's cgroup that runs nothing until this is dropped. In the freezer of version 1 what joins cannot even be killed:
/// like what waits for a server that is gone.
pub struct Frozen {
    file: PathBuf,
    thaw: &'static str,
}

impl Frozen {
    pub fn freeze(rig: &Rig, id: &str) -> Option<Self> {
        let cgroup = rig.cgroup(id);
        let ways = [
            (format!("/sys/fs/cgroup/freezer{}/freezer.state", cgroup.path()), "FROZEN", "THAWED"),
            (format!("/sys/fs/cgroup{}/cgroup.freeze", cgroup.path()), "1", "0"),
        ];
        ways.into_iter()
            .map(|(file, freeze, thaw)| (PathBuf::from(file), freeze, thaw))
            .find_map(|(file, freeze, thaw)| fs::write(&file, freeze).ok().map(|()| Self { file, thaw }))
    }
}

impl Frozen {
    pub fn is_legacy(&self) -> bool {
        self.thaw == "THAWED"
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fs::write(&self.file, self.thaw);
    }
}

fn unpack_image(image: &Path) {
    fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
    for name in
        ["sh", "cat", "id", "ls", "sleep", "tty", "seq", "head", "tr", "dd", "kill", "true", "stty", "setsid"]
    {
        symlink("busybox", image.join("bin").join(name)).unwrap();
    }
}

pub fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
    text.lines()
        .map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            // 2016-10-06T00:17:09.669794202Z
            assert_eq!(
                (time.len(), &time[10..11], &time[19..20], &time[29..]),
                (30, "T", ".", "Z"),
                "{line}"
            );
            rest.to_owned()
        })
        .collect()
}

/// What the lines of a log say, P and F put together.
pub fn content(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| {
            let mut fields = line.splitn(3, ' ');
            let end = match (fields.next(), fields.next()) {
                (Some("stdout" | "stderr"), Some("F")) => "\n",
                (Some("stdout" | "stderr"), Some("P")) => "",
                _ => panic!("{line}"),
            };
            format!("{}{end}", fields.next().unwrap_or_default())
        })
        .collect()
}

pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
}

pub fn signal(target: Target, signal: Signal, scope: Scope) -> Request {
    Request::Signal { target, signal: signal.as_raw(), scope }
}

pub fn pod_plan() -> PodPlan {
    PodPlan {
        network: PodNamespace::Own,
        ipc: PodNamespace::Own,
        uts: PodNamespace::Own,
        pid: PodNamespace::Host,
        hostname: Some("boat".to_owned()),
        sysctls: std::collections::BTreeMap::new(),
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

pub fn planned(spec: &oci::Spec, namespaces: &NamespacePlan) -> Plan {
    plan::plan(&PlanInput { spec, namespaces: namespaces.clone(), seccomp: None }).unwrap()
}

/// A process that joins a container.
pub fn exec(id: &str, container: &str, script: &str, streams: &[Stream]) -> StartExec {
    let process: ProcessPlan = planned(&spec(&["sh", "-c", script]), &namespaces()).process;
    StartExec {
        exec: id.to_owned(),
        container: container.to_owned(),
        process,
        streams: streams.to_vec(),
        deadline_ms: 10_000 * u64::from(slowness()),
    }
}

pub fn spec(args: &[&str]) -> oci::Spec {
    let mut root = oci::Root::default();
    root.set_readonly(Some(false));
    let mut spec = oci::Spec::default();
    spec.set_hostname(None)
        .set_root(Some(root))
        .set_mounts(Some(spec::default_mounts()))
        .set_linux(Some(oci::LinuxBuilder::default().build().unwrap()))
        .set_process(Some(process(args)));
    spec
}

fn process(args: &[&str]) -> oci::Process {
    let capabilities: oci::Capabilities = [oci::Capability::Kill].into_iter().collect();
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
        .env(["PATH=/bin".to_owned()])
        .cwd("/")
        .capabilities(sets)
        .no_new_privileges(true)
        .rlimits(Vec::new())
        .build()
        .unwrap()
}

/// A limit of open files that is asked for.
pub fn open_files(files: u64) -> oci::PosixRlimit {
    let limit = oci::PosixRlimitBuilder::default().typ(oci::PosixRlimitType::RlimitNofile);
    limit.soft(files).hard(files).build().unwrap()
}

pub fn edit_process(spec: &mut oci::Spec, edit: impl FnOnce(&mut oci::Process)) {
    let mut process = spec.process().clone().unwrap();
    edit(&mut process);
    spec.set_process(Some(process));
}

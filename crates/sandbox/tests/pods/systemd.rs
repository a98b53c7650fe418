//! Pods in scopes, with a stand-in for systemd that does to cgroups what systemd does.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sandbox::{Error, PodFilter, PodPhase, Scope, ScopeError, Scopes};

use crate::world::{World, until};

/// A systemd with faults to order. Its scopes are directories, and go when nothing is in them.
#[derive(Debug, Default)]
pub(crate) struct Systemd {
    /// Scopes that it knows, by name: description and cgroup.
    scopes: Mutex<Vec<(String, String, PathBuf)>>,
    ended: Mutex<Vec<String>>,
    /// Starts a scope and says that it failed.
    fail: AtomicBool,
    /// Says that it is late, and does nothing.
    is_late: AtomicBool,
    /// Puts the process nowhere.
    loses: AtomicBool,
    /// Doesn't notice that a scope is empty.
    is_blind: AtomicBool,
}

fn failed(why: &str) -> ScopeError {
    ScopeError::Failed(Arc::new(std::io::Error::other(why.to_owned())))
}

/// All trees that there are.
fn hierarchies() -> Vec<PathBuf> {
    let inside = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let all = inside.chain([PathBuf::from("/sys/fs/cgroup")]);
    all.filter(|tree| tree.join("cgroup.procs").exists()).collect()
}

/// The trees in which systemd keeps units, on hosts of all kinds.
fn trees() -> Vec<PathBuf> {
    let all = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(PathBuf::from);
    all.into_iter().filter(|tree| tree.join("cgroup.procs").exists()).collect()
}

impl Systemd {
    /// Has the trees as they are after a moment of systemd's.
    fn notice(&self) {
        if self.is_blind.load(Ordering::SeqCst) {
            return;
        }
        self.scopes.lock().unwrap().retain(|(.., scope)| {
            // Directories that have others in them can't be removed, nor can those with processes.
            let gone = |tree: &PathBuf| {
                let _in_use = std::fs::remove_dir(tree.join(scope));
                !tree.join(scope).exists()
            };
            !trees().iter().all(gone)
        });
    }

    fn names(&self) -> Vec<String> {
        self.notice();
        self.scopes.lock().unwrap().iter().map(|(name, ..)| name.clone()).collect()
    }
}

#[async_trait]
impl Scopes for Systemd {
    async fn start(&self, scope: &Scope) -> Result<(), ScopeError> {
        if self.is_late.load(Ordering::SeqCst) {
            return Err(ScopeError::Deadline(Arc::new(std::io::Error::other("ordered by the test"))));
        }
        let path = PathBuf::from(&scope.slice).join(&scope.name);
        for tree in trees() {
            std::fs::create_dir_all(tree.join(&path)).unwrap();
            if !self.loses.load(Ordering::SeqCst) {
                std::fs::write(tree.join(&path).join("cgroup.procs"), scope.pid.to_string()).unwrap();
            }
        }
        // Known from here on: what is empty goes at once.
        self.scopes.lock().unwrap().push((scope.name.clone(), scope.description.clone(), path));
        if self.fail.load(Ordering::SeqCst) { Err(failed("ordered by the test")) } else { Ok(()) }
    }

    async fn end(&self, name: &str) -> Result<(), ScopeError> {
        self.ended.lock().unwrap().push(name.to_owned());
        let known = |scopes: &[(String, String, PathBuf)]| {
            scopes.iter().find(|(known, ..)| known == name).map(|(.., path)| path.clone())
        };
        let Some(path) = known(&self.scopes.lock().unwrap()) else { return Ok(()) };
        for tree in trees() {
            let _before_5_14 = std::fs::write(tree.join(&path).join("cgroup.kill"), "1");
            until("the scope to be empty", || {
                let left: Vec<_> = walk(&tree.join(&path));
                left.iter().rev().for_each(|directory| drop(std::fs::remove_dir(directory)));
                if tree.join(&path).exists() { Err(format!("{left:?}")) } else { Ok(()) }
            })
            .await;
        }
        // As it does everywhere when a unit with a delegated cgroup stops.
        for directory in hierarchies().iter().flat_map(|tree| walk(&tree.join(&path)).into_iter().rev()) {
            let _not_there = std::fs::remove_dir(directory);
        }
        self.scopes.lock().unwrap().retain(|(known, ..)| known != name);
        Ok(())
    }

    async fn weigh(&self, _name: &str, _weight: u64) -> Result<(), ScopeError> {
        Ok(())
    }

    async fn list(&self, _pattern: &str) -> Result<Vec<(String, String)>, ScopeError> {
        self.notice();
        Ok(self.scopes.lock().unwrap().iter().map(|(name, text, _)| (name.clone(), text.clone())).collect())
    }
}

fn walk(top: &std::path::Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut at = 0;
    while let Some(directory) = found.get(at).cloned() {
        let inside = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(inside.filter(|path| path.is_dir()));
        at += 1;
    }
    found
}

/// A world whose systemd looks around all the time.
async fn world() -> (World, Arc<Systemd>) {
    let systemd = Arc::new(Systemd::default());
    let looks = Arc::downgrade(&systemd);
    tokio::spawn(async move {
        while let Some(systemd) = looks.upgrade() {
            systemd.notice();
            drop(systemd);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    (World::with_systemd(systemd.clone()).await, systemd)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_a_scope_that_goes_by_itself() {
    let (world, systemd) = world().await;
    let pod = world.pod("p").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    assert_eq!(systemd.names(), [format!("knarr-{pod}.scope")]);
    for tree in trees() {
        let is_used = |leaf: &str| {
            let leaf = tree.join(&world.parent).join(format!("knarr-{pod}.scope/{leaf}"));
            !std::fs::read_to_string(leaf.join("cgroup.procs")).unwrap().is_empty()
        };
        assert!(is_used("supervisor") && is_used(id.as_str()) && !is_used(""), "all are in leaves");
    }
    world.pods().stop(pod.as_str()).await.expect("stopped");
    assert_eq!(systemd.names(), Vec::<String>::new());
    assert!(systemd.ended.lock().unwrap().is_empty(), "nothing was asked for");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_cannot_be_leaves_nothing() {
    let (world, systemd) = world().await;
    for fault in [&systemd.fail, &systemd.is_late, &systemd.loses] {
        fault.store(true, Ordering::SeqCst);
        let error = world.pods().run(world.pod_config("p")).await.unwrap_err();
        match (&error, systemd.is_late.load(Ordering::SeqCst)) {
            (Error::TimedOut { step: "starting the scope", .. }, true) => {}
            (Error::Step { step: "starting the scope" | "looking for the scope", .. }, false) => {}
            _ => panic!("{error:?}"),
        }
        fault.store(false, Ordering::SeqCst);
        assert_eq!(systemd.names(), Vec::<String>::new());
        world.assert_clean().await;
    }
    world.pod("p").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_is_not_noticed_to_be_empty_is_ended() {
    let (world, systemd) = world().await;
    let pod = world.pod("p").await;
    systemd.is_blind.store(true, Ordering::SeqCst);
    world.pods().stop(pod.as_str()).await.expect("stopped");
    assert_eq!(*systemd.ended.lock().unwrap(), [format!("knarr-{pod}.scope")]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_are_found_again_and_those_without_a_pod_are_ended() {
    let (mut world, systemd) = world().await;
    let (kept, lost) = (world.pod("kept").await, world.pod("lost").await);
    let id = world.started(&kept, "exec sleep 1000").await;
    world.kill_daemon();
    std::fs::remove_dir_all(world.directory.path().join("state/pods").join(lost.as_str())).unwrap();
    systemd.scopes.lock().unwrap().push((
        format!("knarr-{}.scope", "0".repeat(64)),
        format!("knarr: pod {} of /another/daemon", "0".repeat(64)),
        PathBuf::from("nowhere"),
    ));
    systemd.is_blind.store(true, Ordering::SeqCst);
    world.open().await;
    systemd.is_blind.store(false, Ordering::SeqCst);
    assert_eq!(
        *systemd.ended.lock().unwrap(),
        [format!("knarr-{lost}.scope")],
        "another daemon's are its own"
    );
    let pods = world.pods().pods(&PodFilter::default());
    assert_eq!(pods.len(), 1);
    assert!(matches!(pods[0].phase, PodPhase::Ready), "{pods:?}");
    assert!(matches!(world.phase(&id), sandbox::ContainerPhase::Running { .. }));
    world.end().await;
}

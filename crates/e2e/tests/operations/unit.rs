//! The package in a machine of its own that systemd runs: installed, reloaded, killed, hung, upgraded and purged, while a pod lives;
//! and a new user's first hour, as it is written.
//!
//! `KNARR_E2E_PACKAGE` names the package, which the guest's scripts bring; without, nothing is installed anywhere.

use std::path::Path;
use std::process::Command;

use e2e::cri::ContainerState;
use e2e::{Client, Registry, config, node, patience, until};

const SOCKET: &str = "/run/knarr/knarr.sock";
const DROP_IN: &str = "/etc/knarr/config.toml.d/50-test.toml";

/// Where the package puts what a new user reads.
const FIRST_HOUR: &str = "/usr/share/doc/knarr/install.md";

/// There is one machine.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs a command of a shell, and gives its output and whether it went well.
fn sh(line: &str) -> (String, bool) {
    let ran = Command::new("sh").args(["-c", line]).output().unwrap();
    (String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned(), ran.status.success())
}

/// The same of one that has to go well.
fn done(line: &str) -> String {
    let (told, well) = sh(line);
    assert!(
        well,
        "{line}: {told}{}",
        sh("systemctl status knarr --no-pager -l; journalctl -u knarr -n 60 --no-pager").0
    );
    told
}

fn property(name: &str) -> String {
    done(&format!("systemctl show knarr --property {name} --value")).trim().to_owned()
}

/// The package, gone again at the end of the test.
struct Installed {
    package: String,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Installed {
    /// Nothing on a machine that isn't to be thrown away.
    async fn new() -> Option<Self> {
        let package = std::env::var("KNARR_E2E_PACKAGE").ok()?;
        let installed = Self { package, _alone: ALONE.lock().await };
        installed.install();
        Some(installed)
    }

    /// Anew, over what is there.
    fn install(&self) {
        done(&format!("dpkg --install {}", self.package));
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        sh(
            "dpkg --purge knarr; rm -rf /etc/systemd/system/knarr.service.d /etc/cni; systemctl daemon-reload",
        );
    }
}

/// A pod with a container that sleeps.
struct Alive {
    pod: String,
    container: String,
    pid: String,
}

impl Alive {
    async fn begin(client: &Client, registry: &Registry) -> Self {
        let logs = tempfile::tempdir().unwrap().keep();
        let sandbox = config::on_host_network(config::pod("unit", "", &logs));
        let image = registry.image("busybox:latest");
        client.pull(&image).await.unwrap();
        let pod = client.run_pod(sandbox.clone()).await.unwrap();
        let wanted = config::container("main", &image, &["sleep", "100000"]);
        let container = client.create(&pod, wanted, &sandbox).await.unwrap();
        client.start(&container).await.unwrap();
        let pid =
            client.exec(&container, &["sh", "-c", "cut -d' ' -f22 /proc/1/stat"], 30).await.unwrap().stdout;
        Self { pod, container, pid }
    }

    /// Whether the same process runs, and can be reached.
    async fn look(&self, what: &str) {
        let client = Client::new(Path::new(SOCKET));
        let status = client.container(&self.container).await.unwrap();
        assert_eq!(status.state, ContainerState::ContainerRunning as i32, "after {what}: {status:?}");
        let began = client.exec(&self.container, &["sh", "-c", "cut -d' ' -f22 /proc/1/stat"], 30).await;
        assert_eq!(began.unwrap().stdout, self.pid, "after {what} it is another process");
    }
}

/// Waits until systemd has started another process than this one, and it answers.
async fn restarted(before: &str) {
    until(node::PATIENCE * 2, "another daemon", || async {
        let (now, state) = (property("MainPID"), property("ActiveState"));
        if now != before && now != "0" && state == "active" { Ok(()) } else { Err((now, state)) }
    })
    .await;
}

#[tokio::test]
async fn pods_live_through_whatever_happens_to_the_service() {
    let Some(installed) = Installed::new().await else {
        println!("skipped: {} needs a machine of its own (KNARR_E2E_PACKAGE)", module_path!());
        return;
    };
    let registry = Registry::shared().await;
    assert_eq!((property("ActiveState"), property("UnitFileState")), ("active".into(), "enabled".into()));
    assert_eq!(property("Type"), "notify-reload");
    done("knarr version --daemon");
    let client = Client::new(Path::new(SOCKET));
    let alive = Alive::begin(&client, &registry).await;

    reloads(&alive).await;
    let first = property("MainPID");
    done(&format!("kill -KILL {first}"));
    restarted(&first).await;
    alive.look("a crash").await;
    hangs(&alive).await;
    done("systemctl stop knarr");
    done("systemctl start knarr");
    alive.look("a stop and a start").await;
    let before = property("MainPID");
    installed.install();
    assert_ne!(property("MainPID"), before, "the new version runs");
    alive.look("an upgrade").await;

    let client = Client::new(Path::new(SOCKET));
    client.stop_pod(&alive.pod).await.unwrap();
    client.remove_pod(&alive.pod).await.unwrap();
    done("dpkg --purge knarr");
    for path in ["/usr/bin/knarr", "/var/lib/knarr", "/etc/knarr"] {
        assert!(!Path::new(path).exists(), "{path} is left");
    }
}

/// `systemctl reload` waits for the new configuration, and fails with a wrong one.
async fn reloads(alive: &Alive) {
    let before = property("MainPID");
    std::fs::write(DROP_IN, "log_level = \"debug\"\n").unwrap();
    done("systemctl reload knarr");
    assert!(done("knarr config show").contains("log_level = \"debug\""));
    let log = done("journalctl -u knarr --no-pager");
    assert!(log.contains("the configuration has been read again") && log.contains("log_level"), "{log}");
    std::fs::write(DROP_IN, "log_level = \"loud\"\n").unwrap();
    let (told, well) = sh("systemctl reload knarr");
    assert!(!well, "a wrong configuration was taken: {told}");
    assert_eq!((property("ActiveState"), property("MainPID")), ("active".into(), before));
    assert!(property("StatusText").contains("50-test.toml:1:13"), "{}", property("StatusText"));
    std::fs::remove_file(DROP_IN).unwrap();
    done("systemctl reload knarr");
    alive.look("reloads").await;
}

/// A daemon that doesn't answer any more is ended and started again.
async fn hangs(alive: &Alive) {
    // Long enough for a busy machine, short enough for a test.
    let seconds = patience(std::time::Duration::from_secs(3)).as_secs();
    done(&format!(
        "mkdir -p /etc/systemd/system/knarr.service.d && printf '[Service]\\nWatchdogSec={seconds}\\n' \
         >/etc/systemd/system/knarr.service.d/watchdog.conf && systemctl daemon-reload && systemctl restart knarr"
    ));
    let before = property("MainPID");
    let begun = property("WatchdogTimestampMonotonic");
    until(node::PATIENCE, "a word that the daemon lives", || async {
        let now = property("WatchdogTimestampMonotonic");
        if now != begun && property("MainPID") == before { Ok(()) } else { Err(now) }
    })
    .await;
    done(&format!("kill -STOP {before}"));
    restarted(&before).await;
    // systemd's own words are in the kernel's log here.
    let log = done("journalctl --no-pager | grep -i watchdog");
    assert!(log.contains("knarr.service: Watchdog timeout"), "{log}");
    alive.look("a hang").await;
}

/// The commands of a chapter: lines that are indented by four.
fn commands(text: &str, chapter: &str) -> String {
    let chapters = text.split("\n## ").find(|found| found.starts_with(chapter));
    let chapter = chapters.unwrap_or_else(|| panic!("no chapter {chapter}"));
    chapter.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn the_first_hour_goes_as_it_is_written() {
    let Some(_installed) = Installed::new().await else {
        println!("skipped: {} needs a machine of its own (KNARR_E2E_PACKAGE)", module_path!());
        return;
    };
    let registry = Registry::shared().await;
    let text = std::fs::read_to_string(FIRST_HOUR).unwrap();
    // The one tool of another project's: what it is asked is asked below, too.
    let has_crictl = e2e::needs::program("crictl").is_some();
    let run = |chapter: &str| {
        let script = commands(&text, chapter);
        let script = if has_crictl {
            script
        } else {
            script.replace("crictl info", "true").replace("| grep -A3 NetworkReady", "")
        };
        done(&format!("set -e\n{script}"));
    };
    run("3. The cgroup driver");
    run("4. The pod network");
    let client = Client::new(Path::new(SOCKET));
    until(node::PATIENCE, "a network", || async {
        let status = client.runtime.clone().status(e2e::cri::StatusRequest { verbose: false }).await;
        let conditions = status.unwrap().into_inner().status.unwrap().conditions;
        if conditions.iter().all(|condition| condition.status) { Ok(()) } else { Err(conditions) }
    })
    .await;
    let logs = tempfile::tempdir().unwrap();
    let sandbox = config::pod("hour", "", logs.path());
    let image = registry.image("busybox:latest");
    client.pull(&image).await.unwrap();
    let pod = client.run_pod(sandbox.clone()).await.unwrap();
    let address = client.pod(&pod).await.unwrap().network.unwrap().ip;
    assert!(address.starts_with("10.85."), "{address}");
    let container =
        client.create(&pod, config::container("main", &image, &["true"]), &sandbox).await.unwrap();
    client.start(&container).await.unwrap();
    assert_eq!(client.exited(&container).await.exit_code, 0);
    assert!(done("systemctl list-units 'knarr-*.scope'").contains(&pod), "the pod is a scope of systemd's");
    client.stop_pod(&pod).await.unwrap();
    client.remove_pod(&pod).await.unwrap();
    let doctor = sh("knarr doctor").0;
    assert!(!doctor.contains("MISSING") && doctor.contains("driver systemd"), "{doctor}");
    sh("ip link delete cni0");
}

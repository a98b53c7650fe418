//! Debian's docker-registry on a port and a directory of its own, shared by the tests of one process while any needs it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::image;

/// A running registry; it ends when dropped.
pub struct Registry {
    process: Child,
    address: String,
    directory: TempDir,
}

static SHARED: Mutex<Weak<Registry>> = Mutex::const_new(Weak::new());

impl Registry {
    /// The registry that this process' tests share, with `busybox:latest` in it. It ends with its last user.
    pub async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(registry) = shared.upgrade() {
            return registry;
        }
        let registry = Arc::new(Self::start().await);
        image::busybox().push(&registry.address, "busybox:latest").await;
        *shared = Arc::downgrade(&registry);
        registry
    }

    /// Starts an empty registry.
    ///
    /// # Panics
    /// When docker-registry is not installed or doesn't answer.
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("e2e-registry-").tempdir().expect("a directory");
        let data = directory.path().join("data");
        Self::of(directory, &data, "").await
    }

    /// Who may ask a private registry.
    pub const USER: &str = "somebody";
    /// His password.
    pub const PASSWORD: &str = "sesame";

    /// Starts one with all that `open` has, also what comes to that later, for those who know the password.
    ///
    /// # Panics
    /// As [`Registry::start`].
    pub async fn private(open: &Self) -> Self {
        let directory = tempfile::Builder::new().prefix("e2e-registry-").tempdir().expect("a directory");
        let file = directory.path().join("htpasswd");
        std::fs::write(&file, format!("{}:{PASSWORD_HASH}\n", Self::USER)).expect("writing the password");
        let auth = format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", file.display());
        Self::of(directory, &open.directory.path().join("data"), &auth).await
    }

    async fn of(directory: TempDir, data: &Path, auth: &str) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let file = directory.path().join("config.yml");
        std::fs::write(&file, configuration(&address, data) + auth).expect("writing the configuration");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's docker-registry");
        let registry = Self { process, address, directory };
        let url = format!("http://{}/v2/", registry.address);
        crate::until(Duration::from_secs(20), "the registry", || reqwest::get(url.clone())).await;
        registry
    }

    /// "host:port".
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The reference of an image in this registry.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// bcrypt's hash of the password, with the least work that it allows.
const PASSWORD_HASH: &str = "$2b$04$Yp1Ql5zxa8.DhQ1GlcVxaORBz4/rs37obXIAFsx92.RqljlUo6Rnm";

fn configuration(address: &str, data: &Path) -> String {
    format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: \"{address}\"}}\n",
        data.display()
    )
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    listener.local_addr().expect("a bound socket").port()
}

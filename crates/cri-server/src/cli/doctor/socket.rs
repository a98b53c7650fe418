//! Who is at the socket, who may use it, and whether other runtimes are there.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use proto::runtime::v1::VersionRequest;
use proto::runtime::v1::runtime_service_client::RuntimeServiceClient;

use super::Subject;
use super::finding::{Finding, may};
use crate::cli::endpoint;

/// How long a daemon may take to say its name.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where others listen.
const OTHERS: [(&str, &str); 3] = [
    ("containerd", "/run/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("cri-dockerd", "/run/cri-dockerd.sock"),
];

pub(super) fn look(subject: &Subject<'_>) -> Vec<Finding> {
    let Ok(socket) = subject.config.socket() else { return Vec::new() };
    let mut found = vec![answer(socket)];
    found.extend(mode(socket));
    found.extend(OTHERS.iter().filter(|(_, path)| UnixStream::connect(path).is_ok()).map(|(name, path)| {
        // Two runtimes side by side are fine as long as kubelet knows which; see `kubelet`.
        Finding::ok("another runtime", format!("{name} answers at {path}; see kubelet's endpoint"))
    }));
    found
}

fn answer(socket: &Path) -> Finding {
    let (what, shown) = ("socket", socket.display());
    if !socket.exists() {
        let lack = may("no daemon runs by this configuration", "systemctl start knarr");
        return Finding::lacks(what, format!("there is no {shown}"), lack);
    }
    let executor = match crate::executor() {
        Ok(executor) => executor,
        Err(error) => {
            return Finding::lacks(what, error.to_string(), may("nobody can be asked", "free some memory"));
        }
    };
    let asked = executor.block_on(async {
        let mut runtime = RuntimeServiceClient::new(endpoint::channel(socket));
        tokio::time::timeout(PATIENCE, runtime.version(VersionRequest { version: "v1".to_owned() })).await
    });
    let lack = may("kubelet gets no answer", "journalctl -u knarr; systemctl restart knarr (pods go on)");
    match asked.map(|answer| answer.map(tonic::Response::into_inner)) {
        Ok(Ok(version)) if version.runtime_name == "knarr" => {
            Finding::ok(what, format!("knarr {} answers at {shown}", version.runtime_version))
        }
        Ok(Ok(version)) => {
            let lack = may("another runtime has our address", "stop it, or set listen to another socket");
            Finding::lacks(
                what,
                format!("{} {} answers at {shown}", version.runtime_name, version.runtime_version),
                lack,
            )
        }
        Ok(Err(status)) => Finding::lacks(what, format!("{shown}: {}", status.message()), lack),
        Err(_) => Finding::lacks(what, format!("{shown}: no answer within {PATIENCE:?}"), lack),
    }
}

/// Whoever may write to it is root on the node.
fn mode(socket: &Path) -> Option<Finding> {
    let meta = std::fs::metadata(socket).ok().filter(|meta| meta.file_type().is_socket())?;
    let seen = format!("mode {:o}, owner {}:{}", meta.mode() & 0o777, meta.uid(), meta.gid());
    match meta.mode() & 0o006 {
        0 => Some(Finding::ok("socket's mode", seen)),
        _ => {
            let lack = may("everybody on this node can start privileged containers", "");
            Some(
                Finding::lacks("socket's mode", seen, lack)
                    .remedied(format!("chmod o-rw {}", socket.display())),
            )
        }
    }
}

//! What went through the interfaces of pods, by one thread that visits their network namespaces.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use runtime::namespaces::{Interface, Visitor, visit_networks};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Kept;
use super::readings::Looks;
use crate::id::PodId;
use crate::registry::PodEntry;
use crate::supervisor::client::Client;

/// How long nothing may be found before the answer goes without the rest.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where CNI puts the interface of a pod's first network: kubelet's word for it, and the peers'.
const FIRST: &str = "eth0";

/// A pod to be visited.
struct Visit {
    pod: PodId,
    netns: PathBuf,
    client: Client,
    kept: Arc<Kept>,
}

/// The interfaces of each pod that has a network of its own and a supervisor that lives. What hangs keeps the thread that visits it, which
/// there are few of, and is not visited again until it comes back. Safe to cancel.
pub(super) async fn of<'a>(
    looks: &Looks,
    pods: impl Iterator<Item = &'a PodEntry>,
) -> HashMap<PodId, Vec<Interface>> {
    let visit = |pod: &PodEntry| {
        let (status, client) = (pod.status.as_ref()?, pod.client.clone()?);
        Some(Visit { pod: pod.id.clone(), netns: status.netns.clone()?, client, kept: pod.kept.clone() })
    };
    let mut found = HashMap::new();
    let visits: Vec<Visit> = pods.filter_map(visit).collect();
    if visits.is_empty() {
        return found;
    }
    let Ok(Ok(seat)) = timeout(PATIENCE, looks.visitors.clone().acquire_owned()).await else {
        tracing::warn!("all threads that look at pods' networks hang: those are left out of the usage");
        return found;
    };
    let (sender, mut interfaces) = mpsc::unbounded_channel();
    let begun = visit_networks(move |visitor| {
        let _seat = seat;
        for Visit { pod, netns, client, kept } in visits {
            if kept.visited.hangs() {
                continue;
            }
            let _visit = kept.visited.begin();
            let seen = look(visitor, &netns, &client);
            // Nobody waits any more.
            if sender.send((pod, seen)).is_err() {
                break;
            }
        }
    });
    if let Err(error) = begun {
        tracing::warn!(%error, "no thread that could look at pods' networks");
    }
    while let Ok(Some((pod, seen))) = timeout(PATIENCE, interfaces.recv()).await {
        match seen {
            Ok(seen) if seen.is_empty() => {}
            Ok(seen) => drop(found.insert(pod, seen)),
            Err(error) => tracing::debug!(%pod, %error, "the pod's network is left out of the usage"),
        }
    }
    found
}

/// Safe against a pid that is somebody else's by now: the path is the supervisor's own for as long as that lives, and if it lives
/// after the path was opened, it lived then.
fn look(visitor: &mut Visitor, netns: &PathBuf, client: &Client) -> io::Result<Vec<Interface>> {
    let namespace = File::open(netns)?;
    if !client.is_there() {
        return Err(io::ErrorKind::NotConnected.into());
    }
    let mut seen = visitor.interfaces(namespace.as_fd())?;
    seen.sort_by_key(|interface| interface.name != FIRST);
    Ok(seen)
}

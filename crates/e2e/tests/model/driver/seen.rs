//! Answers, as the model speaks of them.

use std::str::FromStr;

use e2e::cri;

use super::Ids;
use super::request::{LABEL, Reply, UNIT, VARIANT};
use crate::model::{ContainerSeen, Phase, PodSeen, Seen};
use crate::script::{ContainerName, PodName, Variant};

/// What a reply says.
///
/// # Errors
/// When it tells of something that isn't of this run, or contradicts itself.
pub fn of(reply: Reply, (ids, run): (&mut Ids, usize)) -> Result<Seen, String> {
    Ok(match reply {
        Reply::Done => Seen::Done,
        Reply::Made(id) => Seen::Made(ids.number(&id)),
        Reply::Refused(status) => Seen::Refused(status.code(), status.message().to_owned()),
        Reply::Output(output) => Seen::Output(output.exit_code, output.stdout),
        Reply::Pod(pod) => Seen::Pod(pod_seen(&listed(*pod), (ids, run))?),
        Reply::Container(container) => Seen::Container(container_status(&container, (ids, run))?),
        Reply::Pods(pods) => {
            once(pods.iter().map(|pod| &pod.id))?;
            Seen::Pods(pods.iter().map(|pod| pod_seen(pod, (&mut *ids, run))).collect::<Result<_, _>>()?)
        }
        Reply::Containers(containers) => {
            once(containers.iter().map(|container| &container.id))?;
            let seen = containers.iter().map(|container| listed_container(container, (&mut *ids, run)));
            Seen::Containers(seen.collect::<Result<_, _>>()?)
        }
        Reply::Image(is_there) => Seen::Image(is_there),
    })
}

/// A list that has everything once.
fn once<'a>(ids: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut known = std::collections::BTreeSet::new();
    for id in ids {
        if !known.insert(id) {
            return Err(format!("{id} is listed twice"));
        }
    }
    Ok(())
}

/// What lists show of a pod's status.
fn listed(pod: cri::PodSandboxStatus) -> cri::PodSandbox {
    let cri::PodSandboxStatus { id, metadata, state, labels, .. } = pod;
    cri::PodSandbox { id, metadata, state, labels, ..Default::default() }
}

/// The script's name of something with these labels.
fn name<T: FromStr<Err = String>>(
    labels: &std::collections::HashMap<String, String>,
    run: usize,
) -> Result<T, String> {
    let label = labels.get(LABEL).map_or("", String::as_str);
    let of_run = label.strip_prefix(&format!("{run} "));
    of_run.ok_or_else(|| format!("this is run {run}, but \"{label}\" is shown"))?.parse()
}

fn pod_seen(pod: &cri::PodSandbox, (ids, run): (&mut Ids, usize)) -> Result<PodSeen, String> {
    let name: PodName = name(&pod.labels, run)?;
    let attempt = pod.metadata.as_ref().map(|metadata| metadata.attempt);
    if attempt != Some(name.attempt.into()) {
        return Err(format!("{name} is shown as attempt {attempt:?}"));
    }
    let is_other = pod.labels.get(VARIANT).is_some_and(|word| word == "other");
    Ok(PodSeen {
        id: ids.number(&pod.id),
        name,
        variant: if is_other { Variant::Other } else { Variant::Usual },
        is_ready: pod.state == cri::PodSandboxState::SandboxReady as i32,
    })
}

fn phase(state: i32) -> Phase {
    match cri::ContainerState::try_from(state) {
        Ok(cri::ContainerState::ContainerCreated) => Phase::Created,
        Ok(cri::ContainerState::ContainerRunning) => Phase::Running,
        Ok(cri::ContainerState::ContainerExited) => Phase::Exited,
        Ok(cri::ContainerState::ContainerUnknown) | Err(_) => Phase::Unknown,
    }
}

fn listed_container(
    container: &cri::Container,
    (ids, run): (&mut Ids, usize),
) -> Result<ContainerSeen, String> {
    let name: ContainerName = name(&container.labels, run)?;
    let attempt = container.metadata.as_ref().map(|metadata| metadata.attempt);
    if attempt != Some(name.attempt.into()) {
        return Err(format!("{name} is shown as attempt {attempt:?}"));
    }
    let (id, pod) = (ids.number(&container.id), ids.number(&container.pod_sandbox_id));
    Ok(ContainerSeen {
        id,
        pod: Some(pod),
        name,
        phase: phase(container.state),
        exit_code: None,
        shares: None,
    })
}

/// A status says what it says of times: an order.
fn container_status(
    status: &cri::ContainerStatus,
    (ids, run): (&mut Ids, usize),
) -> Result<ContainerSeen, String> {
    let times: &[i64] = match phase(status.state) {
        Phase::Created | Phase::Unknown => &[status.created_at],
        Phase::Running => &[status.created_at, status.started_at],
        // One that could not be started never was.
        Phase::Exited if status.started_at == 0 => &[status.created_at, status.finished_at],
        Phase::Exited => &[status.created_at, status.started_at, status.finished_at],
    };
    if times[0] == 0 || !times.is_sorted() {
        return Err(format!("times that go back: {status:?}"));
    }
    let linux = status.resources.as_ref().and_then(|resources| resources.linux.as_ref());
    let shares = linux.map(|linux| linux.cpu_shares / UNIT - 1);
    Ok(ContainerSeen {
        id: ids.number(&status.id),
        pod: None,
        name: name(&status.labels, run)?,
        phase: phase(status.state),
        exit_code: Some(status.exit_code),
        shares: shares.and_then(|shares| u8::try_from(shares).ok()),
    })
}

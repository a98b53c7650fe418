//! All interfaces of a container: one for each network that it joins, in their order, all of them or none.
//!
//! The first is `eth0`, the next `eth1` and so on. What there can be only one of (host ports, addresses and hardware
//! addresses that were asked for) goes to the first; name service settings, traffic limits, cgroup and annotations go to
//! each. How a single attachment is made and ends is `attachments`' affair.

use std::sync::Arc;

use crate::attachment::{Attachment, AttachmentId};
use crate::attachments::Attachments;
use crate::error::Error;
use crate::locks::{Lock, Locks};
use crate::networks::Added;

/// The interfaces of all containers.
#[derive(Debug)]
pub(crate) struct Interfaces {
    attachments: Arc<Attachments>,
    /// A detach has to see what an attach that was given up makes still.
    containers: Arc<Locks>,
}

impl Interfaces {
    pub(crate) fn new(attachments: Arc<Attachments>) -> Interfaces {
        Interfaces { attachments, containers: Arc::default() }
    }

    async fn lock(&self, container_id: &str) -> Lock {
        let id = AttachmentId { container_id: container_id.to_owned(), ifname: String::new() };
        self.containers.lock(id).await
    }

    /// See [`crate::Networks::join`].
    pub(crate) async fn join(&self, handler: &str, wanted: &Attachment) -> Result<Vec<Added>, Error> {
        let _lock = self.lock(&wanted.container_id).await;
        let mut joined = Vec::new();
        for (at, chosen) in self.attachments.chosen(handler).await?.into_iter().enumerate() {
            match self.attachments.add(&interface(at, wanted), chosen).await {
                Ok(added) => joined.push(added),
                Err(failure) => return Err(self.undo(joined, wanted, failure).await),
            }
        }
        Ok(joined)
    }

    async fn undo(&self, joined: Vec<Added>, wanted: &Attachment, failure: Error) -> Error {
        let mut undo = Vec::new();
        for Added { ifname, .. } in joined.into_iter().rev() {
            let done = Attachment { ifname, ..named(wanted) };
            undo.extend(self.attachments.del(&done).await.err());
        }
        if undo.is_empty() { failure } else { Error::Undo { failure: Box::new(failure), undo } }
    }

    /// See [`crate::Networks::leave`].
    pub(crate) async fn leave(&self, wanted: &Attachment) -> Result<(), Error> {
        let _lock = self.lock(&wanted.container_id).await;
        let mut failed = Vec::new();
        for id in self.attachments.recorded(&wanted.container_id)?.into_iter().rev() {
            let done = Attachment { ifname: id.ifname.clone(), ..named(wanted) };
            if let Err(failure) = self.attachments.del(&done).await {
                failed.push((id.ifname, failure));
            }
        }
        all_of(&wanted.container_id, failed)
    }

    /// See [`crate::Networks::check_all`].
    pub(crate) async fn check(&self, wanted: &Attachment) -> Result<(), Error> {
        let _lock = self.lock(&wanted.container_id).await;
        let recorded = self.attachments.recorded(&wanted.container_id)?;
        if recorded.is_empty() {
            let AttachmentId { container_id, ifname } = interface(0, wanted).id();
            return Err(Error::NotAttached { container_id, ifname });
        }
        for AttachmentId { ifname, .. } in recorded {
            self.attachments.check(&Attachment { ifname, ..named(wanted) }).await?;
        }
        Ok(())
    }

    /// See [`crate::Networks::interfaces`].
    pub(crate) fn of(&self, container_id: &str) -> Result<Vec<Added>, Error> {
        let recorded = self.attachments.recorded(container_id)?;
        let attached = recorded.iter().map(|id| self.attachments.attached(id));
        attached.filter_map(Result::transpose).collect()
    }
}

/// What is needed to find an attachment again.
fn named(wanted: &Attachment) -> Attachment {
    Attachment {
        container_id: wanted.container_id.clone(),
        netns: wanted.netns.clone(),
        ..Attachment::default()
    }
}

/// What is asked of the network that is joined at this place.
fn interface(at: usize, wanted: &Attachment) -> Attachment {
    let ifname = format!("eth{at}");
    if at == 0 {
        return Attachment { ifname, ..wanted.clone() };
    }
    Attachment {
        ifname,
        port_mappings: Vec::new(),
        ip_ranges: Vec::new(),
        ips: Vec::new(),
        mac: None,
        infiniband_guid: None,
        ..wanted.clone()
    }
}

/// One error for what failed at the interfaces of a container.
fn all_of(container_id: &str, mut failed: Vec<(String, Error)>) -> Result<(), Error> {
    if failed.len() < 2 {
        return failed.pop().map_or(Ok(()), |(_, failure)| Err(failure));
    }
    let ifname = failed.iter().map(|(ifname, _)| ifname.as_str()).collect::<Vec<_>>().join(" and ");
    let each = |(_, failure)| match failure {
        Error::Detach { failures, .. } => failures,
        other => vec![other],
    };
    let failures = failed.into_iter().flat_map(each).collect();
    Err(Error::Detach { container_id: container_id.to_owned(), ifname, failures })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::{Bandwidth, PortMapping, Protocol};

    #[test]
    fn what_there_can_be_one_of_is_the_first_interfaces() {
        let mapping =
            PortMapping { host_port: 80, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
        let wanted = Attachment {
            container_id: "c".into(),
            port_mappings: vec![mapping],
            bandwidth: Some(Bandwidth { ingress_rate: 1000, ..Bandwidth::default() }),
            ips: vec!["10.0.0.7".into()],
            mac: Some("02:00:00:00:00:01".into()),
            cgroup_path: Some("/k".into()),
            ..Attachment::default()
        };
        let (first, second) = (interface(0, &wanted), interface(1, &wanted));
        assert_eq!((first.ifname.as_str(), second.ifname.as_str()), ("eth0", "eth1"));
        assert_eq!((first.port_mappings.len(), first.ips.len(), first.mac.is_some()), (1, 1, true));
        assert_eq!((second.port_mappings.len(), second.ips.len(), second.mac.is_some()), (0, 0, false));
        assert_eq!((second.bandwidth, second.cgroup_path), (wanted.bandwidth, wanted.cgroup_path));
    }
}

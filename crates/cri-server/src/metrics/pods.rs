//! The figures of pods, their supervisors and their mailboxes.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use sandbox::{Figures, Pods};

use super::process;
use super::table::{self, Described};

/// Reads the pods when it is asked.
#[derive(Debug)]
pub(super) struct PodFigures(pub(super) Pods);

impl Collector for PodFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = self.0.figures();
        by_state(&figures, &mut encoder)?;
        standing(&figures, &mut encoder)?;
        let contacts = &figures.contacts;
        let changes = [
            ("broken", contacts.broken as f64),
            ("regained", contacts.regained as f64),
            ("lost", contacts.lost as f64),
        ];
        let help = "Connections to supervisors that broke off, supervisors that answered again, supervisors that ended although their pods were wanted";
        table::counters(&mut encoder, ("supervisor_contacts", help, None), ("change", changes))
    }
}

fn by_state(figures: &Figures, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let pods = [
        ("making", figures.pods_making as f64),
        ("ready", figures.pods_ready as f64),
        ("notready", figures.pods_not_ready as f64),
    ];
    table::labelled_gauges(encoder, ("pods", "Pod sandboxes, by state", None), ("state", pods))?;
    let containers = [
        ("created", figures.containers_created as f64),
        ("running", figures.containers_running as f64),
        ("exited", figures.containers_exited as f64),
    ];
    table::labelled_gauges(encoder, ("containers", "Containers, by state", None), ("state", containers))
}

fn standing(figures: &Figures, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let memory: u64 = figures.supervisors.iter().filter_map(|pid| process::proportional(*pid)).sum();
    let gauges: [(Described, f64); 7] = [
        (("supervisors", "Supervisors of pods that are ready", None), figures.supervisors.len() as f64),
        (
            (
                "supervisors_memory",
                "Memory of supervisors, shared pages in proportion (PSS)",
                Some(Unit::Bytes),
            ),
            memory as f64,
        ),
        (
            (
                "supervisors_out_of_touch",
                "Supervisors of pods that are ready which are being looked for",
                None,
            ),
            figures.out_of_touch as f64,
        ),
        (("mailbox_wishes", "Requests that wait in the mailboxes of all pods", None), figures.wishes as f64),
        (
            ("mailbox_wishes_most", "Requests that wait in the fullest mailbox", None),
            figures.fullest_mailbox as f64,
        ),
        (("mailbox_places", "Requests that a mailbox takes", None), figures.mailbox as f64),
        (("event_listeners", "Clients that listen to events", None), figures.listeners as f64),
    ];
    table::gauges(encoder, gauges)
}

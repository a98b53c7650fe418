//! How the kernel schedules a process and its input and output, and which personality it has.

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::build::refuse;
use crate::spec::oci;

/// What is asked of the kernel's schedulers. All of it is inherited where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scheduling {
    /// Execution domain, as personality(2) takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personality: Option<u32>,
    /// Class and priority, as ioprio_set(2) takes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<u16>,
    /// Policy of the processor's scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// The fields of struct sched_attr (sched_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields of struct sched_attr; times are in nanoseconds")]
pub struct Policy {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

impl Scheduling {
    pub(super) fn is_inherited(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn read(spec: &oci::Process) -> Result<Self, Refusal> {
        Ok(Self {
            personality: None,
            io_priority: spec.io_priority().as_ref().map(io_priority).transpose()?,
            policy: spec.scheduler().as_ref().map(policy).transpose()?,
        })
    }
}

/// PER_LINUX and PER_LINUX32 of linux/personality.h.
pub(super) fn personality(asked: &oci::LinuxPersonality) -> Result<u32, Refusal> {
    // The specification has no flags yet (config-linux.md, "Personality").
    if asked.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(refuse("linux.personality.flags", "are not supported"));
    }
    Ok(match asked.domain() {
        oci::LinuxPersonalityDomain::PerLinux => 0,
        oci::LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

fn io_priority(asked: &oci::LinuxIOPriority) -> Result<u16, Refusal> {
    let class = match asked.class() {
        oci::IOPriorityClass::IoprioClassRt => 1,
        oci::IOPriorityClass::IoprioClassBe => 2,
        oci::IOPriorityClass::IoprioClassIdle => 3,
    };
    let priority = u16::try_from(asked.priority()).ok().filter(|priority| *priority <= 7);
    let priority = priority.ok_or_else(|| {
        refuse("process.ioPriority.priority", format!("{} is not from 0 to 7", asked.priority()))
    })?;
    // IOPRIO_CLASS_SHIFT of linux/ioprio.h.
    Ok(class << 13 | priority)
}

fn policy(asked: &oci::Scheduler) -> Result<Policy, Refusal> {
    use oci::{LinuxSchedulerFlag as F, LinuxSchedulerPolicy as P};
    let policy = match asked.policy() {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIso => return Err(refuse("process.scheduler.policy", "Linux has no SCHED_ISO")),
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
    };
    let mut flags = 0;
    for (at, flag) in asked.flags().iter().flatten().enumerate() {
        flags |= match flag {
            F::SchedResetOnFork => 1,
            F::SchedFlagReclaim => 2,
            F::SchedFlagDLOverrun => 4,
            F::SchedFlagKeepPolicy => 8,
            F::SchedFlagKeepParams => 16,
            // They come with values that the specification has no place for.
            F::SchedFlagUtilClampMin | F::SchedFlagUtilClampMax => {
                return Err(refuse(format!("process.scheduler.flags[{at}]"), "is not supported"));
            }
        };
    }
    let nice = asked.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(refuse("process.scheduler.nice", format!("{nice} is not from -20 to 19")));
    }
    let priority = asked.priority().unwrap_or(0);
    let priority = u32::try_from(priority)
        .map_err(|_| refuse("process.scheduler.priority", format!("{priority} is negative")))?;
    Ok(Policy {
        policy,
        flags,
        nice,
        priority,
        runtime: asked.runtime().unwrap_or(0),
        deadline: asked.deadline().unwrap_or(0),
        period: asked.period().unwrap_or(0),
    })
}

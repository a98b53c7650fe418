//! What the daemon and a supervisor say to each other, and how it is packed.
//!
//! One SOCK_SEQPACKET socket a pod; a packet is a [`frame`]: a header and a JSON body, with descriptors
//! beside it.
//!
//! | who | sends | answered by |
//! |---|---|---|
//! | daemon | [`Request`] with a sequence number of its choice | one [`Reply`] with the same number, in any order |
//! | supervisor | [`Event`] with the number 0 | nothing |
//!
//! The two may be of different versions after an upgrade. A request that the supervisor can't read, or that
//! has a field it doesn't know, is answered by [`Reply::Unknown`], never guessed at: what is not understood
//! could be a limit. Unknown fields of replies and events are passed over. Released messages only gain
//! variants and optional fields, which are left out when they have no value, so that an older supervisor
//! isn't troubled by them; the bytes of each version are kept in `tests/golden`.
//!
//! Not here: what a supervisor does with a request (`supervisor`), and waiting for it without blocking (the
//! daemon).

pub mod frame;
mod message;
mod socket;

pub use message::{
    AttachedInput, ContainerSnapshot, ContainerState, DetachReason, Event, ExecExit, Exit, JournalCopy,
    LogLimits, Message, PodCreated, Reply, Request, Scope, Snapshot, StartContainer, StartExec, Stdin,
    Stream, Target,
};
pub use socket::{Listener, MAX_DESCRIPTORS, Received, Socket, WireError};

/// The version of frames and messages that this side speaks. Counted up when an older side could
/// misunderstand.
pub const VERSION: u16 = 1;

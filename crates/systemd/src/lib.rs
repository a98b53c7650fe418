//! systemd's manager over D-Bus, as far as scopes go: a scope is started around a process, given a CPU weight, ended, listed.
//!
//! One connection to the system bus, made when it is first needed and again when it broke; every call has a deadline, and
//! of all signals only the ends of jobs are asked for. The protocol (D-Bus Specification 0.43; org.freedesktop.systemd1(5))
//! is spoken by this crate itself: seven methods of the manager and a few of the bus, all of fixed form, need no library that
//! brings an executor and proxies along.
//!
//! Not here: what a pod is, which slice it belongs to, and anything of cgroups.

mod address;
mod connection;
mod error;
mod incoming;
mod manager;
mod message;
#[cfg(test)]
mod tests;
mod units;

pub use error::Error;
pub use manager::Manager;
pub use units::{Scope, Unit};

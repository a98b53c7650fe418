//! The reference plugins and ours are told the same stories, and what both sides answer and leave must be equal: results,
//! links, addresses, routes, rules, neighbours, sysctls, files; of the firewall, what it does to traffic.
//!
//! A case ([`case`]; the tables are in [`cases`]) is played by Debian's plugins and by ours, each in namespaces of its own
//! ([`scratch`]), and compared step by step ([`compare`]). Where ours differs on purpose the case says where and why, and
//! fails once it doesn't differ any more. [`proof`] shows that the comparison notices. Not here: the daemon, which runs the
//! same code without a process (`crates/cni`).
//!
//! `KNARR_REFERENCE_ONLY=<part of a name>` plays some, `KNARR_REFERENCE_TRACE=1` shows every call, and
//! `KNARR_REFERENCE_OTHERS=<directory>` holds other plugins against Debian's: its own show that a case isn't a matter of luck.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod case;
mod cases;
mod compare;
mod differences;
mod names;
mod plugin;
mod probe;
mod proof;
mod run;
mod scratch;
mod side;
mod snapshot;

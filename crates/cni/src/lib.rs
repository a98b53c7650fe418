//! Pod networks: network configurations, CNI plugin invocation, and the built-in bridge network.
//!
//! [`Networks`] is the whole of it for a caller: opened once on its directories it watches the configuration directory,
//! says whether a network is usable ([`Networks::status`]), attaches a network namespace ([`Networks::add`], or to several
//! networks [`Networks::join`]), detaches it ([`Networks::del`], [`Networks::leave`]) and collects what nobody owns any more ([`Networks::gc`]).
//!
//! The specification followed is CNI 1.1.0 (containernetworking/cni, SPEC.md), with the configuration and result types of
//! every version published before it.
//!
//! What isn't here: pods, CRI, and making or pinning network namespaces. An attachment names a namespace by path; who
//! made it, and for what, is the caller's affair.

mod attachment;
mod attachments;
mod builtin;
mod builtin_network;
mod cache;
mod capabilities;
mod carrier;
mod claim;
mod command;
mod conf;
mod directories;
mod error;
pub mod executable;
mod files;
mod ground;
mod interfaces;
mod locks;
mod network;
mod networks;
mod orphans;
mod plugin;
mod quiet;
mod readiness;
mod request;
mod result;
mod served;
mod setup;
mod survey;
mod version;
mod watch;

/// The checks of the fuzz targets, which alone are built with this.
#[cfg(fuzzing)]
#[path = "../fuzz/src/mod.rs"]
pub mod fuzz;

pub use attachment::{Attachment, AttachmentId, Bandwidth, IpRange, PortMapping, Protocol};
pub use builtin_network::{BuiltinNetwork, Subnet};
pub use command::Command;
pub use error::Error;
pub use networks::{Added, Config, Networks, Prepared, Selection};
pub use readiness::Status;
pub use result::{Cidr, Dns, Interface, IpConfig, NetworkResult, Route};
pub use survey::{Surveyed, SurveyedNetwork, survey};
pub use version::Version;

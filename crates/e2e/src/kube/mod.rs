//! A real Kubernetes on the node under test: a kubelet on its own, or a cluster of one node, from outside.
//!
//! A rig stands on a [`Ground`] (directories, a network namespace, the machine's settings that kubelet changes), has a
//! [`Runtime`] (the built daemon, or containerd for comparison) and a kubelet on it: [`Standalone`] with static pods only,
//! [`Cluster`] with a control plane. [`Space`] is what one scenario sees of a cluster: a namespace, kubectl, observations.
//! Not here: the scenarios (`tests/kube`), and how the programs of Kubernetes are built (`kube/build`).

mod cluster;
mod containerd;
mod control_plane;
pub mod figures;
mod ground;
mod http;
mod images;
mod kubelet;
mod process;
mod programs;
mod runtime;
mod settings;
mod space;
mod standalone;

pub use self::cluster::Cluster;
pub use self::ground::Ground;
pub use self::http::Http;
pub use self::images::push as push_images;
pub use self::process::Process;
pub use self::programs::Programs;
pub use self::runtime::{Kind, Runtime};
pub use self::space::{Ran, Space};
pub use self::standalone::Standalone;

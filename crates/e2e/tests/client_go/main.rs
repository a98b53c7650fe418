//! kubectl's library speaks to the daemon's addresses: k8s.io/client-go, driven by the program in `client_go/`.
//!
//! [`remote`] has commands and attachments, [`ports`] forwarded ports; [`figures`] has Prometheus' library read metrics. What clients may do wrong is not here: that is
//! tested in `streaming`, by clients of our own.

mod figures;
mod ports;
#[allow(dead_code, reason = "what the tests of plugins need")]
mod program;
mod remote;

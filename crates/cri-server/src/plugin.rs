//! This program as a CNI plugin: a link to it in a plugin directory, called `bridge`, `host-local`, `loopback` or `portmap`.
//!
//! The protocol is `cni`'s affair. Nothing of the daemon is started, read or written.

use std::io::{self, Write};
use std::process::ExitCode;

/// Carries out the call in the environment and on standard input.
pub(crate) fn run(name: &str) -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_none() {
        // Somebody tries it by hand.
        let _ = writeln!(io::stderr(), "CNI plugin {name}, of knarr {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let environment = |name: &str| std::env::var(name).ok();
    cni::executable::run(name, &environment, &mut io::stdin().lock(), &mut io::stdout().lock())
}

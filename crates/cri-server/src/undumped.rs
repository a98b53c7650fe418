//! No core file of the daemon is ever written: registries' credentials, tokens of streams and what passes through them would lie on
//! the disk, or with whoever collects such files. Nobody but the system's administrator looks into its memory either.
//!
//! Programs that it starts are not concerned: execve(2) sets it back, and limits of core files are passed on as they are.

/// Has the kernel keep to it, from now on.
pub(crate) fn keep_undumped() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "a crash of the daemon can leave its memory in a core file");
    }
}

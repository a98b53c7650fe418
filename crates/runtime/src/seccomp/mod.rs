//! Seccomp filters: from a profile as it is written to a program for the kernel.
//!
//! ```text
//! text ─► parse ─► profile ─► resolve (numbers) ─► bpf ─► SeccompFilter
//! ```
//! Not here: which profile a container gets (the caller's), installing a filter (`init`).

#[expect(
    missing_docs,
    reason = "a part of the compiler, public for profiles that are made by a program and for tests"
)]
pub mod architecture;
#[expect(missing_docs, reason = "the same")]
pub mod bpf;
#[expect(missing_docs, reason = "the same")]
pub mod parse;
#[expect(missing_docs, reason = "the same")]
pub mod profile;
#[expect(missing_docs, reason = "the same")]
pub mod resolve;

pub use architecture::Architecture;
pub use parse::{Surroundings, parse};
pub use profile::Profile;

use crate::plan::SeccompFilter;

/// The program of a profile on this machine.
///
/// # Errors
/// Why there is none.
pub fn compile(profile: &Profile) -> Result<SeccompFilter, String> {
    let sections = resolve::sections(profile, Architecture::NATIVE);
    let program = bpf::compile(&sections).map_err(|needed| {
        format!("takes {needed} instructions, and the kernel has no room for more than {}", bpf::LONGEST)
    })?;
    Ok(SeccompFilter { flags: profile.flags, program: program.into() })
}

/// Major and minor version of the running kernel, which parts of a profile may depend on.
pub fn kernel() -> (u32, u32) {
    parse::version(&rustix::system::uname().release().to_string_lossy()).unwrap_or_default()
}

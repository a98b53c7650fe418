//! `knarr man`: manual pages from the same source as `--help`.

use std::error::Error;
use std::path::Path;

use clap::CommandFactory as _;

use super::Cli;

/// Writes `knarr.1` and a page for each sub-command, such as `knarr-config-reload.1`, into a directory.
pub(crate) fn run(directory: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(directory)?;
    Ok(clap_mangen::generate_to(Cli::command(), directory)?)
}

//! `knarr config`: the default configuration as TOML, and the check of a file.

use std::io::{self, Write};

use super::ConfigCommand;
use crate::config::Config;

/// Runs the sub-command; the error is for the person at the terminal.
pub(crate) fn run(command: ConfigCommand) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        ConfigCommand::Default => io::stdout().write_all(toml::to_string(&Config::default())?.as_bytes())?,
        ConfigCommand::Check { file } => {
            Config::read(&file)?.check()?;
            writeln!(io::stdout(), "{}: ok", file.display())?;
        }
    }
    Ok(())
}

//! `knarr version`: of this program, and of the daemon if asked for.

use std::error::Error;
use std::io::{self, Write};

use clap::Args;

use super::endpoint::{ClientError, Endpoint};
use crate::own_service::v1::VersionRequest;
use crate::own_service::v1::node_client::NodeClient;

/// `knarr version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Ask the daemon for its version too
    #[arg(long)]
    daemon: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// Runs the sub-command; the error is for the person at the terminal.
pub(crate) fn run(arguments: &VersionArgs) -> Result<(), Box<dyn Error>> {
    writeln!(io::stdout(), "knarr {}", env!("CARGO_PKG_VERSION"))?;
    if arguments.daemon {
        let version = crate::finish(crate::executor()?, daemon(&arguments.endpoint))?;
        writeln!(io::stdout(), "daemon {version}")?;
    }
    Ok(())
}

async fn daemon(endpoint: &Endpoint) -> Result<String, ClientError> {
    let mut node = NodeClient::new(endpoint.connect().await?);
    Ok(node.version(VersionRequest {}).await?.into_inner().version)
}

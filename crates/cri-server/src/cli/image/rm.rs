//! `knarr image rm` and `knarr image prune`.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::table::{print, print_json, size};
use super::{Client, ClientError, Outcome, PruneArgs, RmArgs, ls};
use crate::cli::terminal::clean;
use crate::own_service::v1;

pub(super) async fn remove(mut client: Client, arguments: RmArgs) -> Outcome<ExitCode> {
    let RmArgs { images, force } = arguments;
    let answer = client.remove(v1::RemoveImageRequest { images, force }).await.map_err(ClientError::from)?;
    let mut outcome = ExitCode::SUCCESS;
    for removal in answer.into_inner().removals {
        let v1::Removal { untagged, removed, error, .. } = removal;
        if !error.is_empty() {
            writeln!(io::stderr(), "knarr: {}", clean(&error))?;
            outcome = ExitCode::FAILURE;
        } else if untagged.is_empty() {
            print(format!("removed {removed}\n").as_bytes())?;
        } else {
            print(format!("untagged {untagged}\n").as_bytes())?;
        }
    }
    Ok(outcome)
}

pub(super) async fn prune(mut client: Client, arguments: PruneArgs) -> Outcome<()> {
    let PruneArgs { all, dry_run, json } = arguments;
    let answer = client.prune(v1::PruneImagesRequest { all, dry_run }).await.map_err(ClientError::from)?;
    let v1::PruneImagesResponse { images, freed_bytes } = answer.into_inner();
    if json {
        let images: Vec<Value> = images.iter().map(ls::json).collect();
        return Ok(print_json(&json!({ "images": images, "freedBytes": freed_bytes, "dryRun": dry_run }))?);
    }
    let (verb, total) = if dry_run { ("would remove", "would free") } else { ("removed", "freed") };
    let mut text = String::new();
    for image in &images {
        let name = image.tags.first().or(image.digests.first()).map_or("<none>", String::as_str);
        text.push_str(&format!("{verb} {} {name}\n", image.id));
    }
    text.push_str(&format!("{total} {}\n", size(freed_bytes)));
    Ok(print(text.as_bytes())?)
}

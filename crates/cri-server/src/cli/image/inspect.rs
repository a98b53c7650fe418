//! `knarr image inspect`: JSON, whoever reads it.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::table::print_json;
use super::{Client, Outcome, inspected, ls};
use crate::cli::terminal::clean;
use crate::own_service::v1;

/// Tells of each image that there is; the others are errors.
pub(super) async fn run(mut client: Client, images: Vec<String>) -> Outcome<ExitCode> {
    let mut told = Vec::new();
    let mut outcome = ExitCode::SUCCESS;
    for image in images {
        match inspected(&mut client, image).await {
            Ok(inspection) => told.push(document(inspection)?),
            Err(error) => {
                writeln!(io::stderr(), "knarr: {}", clean(&crate::chain(&error)))?;
                outcome = ExitCode::FAILURE;
            }
        }
    }
    print_json(&Value::Array(told))?;
    Ok(outcome)
}

fn document(inspection: v1::InspectImageResponse) -> Outcome<Value> {
    let v1::InspectImageResponse { image, config, manifest, layers } = inspection;
    let mut document = ls::json(&image.unwrap_or_default());
    document["config"] = serde_json::from_str(&config)?;
    document["manifest"] = match manifest {
        Some(manifest) => json!({
            "mediaType": manifest.media_type,
            "digest": manifest.digest,
            "document": serde_json::from_str::<Value>(&manifest.text)?,
        }),
        None => Value::Null,
    };
    document["layers"] = layers.iter().map(layer).collect();
    Ok(document)
}

fn layer(layer: &v1::Layer) -> Value {
    let blob = (!layer.blob.is_empty()).then(|| json!({ "digest": layer.blob, "size": layer.blob_bytes }));
    json!({
        "diffId": layer.diff_id,
        "form": layer.form,
        "diskBytes": layer.disk_bytes,
        "inodes": layer.inodes,
        "blob": blob,
        "images": layer.images,
        "canBeSaved": layer.has_recipe,
    })
}

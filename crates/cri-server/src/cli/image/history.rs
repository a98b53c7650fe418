//! `knarr image history`: how an image was built, as its configuration tells it, with what each step takes on the disk.

use serde::Deserialize;
use serde_json::{Value, json};

use super::table::{Table, cut, print_json, size, time};
use super::{Client, HistoryArgs, Outcome, inspected};
use crate::own_service::v1;

/// Characters of a command that are shown.
const COMMAND: usize = 60;

/// The part of a configuration that is needed (OCI image-spec, "Image Configuration", `history`).
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    history: Option<Vec<Step>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Step {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    empty_layer: bool,
}

pub(super) async fn run(mut client: Client, arguments: HistoryArgs) -> Outcome<()> {
    let inspection = inspected(&mut client, arguments.image).await?;
    let config: Config = serde_json::from_str(&inspection.config)?;
    let steps = with_layers(config.history.unwrap_or_default(), &inspection.layers);
    if arguments.json {
        return Ok(print_json(&steps.iter().rev().map(json).collect())?);
    }
    let mut table = Table::new(&["CREATED", "SIZE", "CREATED BY", "COMMENT"]);
    for (step, layer) in steps.iter().rev() {
        let command = step.created_by.as_deref().unwrap_or_default();
        table.row(vec![
            time(step.created.as_deref().unwrap_or_default()),
            size(layer.map_or(0, |layer| layer.disk_bytes)),
            if arguments.no_trunc { cut(command, usize::MAX) } else { cut(command, COMMAND) },
            cut(step.comment.as_deref().unwrap_or_default(), COMMAND),
        ]);
    }
    Ok(table.print()?)
}

/// The layer that each step made. Layers that no step tells of come last, as steps of their own.
fn with_layers(steps: Vec<Step>, layers: &[v1::Layer]) -> Vec<(Step, Option<&v1::Layer>)> {
    let mut layers = layers.iter();
    let mut told: Vec<_> = steps
        .into_iter()
        .map(|step| {
            let layer = if step.empty_layer { None } else { layers.next() };
            (step, layer)
        })
        .collect();
    told.extend(layers.map(|layer| (Step::default(), Some(layer))));
    told
}

fn json((step, layer): &(Step, Option<&v1::Layer>)) -> Value {
    json!({
        "created": step.created,
        "createdBy": step.created_by,
        "comment": step.comment,
        "diffId": layer.map(|layer| &layer.diff_id),
        "diskBytes": layer.map_or(0, |layer| layer.disk_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_change_no_file_have_no_layer() {
        let text = r#"[{"created_by":"one"},{"created_by":"ENV","empty_layer":true},{"created_by":"two","comment":null}]"#;
        let steps: Vec<Step> = serde_json::from_str(text).unwrap();
        let layer = |disk_bytes| v1::Layer { disk_bytes, ..Default::default() };
        let layers = [layer(1), layer(2), layer(3)];
        let told = with_layers(steps, &layers);
        let sizes: Vec<Option<u64>> =
            told.iter().map(|(_, layer)| layer.map(|layer| layer.disk_bytes)).collect();
        assert_eq!(sizes, [Some(1), None, Some(2), Some(3)]);
        assert!(with_layers(Vec::new(), &[]).is_empty());
    }
}

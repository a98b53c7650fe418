//! `knarr image check`: whether images are as they were written.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::table::{print, print_json, short};
use super::{CheckArgs, Client, ClientError, Outcome};
use crate::cli::terminal::clean;
use crate::own_service::v1::{self, Condition};

/// Succeeds if all images are whole in the end.
pub(super) async fn run(mut client: Client, arguments: CheckArgs) -> Outcome<ExitCode> {
    let CheckArgs { mut images, json } = arguments;
    if images.is_empty() {
        let all = client.list(v1::ListImagesRequest::default()).await.map_err(ClientError::from)?;
        images = all.into_inner().images.into_iter().map(name).collect();
    }
    let (mut outcome, mut documents) = (ExitCode::SUCCESS, Vec::new());
    for image in images {
        let answer = client.check(v1::CheckImageRequest { image: image.clone() }).await;
        match answer.map_err(ClientError::from) {
            Ok(checked) => {
                let checked = checked.into_inner();
                if !is_whole(&checked) {
                    outcome = ExitCode::FAILURE;
                }
                match json {
                    true => documents.push(document(&image, &checked)),
                    false => print(clean(&words(&image, &checked)).as_bytes())?,
                }
            }
            Err(error) => {
                writeln!(io::stderr(), "knarr: {}", clean(&crate::chain(&error)))?;
                outcome = ExitCode::FAILURE;
            }
        }
    }
    if json {
        print_json(&Value::Array(documents))?;
    }
    Ok(outcome)
}

/// What an image is best known by.
fn name(image: v1::Image) -> String {
    let v1::Image { id, tags, digests, .. } = image;
    tags.into_iter().chain(digests).next().unwrap_or(id)
}

fn is_whole(checked: &v1::CheckImageResponse) -> bool {
    let is_seen = |layer: &v1::CheckedLayer| layer.condition() != Condition::Unseen;
    checked.error.is_empty() && checked.layers.iter().all(is_seen)
}

/// A line for each layer that is worth one, and one for the image.
fn words(image: &str, checked: &v1::CheckImageResponse) -> String {
    let mut text = String::new();
    for v1::CheckedLayer { diff_id, condition, why } in &checked.layers {
        let what = match Condition::try_from(*condition).unwrap_or_default() {
            Condition::Whole => continue,
            Condition::Damaged => format!("is damaged: {why}"),
            Condition::NotCompared => "can be read, and there is nothing to compare it with".to_owned(),
            Condition::Unseen => format!("cannot be looked at: {why}"),
        };
        text.push_str(&format!("{image}: layer {} {what}\n", short(diff_id)));
    }
    let outcome = match (checked.repaired, checked.error.is_empty(), checked.layers.len()) {
        (true, ..) => "fetched again".to_owned(),
        (false, false, _) => format!("not fetched again: {}", checked.error),
        (false, true, 1) => "1 layer looked at".to_owned(),
        (false, true, layers) => format!("{layers} layers looked at"),
    };
    text + &format!("{image}: {outcome}\n")
}

fn document(image: &str, checked: &v1::CheckImageResponse) -> Value {
    let layer = |layer: &v1::CheckedLayer| {
        let condition = match layer.condition() {
            Condition::Whole => "whole",
            Condition::Damaged => "damaged",
            Condition::NotCompared => "not compared",
            Condition::Unseen => "unseen",
        };
        json!({ "diffId": layer.diff_id, "condition": condition, "why": layer.why })
    };
    let layers: Vec<Value> = checked.layers.iter().map(layer).collect();
    json!({
        "image": image,
        "id": checked.id,
        "layers": layers,
        "repaired": checked.repaired,
        "error": checked.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_takes_one_line() {
        let layer = |condition: Condition, why: &str| v1::CheckedLayer {
            diff_id: "sha256:0123456789abcdef".into(),
            condition: condition.into(),
            why: why.into(),
        };
        let layers = vec![layer(Condition::Whole, ""), layer(Condition::Whole, "")];
        let mut checked = v1::CheckImageResponse { layers, ..Default::default() };
        assert_eq!((words("a:1", &checked), is_whole(&checked)), ("a:1: 2 layers looked at\n".into(), true));
        checked.layers[1] = layer(Condition::Damaged, "gone");
        checked.repaired = true;
        let told = "a:1: layer 0123456789ab is damaged: gone\na:1: fetched again\n";
        assert_eq!((words("a:1", &checked), is_whole(&checked)), (told.into(), true));
        (checked.repaired, checked.error) = (false, "404".into());
        assert!(words("a:1", &checked).ends_with("a:1: not fetched again: 404\n") && !is_whole(&checked));
        checked =
            v1::CheckImageResponse { layers: vec![layer(Condition::Unseen, "no")], ..Default::default() };
        assert!(!is_whole(&checked));
    }
}

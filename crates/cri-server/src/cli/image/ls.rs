//! `knarr image ls`.

use serde_json::{Value, json};

use super::table::{Table, print, print_json, short, size, time};
use super::{Client, ClientError, LsArgs, Outcome};
use crate::own_service::v1;

/// Shown in the place of a name.
const NAMELESS: &str = "<none>";

pub(super) async fn run(mut client: Client, arguments: LsArgs) -> Outcome<()> {
    let image = arguments.image.clone().unwrap_or_default();
    let request = v1::ListImagesRequest { image: image.clone() };
    let mut images = client.list(request).await.map_err(ClientError::from)?.into_inner().images;
    if images.is_empty() && !image.is_empty() {
        return Err(format!("image \"{image}\" does not exist").into());
    }
    images.sort_by_key(|image| (image.tags.is_empty(), image.tags.first().cloned()));
    if arguments.json {
        let images: Vec<Value> = images.iter().map(json).collect();
        return Ok(print_json(&Value::Array(images))?);
    }
    if arguments.quiet {
        let ids: String = images.iter().map(|image| format!("{}\n", image.id)).collect();
        return Ok(print(ids.as_bytes())?);
    }
    let mut table = Table::new(&["NAME", "ID", "CREATED", "SIZE", "SHARED", "UNIQUE", "USED BY"]);
    for image in &images {
        rows(image, &arguments, &mut table);
    }
    Ok(table.print()?)
}

/// One for each name; sizes are the image's.
fn rows(image: &v1::Image, arguments: &LsArgs, table: &mut Table) {
    let mut names = image.tags.clone();
    if arguments.digests || names.is_empty() {
        names.extend(image.digests.iter().cloned());
    }
    if names.is_empty() {
        names.push(NAMELESS.to_owned());
    }
    let id = if arguments.no_trunc { image.id.clone() } else { short(&image.id) };
    for name in names {
        let name = if image.tags.is_empty() && !arguments.digests && !arguments.no_trunc {
            without_tag(&name)
        } else {
            name
        };
        table.row(vec![
            name,
            id.clone(),
            time(&image.created),
            size(image.disk_bytes),
            size(image.disk_bytes - image.unique_bytes.min(image.disk_bytes)),
            size(image.unique_bytes),
            used_by(image),
        ]);
    }
}

/// A name by digest, which nobody compares by eye.
fn without_tag(name: &str) -> String {
    match name.split_once('@') {
        Some((repository, _)) => format!("{repository}:{NAMELESS}"),
        None => name.to_owned(),
    }
}

fn used_by(image: &v1::Image) -> String {
    let containers = match image.users.len() {
        0 => None,
        1 => Some("1 container".to_owned()),
        many => Some(format!("{many} containers")),
    };
    let pinned = image.pinned.then(|| "pinned".to_owned());
    [containers, pinned].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// An image for programs.
pub(super) fn json(image: &v1::Image) -> Value {
    let users: Vec<Value> = image
        .users
        .iter()
        .map(|user| {
            json!({
                "containerId": user.container_id,
                "container": user.container,
                "pod": user.pod,
                "namespace": user.namespace,
            })
        })
        .collect();
    json!({
        "id": image.id,
        "tags": image.tags,
        "digests": image.digests,
        "size": image.size,
        "diskBytes": image.disk_bytes,
        "sharedBytes": image.disk_bytes - image.unique_bytes.min(image.disk_bytes),
        "uniqueBytes": image.unique_bytes,
        "created": image.created,
        "architecture": image.architecture,
        "dangling": image.tags.is_empty(),
        "pinned": image.pinned,
        "users": users,
    })
}

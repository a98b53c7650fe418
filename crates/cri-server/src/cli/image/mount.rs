//! `knarr image mount` and `unmount`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::table::{Table, print_json, short};
use super::{Client, ClientError, MountArgs, Outcome};
use crate::own_service::v1;

pub(super) async fn mount(mut client: Client, arguments: MountArgs) -> Outcome<()> {
    let (Some(image), Some(directory)) = (arguments.image, arguments.directory) else {
        return list(client, arguments.json).await;
    };
    let target = absolute(&directory)?;
    client.mount(v1::MountImageRequest { image, target }).await.map_err(ClientError::from)?;
    Ok(())
}

pub(super) async fn unmount(mut client: Client, directory: PathBuf) -> Outcome<()> {
    let target = absolute(&directory)?;
    client.unmount(v1::UnmountImageRequest { target }).await.map_err(ClientError::from)?;
    Ok(())
}

async fn list(mut client: Client, is_json: bool) -> Outcome<()> {
    let answer = client.list_mounts(v1::ListMountsRequest {}).await.map_err(ClientError::from)?;
    let mounts = answer.into_inner().mounts;
    if is_json {
        let of = |mount: &v1::ImageMount| json!({ "image": mount.image, "directory": mount.target });
        return Ok(print_json(&Value::Array(mounts.iter().map(of).collect()))?);
    }
    let mut table = Table::new(&["IMAGE", "DIRECTORY"]);
    mounts.iter().for_each(|mount| table.row(vec![short(&mount.image), mount.target.clone()]));
    Ok(table.print()?)
}

/// As the daemon, which is elsewhere, has to know it.
fn absolute(directory: &Path) -> Outcome<String> {
    let path = std::path::absolute(directory)?;
    let text = path.into_os_string().into_string();
    text.map_err(|path| format!("\"{}\" is not UTF-8", path.display()).into())
}

//! ExecSync.

use std::time::Duration;

use proto::runtime::v1 as cri;
use sandbox::ExecRequest;
use sandbox::exec::check_command;
use tonic::Status;

use super::Runtime;
use crate::call_log;
use crate::status::of_sandbox;

pub(super) async fn sync(
    runtime: &Runtime,
    request: cri::ExecSyncRequest,
) -> Result<cri::ExecSyncResponse, Status> {
    call_log::about_container(&runtime.pods, &request.container_id);
    check_command(&request.cmd).map_err(|error| of_sandbox(&error))?;
    // Seconds; zero means that the command may take as long as it likes.
    let timeout = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let wanted = ExecRequest { command: request.cmd, timeout };
    let output =
        runtime.pods.exec_sync(&request.container_id, wanted).await.map_err(|error| of_sandbox(&error))?;
    Ok(cri::ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code })
}

//! Exec, Attach and PortForward: what can be refused is refused here; the answer is an address that the client may come to.
//!
//! Not here: ExecSync (`exec`), and what happens at that address.

use proto::runtime::v1 as cri;
use sandbox::exec::check_command;
use sandbox::{ContainerPhase, ContainerStatus, Error, Kind, PodPhase};
use streaming::{AttachRequest, ExecRequest, Request, Streams};
use tonic::Status;

use super::Runtime;
use crate::call_log;
use crate::status::{of_sandbox, of_streaming};

pub(super) fn exec(runtime: &Runtime, request: cri::ExecRequest) -> Result<cri::ExecResponse, Status> {
    call_log::about_container(&runtime.pods, &request.container_id);
    let cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    let streams = check(Streams { stdin, stdout, stderr, tty }).map_err(|error| of_sandbox(&error))?;
    check_command(&cmd).map_err(|error| of_sandbox(&error))?;
    let found = running(runtime, &container_id, "have a command run in it");
    let container = found.map_err(|error| of_sandbox(&error))?.id.to_string();
    let request = Request::Exec(ExecRequest { container, command: cmd, streams });
    Ok(cri::ExecResponse { url: url(runtime, request)? })
}

pub(super) fn attach(runtime: &Runtime, request: cri::AttachRequest) -> Result<cri::AttachResponse, Status> {
    call_log::about_container(&runtime.pods, &request.container_id);
    let cri::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    let streams = check(Streams { stdin, stdout, stderr, tty }).map_err(|error| of_sandbox(&error))?;
    let found = running(runtime, &container_id, "be attached to");
    let container = found.map_err(|error| of_sandbox(&error))?;
    if streams.tty && !container.config.tty {
        return Err(of_sandbox(&Error::refused("tty", "is set, and the container has no terminal")));
    }
    let request = Request::Attach(AttachRequest { container: container.id.to_string(), streams });
    Ok(cri::AttachResponse { url: url(runtime, request)? })
}

pub(super) fn port_forward(
    runtime: &Runtime,
    request: cri::PortForwardRequest,
) -> Result<cri::PortForwardResponse, Status> {
    call_log::about_pod(&runtime.pods, &request.pod_sandbox_id);
    let ports = ports(&request.port).map_err(|error| of_sandbox(&error))?;
    let pod = ready(runtime, &request.pod_sandbox_id).map_err(|error| of_sandbox(&error))?;
    Ok(cri::PortForwardResponse { url: url(runtime, Request::PortForward { pod, ports })? })
}

fn url(runtime: &Runtime, request: Request) -> Result<String, Status> {
    runtime.streams.url(request).map_err(|error| of_streaming(&error))
}

/// What the contract says of the streams (`ExecRequest`, `AttachRequest`).
fn check(streams: Streams) -> Result<Streams, Error> {
    match streams {
        Streams { tty: true, stderr: true, .. } => {
            Err(Error::refused("stderr", "cannot be had with tty: a terminal has one output"))
        }
        Streams { stdin: false, stdout: false, stderr: false, .. } => {
            Err(Error::refused("stdin", "is not set, and neither is stdout or stderr"))
        }
        fine => Ok(fine),
    }
}

fn ports(given: &[i32]) -> Result<Vec<u16>, Error> {
    let port = |(index, port): (usize, &i32)| {
        let fits = u16::try_from(*port).ok().filter(|port| *port != 0);
        fits.ok_or_else(|| {
            Error::refused(format!("port[{index}]"), format!("{port} is not within 1 and 65535"))
        })
    };
    given.iter().enumerate().map(port).collect()
}

fn running(
    runtime: &Runtime,
    id: &str,
    wish: &'static str,
) -> Result<std::sync::Arc<ContainerStatus>, Error> {
    let container = runtime.pods.container(id)?;
    let state = match container.phase {
        ContainerPhase::Running { .. } => return Ok(container),
        ContainerPhase::Created => "created",
        ContainerPhase::Exited(_) => "exited",
    };
    Err(Error::WrongState { kind: Kind::Container, id: container.id.to_string(), state, wish })
}

fn ready(runtime: &Runtime, id: &str) -> Result<String, Error> {
    let pod = runtime.pods.pod(id)?;
    let id = pod.id.to_string();
    match pod.phase {
        PodPhase::Ready => Ok(id),
        PodPhase::NotReady => {
            let wish = "have its ports reached";
            Err(Error::WrongState { kind: Kind::Pod, id, state: "not ready", wish })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_cannot_be_are_refused_by_field() {
        let some = Streams { stdin: true, stdout: true, stderr: true, tty: false };
        check(some).unwrap();
        check(Streams { tty: true, stderr: false, ..some }).unwrap();
        let refused = |streams| check(streams).unwrap_err().to_string();
        assert!(refused(Streams { tty: true, ..some }).starts_with("stderr: "));
        assert!(refused(Streams { tty: true, ..Streams::default() }).starts_with("stdin: "));
    }

    #[test]
    fn ports_are_those_of_tcp() {
        assert_eq!(ports(&[]).unwrap(), [0u16; 0]);
        assert_eq!(ports(&[1, 65_535]).unwrap(), [1, 65_535]);
        for (wrong, field) in [(&[0][..], "port[0]: "), (&[80, -1], "port[1]: "), (&[65_536], "port[0]: ")] {
            assert!(ports(wrong).unwrap_err().to_string().starts_with(field));
        }
    }
}

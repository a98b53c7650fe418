//! GetContainerEvents.

use proto::runtime::v1 as cri;
use sandbox::Listener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Runtime;
use super::stream::Streamed;
use crate::convert::event;

/// Messages on their way to one client beyond what the connection takes; the backlog proper is the broadcast's.
const IN_FLIGHT: usize = 16;

/// Every event from now on, for the first client also those since the daemon began, until the client goes, falls too far behind, or the daemon ends.
pub(super) fn stream(runtime: &Runtime) -> Streamed<cri::ContainerEventResponse> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    // The task ends with its client (a closed channel) or the daemon (`ending`): nobody needs to await it.
    tokio::spawn(forward(runtime.pods.events(), sender, runtime.ending.clone()));
    Box::pin(ReceiverStream::new(receiver))
}

async fn forward(
    mut events: Listener,
    client: mpsc::Sender<Result<cri::ContainerEventResponse, Status>>,
    mut ending: watch::Receiver<bool>,
) {
    loop {
        let message = tokio::select! {
            received = events.recv() => match received {
                Ok(event) => Ok(event::shown(&event)),
                // A gap must be seen: kubelet lists everything anew when the stream breaks.
                Err(RecvError::Lagged(lost)) => {
                    Err(Status::data_loss(format!("the client fell {lost} events behind")))
                }
                Err(RecvError::Closed) => return,
            },
            _ = ending.wait_for(|ending| *ending) => return,
            () = client.closed() => return,
        };
        if let Err(gap) = message {
            // It may take its time to hear that: nothing is made for it meanwhile.
            drop(events);
            tokio::select! {
                _gone = client.send(Err(gap)) => {}
                _ = ending.wait_for(|ending| *ending) => {}
            }
            return;
        }
        let sent = tokio::select! {
            sent = client.send(message) => sent.is_ok(),
            // Whoever doesn't read would keep what is waiting for it.
            _ = ending.wait_for(|ending| *ending) => return,
        };
        if !sent {
            return;
        }
    }
}

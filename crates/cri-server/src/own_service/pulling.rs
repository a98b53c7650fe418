//! A pull as a stream of events: how far it is, whenever that has changed, and its outcome at the end.

use futures::stream;
use image_service::{LayerProgress, LayerState, PullProgress, PullStage, PullWatch};

use super::v1;
use crate::runtime_service::stream::Streamed;
use crate::status::of_images;

/// What the stream is at.
enum Step {
    First(PullWatch),
    Next(PullWatch),
    Over,
}

/// The events of a pull. It goes on when nobody looks any more.
pub(super) fn events(watch: PullWatch) -> Streamed<v1::PullImageEvent> {
    Box::pin(stream::unfold(Step::First(watch), |step| async {
        let mut watch = match step {
            Step::First(watch) => return Some((Ok(event(watch.now())), Step::Next(watch))),
            Step::Next(watch) => watch,
            Step::Over => return None,
        };
        if let Some(progress) = watch.changed().await {
            return Some((Ok(event(progress)), Step::Next(watch)));
        }
        let last = event(watch.now());
        let outcome = watch.outcome().await.map(|id| v1::PullImageEvent { id: id.to_string(), ..last });
        Some((outcome.map_err(|error| of_images(&error)), Step::Over))
    }))
}

fn event(progress: PullProgress) -> v1::PullImageEvent {
    let PullProgress { image, stage, layers, .. } = progress;
    let stage = match stage {
        PullStage::Resolving => "resolving",
        PullStage::Fetching => "fetching",
        PullStage::Recording => "recording",
        PullStage::Done => "done",
        PullStage::Failed => "failed",
    };
    let layers = layers.into_iter().map(layer).collect();
    v1::PullImageEvent { image, stage: stage.to_owned(), layers, id: String::new() }
}

fn layer(layer: LayerProgress) -> v1::LayerProgress {
    let state = match layer.state {
        LayerState::Waiting => v1::LayerState::Waiting,
        LayerState::Fetching => v1::LayerState::Fetching,
        LayerState::Unpacking => v1::LayerState::Unpacking,
        LayerState::Syncing => v1::LayerState::Syncing,
        LayerState::Done => v1::LayerState::Done,
        LayerState::AlreadyHere => v1::LayerState::HereAlready,
    };
    let (size, fetched) = (layer.size, layer.fetched);
    v1::LayerProgress { digest: layer.digest.to_string(), size, fetched, state: state.into() }
}

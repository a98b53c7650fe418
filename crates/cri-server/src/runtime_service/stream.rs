//! Lists as streams: messages of bounded size, so that no list is too large for a client.

use std::pin::Pin;

use prost::Message;
use tokio_stream::Stream;
use tonic::{Response, Status};

/// A stream of answers.
pub(crate) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How large a message may become before the next one begins, in bytes: well below the 4 MiB that gRPC clients accept by
/// default, even with one item too many.
const BATCH_BYTES: usize = 1 << 20;

/// `items` in as many messages as their sizes need; no items make no message.
pub(crate) fn batches<I: Message + 'static, M: Send + 'static>(
    items: Vec<I>,
    message: impl Fn(Vec<I>) -> M,
) -> Response<Streamed<M>> {
    let messages: Vec<Result<M, Status>> = split(items).into_iter().map(|batch| Ok(message(batch))).collect();
    Response::new(Box::pin(tokio_stream::iter(messages)))
}

fn split<I: Message>(items: Vec<I>) -> Vec<Vec<I>> {
    let mut batches: Vec<Vec<I>> = Vec::new();
    let mut room = 0;
    for item in items {
        let size = item.encoded_len();
        match batches.last_mut() {
            Some(batch) if size <= room => batch.push(item),
            _ => {
                batches.push(vec![item]);
                room = BATCH_BYTES;
            }
        }
        room = room.saturating_sub(size);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::runtime::v1::PodIp;

    #[test]
    fn no_message_is_larger_than_the_bound_and_nothing_is_lost() {
        let items: Vec<PodIp> = (0..300).map(|_| PodIp { ip: "x".repeat(10_000) }).collect();
        let batches = split(items.clone());
        assert!(batches.len() >= 3);
        assert!(
            batches.iter().all(|batch| batch.iter().map(Message::encoded_len).sum::<usize>() <= BATCH_BYTES)
        );
        assert_eq!(batches.concat(), items);
        assert!(split(Vec::<PodIp>::new()).is_empty());
    }
}

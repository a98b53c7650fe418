//! Lists as streams: messages of bounded size, so that no list is too large for a client.

use std::pin::Pin;

use prost::Message;
use tokio_stream::Stream;
use tonic::{Response, Status};

/// A stream of answers.
pub(crate) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How large a message becomes before the next one begins, in bytes: well below the 4 MiB that gRPC clients accept by
/// default, even with the item that is one too many.
const BATCH_BYTES: usize = 1 << 20;

/// `items` in as many messages as their sizes need; no items make no message. An item is made when its message is sent.
pub(crate) fn batches<I: Message + 'static, M: Send + 'static>(
    items: impl IntoIterator<Item = I, IntoIter: Send + 'static>,
    message: impl Fn(Vec<I>) -> M + Send + 'static,
) -> Response<Streamed<M>> {
    let messages = Batches(items.into_iter()).map(move |batch| Ok(message(batch)));
    Response::new(Box::pin(tokio_stream::iter(messages)))
}

struct Batches<I>(I);

impl<I: Iterator<Item: Message>> Iterator for Batches<I> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.0.next()?;
        let mut size = first.encoded_len();
        let mut batch = vec![first];
        while size < BATCH_BYTES {
            let Some(item) = self.0.next() else { break };
            size += item.encoded_len();
            batch.push(item);
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::runtime::v1::PodIp;

    #[test]
    fn no_message_is_larger_than_the_bound_and_nothing_is_lost() {
        let items: Vec<PodIp> = (0..300).map(|_| PodIp { ip: "x".repeat(10_000) }).collect();
        let batches: Vec<_> = Batches(items.clone().into_iter()).collect();
        assert!(batches.len() >= 3);
        let size = |batch: &Vec<PodIp>| batch.iter().map(Message::encoded_len).sum::<usize>();
        assert!(batches.iter().all(|batch| size(batch) < BATCH_BYTES + 10_010));
        assert_eq!(batches.concat(), items);
        assert!(Batches(std::iter::empty::<PodIp>()).next().is_none());
    }
}

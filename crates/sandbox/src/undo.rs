//! What has to be undone when a later step fails: pushed before the step it belongs to, run to its end.

use std::future::Future;

use crate::error::Error;

/// A stack of things to take down, the last one first.
#[derive(Debug)]
pub(crate) struct Stack<P>(Vec<P>);

impl<P> Stack<P> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// To be called before the step itself: a step that fails half-way is undone too.
    pub(crate) fn push(&mut self, part: P) {
        self.0.push(part);
    }

    /// Takes everything down, whatever fails on the way.
    ///
    /// Not safe to cancel: what comes after the part that is being taken down would stay.
    pub(crate) async fn run<F: Future<Output = Result<(), Error>>>(
        self,
        take_down: impl Fn(P) -> F,
    ) -> Vec<(P, Error)>
    where
        P: Copy,
    {
        let mut left = Vec::new();
        for part in self.0.into_iter().rev() {
            if let Err(error) = take_down(part).await {
                left.push((part, error));
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn a_failure_does_not_end_the_undoing() {
        let mut stack = Stack::new();
        (1..=4).for_each(|part| stack.push(part));
        let order = RefCell::new(Vec::new());
        let left = stack
            .run(|part| {
                order.borrow_mut().push(part);
                async move { if part % 2 == 0 { Err(Error::ShuttingDown) } else { Ok(()) } }
            })
            .await;
        assert_eq!(*order.borrow(), [4, 3, 2, 1]);
        assert_eq!(left.iter().map(|(part, _)| *part).collect::<Vec<_>>(), [4, 2]);
    }
}

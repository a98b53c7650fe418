//! Whether pods can have user namespaces here: found out when the daemon starts, and again by whoever needs to know when that failed for a
//! want that may pass, such as of disk space.
//!
//! Not here: how it is found out (see `supervisor::trial`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::Error;

/// What came of an attempt.
type Answer = Result<(), Error>;

/// What came of the last attempt, and when.
#[derive(Debug)]
pub(crate) struct UserNamespaces {
    last: Mutex<(Instant, Answer)>,
    /// By whoever tries again: those who wait for one attempt share its outcome.
    trying: tokio::sync::Mutex<()>,
}

impl UserNamespaces {
    /// With what came of the first attempt.
    pub(crate) fn new(first: Answer) -> Self {
        if let Err(why) = &first {
            tracing::info!(why = crate::error::chain(why), may_pass = may_pass(why), "no user namespaces");
        }
        Self { last: Mutex::new((Instant::now(), first)), trying: tokio::sync::Mutex::default() }
    }

    /// What came of the last attempt.
    pub(crate) fn last(&self) -> Answer {
        self.lock().1.clone()
    }

    /// The same for one who needs it: `attempt` is made if the last one failed for a reason that may have passed. Safe to cancel.
    ///
    /// # Errors
    /// Those of the attempt, the last one's if it is not made.
    pub(crate) async fn usable(&self, attempt: impl Future<Output = Answer>) -> Answer {
        let wished = Instant::now();
        let holds = |answer: &Answer| answer.as_ref().err().is_none_or(|why| !may_pass(why));
        let last = self.last();
        if holds(&last) {
            return last;
        }
        let _alone = self.trying.lock().await;
        let (at, last) = self.lock().clone();
        if holds(&last) || at > wished {
            return last;
        }
        let answer = attempt.await;
        if answer.is_ok() {
            tracing::info!("pods can have user namespaces now");
        }
        *self.lock() = (Instant::now(), answer.clone());
        answer
    }

    fn lock(&self) -> MutexGuard<'_, (Instant, Answer)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another attempt may do what this one couldn't, without a change of the machine.
pub(crate) fn may_pass(why: &Error) -> bool {
    matches!(why, Error::Exhausted { .. } | Error::Deadline { .. })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::io::Errno;

    use super::*;

    fn failed(errno: Errno) -> Answer {
        Err(Error::step("trying", "it", io::Error::from(errno)))
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_by_one_for_all_who_wait() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM] {
            let users = UserNamespaces::new(failed(errno));
            let (tried, at_once) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let attempt = |outcome: Answer| async {
                assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                tried.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                at_once.fetch_sub(1, Ordering::SeqCst);
                outcome
            };
            let ask = || users.usable(attempt(failed(errno)));
            let (one, two, three) = tokio::join!(ask(), ask(), ask());
            assert!([one, two, three].iter().all(Result::is_err), "{errno}");
            assert_eq!(tried.load(Ordering::SeqCst), 1, "{errno}: those who wait share an attempt");
            users.usable(attempt(Ok(()))).await.unwrap();
            users.last().unwrap();
            users.usable(attempt(failed(errno))).await.unwrap();
            assert_eq!(tried.load(Ordering::SeqCst), 2, "{errno}: what can be done is not tried");
        }
    }

    #[tokio::test]
    async fn what_the_kernel_lacks_is_not_tried_again() {
        for errno in [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::OPNOTSUPP] {
            let users = UserNamespaces::new(failed(errno));
            let attempt = async { panic!("{errno}: tried again") };
            users.usable(attempt).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn one_who_gives_up_leaves_the_attempt_to_the_next() {
        let users = UserNamespaces::new(failed(Errno::NOSPC));
        {
            let hangs = users.usable(std::future::pending());
            tokio::select! {
                biased;
                _ = hangs => panic!("it has an answer"),
                () = tokio::task::yield_now() => {}
            }
        }
        users.usable(async { Ok(()) }).await.unwrap();
    }
}

//! Work that blocks, off the threads of the runtime.

use std::io;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::error::Error;

/// Runs `work` on a thread for blocking work. Safe to cancel: the work goes on to its end.
///
/// # Errors
/// Those of the work; [`Error::Thread`] if it ended without an answer.
pub(crate) async fn blocking<T, F>(what: &'static str, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(cause) => Err(Error::Thread { what, cause: io::Error::other(cause) }),
    }
}

/// The same for work that is done one at a time. Who waits for a turn has no thread meanwhile: work that hangs costs one, however
/// often it is asked for. Safe to cancel.
///
/// # Errors
/// As [`blocking`].
pub(crate) async fn blocking_in_turn<T, F>(
    turn: &Arc<Mutex<()>>,
    what: &'static str,
    work: F,
) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    let turn = Arc::clone(turn).lock_owned().await;
    let in_turn = move || {
        let _turn = turn;
        work()
    };
    blocking(what, in_turn).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_hangs_has_one_thread_however_often_it_is_asked_for() {
        let (turn, begun) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let (go_on, may_go_on) = channel::<()>();
        let mut may_go_on = Some(may_go_on);
        for _ in 0..20 {
            let (begun, hang) = (Arc::clone(&begun), may_go_on.take());
            let work = move || {
                begun.fetch_add(1, Ordering::SeqCst);
                let _let_go = hang.map(|hang| hang.recv());
                Ok(())
            };
            let asked = blocking_in_turn(&turn, "hanging", work);
            assert!(tokio::time::timeout(Duration::from_millis(10), asked).await.is_err());
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        go_on.send(()).unwrap();
        blocking_in_turn(&turn, "going on", || Ok(())).await.unwrap();
    }
}

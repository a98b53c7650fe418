//! The proof that this process has one thread.
//!
//! A clone without exec copies one thread and the locks of all. Whoever wants to run code of ours in a clone
//! must show this token first; then the child may allocate, since no lock can be held by a thread that does
//! not exist there.

use std::marker::PhantomData;

use crate::Error;

/// Shows that the process had one thread when it was asked, and that the asking thread was it.
///
/// Not `Send`: it stays with that thread. A process that starts a thread later has to prove anew.
#[derive(Debug)]
pub struct SingleThread {
    _not_send: PhantomData<*const ()>,
}

impl SingleThread {
    /// Counts the threads.
    ///
    /// # Errors
    /// [`Error::Threads`] when there is more than one, [`Error::ThreadCount`] when procfs cannot say.
    pub fn prove() -> Result<Self, Error> {
        // A thread is a directory below task, so the link count says how many there are without listing them
        // (fs/proc/base.c, proc_task_getattr).
        let task = rustix::fs::stat("/proc/self/task").map_err(|errno| Error::ThreadCount(errno.into()))?;
        #[allow(clippy::useless_conversion, reason = "it is 32 bits wide on arm64")]
        let links = u64::from(task.st_nlink);
        match links.saturating_sub(2) {
            1 => Ok(Self { _not_send: PhantomData }),
            threads => Err(Error::Threads { threads }),
        }
    }
}

//! What threads give up that work on what strangers wrote: those that unpack a layer, look at one, or delete what a container
//! left. What they work at lies below one directory.
//!
//! Such a thread starts none but its own, and hands what needs more to others (`layers::writeback`).
//! Not here: how that is done, which takes calls without a safe form; whoever opens the store hands it in.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Whose files a thread works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// The daemon's own.
    Own,
    /// Those of any users, with devices and attributes that only the system's administrator may give.
    Anybodys,
    /// The same, to delete them and nothing else.
    Deleted,
}

/// Confines the calling thread, and those that it starts, to working with such files below a directory, for good.
#[derive(Clone)]
pub struct Confinement(Arc<Make>);

type Make = dyn Fn(&Path) -> Box<Enter> + Send + Sync;
type Enter = dyn Fn(Files) -> io::Result<()> + Send + Sync;

impl Confinement {
    /// By what `make` gives for a directory, called by each thread.
    pub fn new<E>(make: impl Fn(&Path) -> E + Send + Sync + 'static) -> Confinement
    where
        E: Fn(Files) -> io::Result<()> + Send + Sync + 'static,
    {
        Confinement(Arc::new(move |below| Box::new(make(below))))
    }
}

impl fmt::Debug for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confinement").finish_non_exhaustive()
    }
}

/// The confinement of all threads that work below one directory; of none where that isn't wanted.
pub(crate) struct Bounds(Option<Box<Enter>>);

impl Bounds {
    pub(crate) fn below(directory: &Path, by: Option<&Confinement>) -> Bounds {
        Bounds(by.map(|by| (by.0)(directory)))
    }

    /// Confines the calling thread, which does nothing else afterwards.
    ///
    /// # Errors
    /// The system's. Nothing that a stranger wrote is to be looked at then.
    pub(crate) fn enter(&self, files: Files) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |enter| enter(files))
    }
}

impl fmt::Debug for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bounds").field(&self.0.is_some()).finish()
    }
}

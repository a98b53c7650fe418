//! Names that are taken, and by whom.
//!
//! A name is reserved before any work is begun and held until nothing is left. Who asks for a name that is being made, or was made from the
//! same request, joins: kubelet repeats a request that took longer than it waits, under the same name.

use std::collections::HashMap;
use std::hash::Hash;

/// Which id holds which name.
#[derive(Debug)]
pub(crate) struct Names<N, I>(HashMap<N, I>);

impl<N: Eq + Hash, I: Clone + PartialEq> Names<N, I> {
    pub(crate) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Takes a name.
    ///
    /// # Errors
    /// The holder, when somebody has it.
    pub(crate) fn reserve(&mut self, name: N, id: &I) -> Result<(), I> {
        match self.0.get(&name) {
            Some(holder) => Err(holder.clone()),
            None => {
                self.0.insert(name, id.clone());
                Ok(())
            }
        }
    }

    /// Gives a name back, if it is held by this id.
    pub(crate) fn release(&mut self, name: &N, id: &I) {
        if self.0.get(name) == Some(id) {
            self.0.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_held_until_its_holder_gives_it_back() {
        let mut names = Names::new();
        assert_eq!(names.reserve("web", &1), Ok(()));
        assert_eq!(names.reserve("web", &2), Err(1));
        names.release(&"web", &2);
        assert_eq!(names.reserve("web", &2), Err(1), "only the holder can");
        names.release(&"web", &1);
        assert_eq!(names.reserve("web", &2), Ok(()));
    }
}

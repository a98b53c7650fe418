//! The messages of the interface, made from `proto/nri.proto`, and what is said of them in words alone: bits of events, marks of removal.

#[allow(missing_docs, unreachable_pub, rust_2018_idioms, clippy::all, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/nri.pkg.api.v1alpha1.rs"));
}

pub use generated::*;

/// Services by their full names.
pub(crate) const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
pub(crate) const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// All events that there are, a bit each.
const ALL: i32 = (1 << (Event::Last as i32 - 1)) - 1;

/// The events that a plugin wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Events(i32);

impl Events {
    /// Reads a plugin's answer: no bit stands for all of them.
    ///
    /// # Errors
    /// The bits that stand for no event known here.
    pub(crate) fn new(bits: i32) -> Result<Self, i32> {
        match bits & !ALL {
            0 if bits == 0 => Ok(Self(ALL)),
            0 => Ok(Self(bits)),
            unknown => Err(unknown),
        }
    }

    pub(crate) fn have(self, event: Event) -> bool {
        event != Event::Unknown && self.0 & (1 << (event as i32 - 1)) != 0
    }
}

/// Tells a key with the mark of removal from one without, and takes the mark off.
pub(crate) fn removed(key: &str) -> Option<&str> {
    key.strip_prefix('-')
}

/// A key with the mark of removal.
pub(crate) fn remove(key: &str) -> String {
    format!("-{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_bits_and_none_is_all() {
        let all = Events::new(0).unwrap();
        assert!(all.have(Event::RunPodSandbox) && all.have(Event::ValidateContainerAdjustment));
        let create = Events::new(1 << 3).unwrap();
        assert!(create.have(Event::CreateContainer) && !create.have(Event::PostCreateContainer));
        assert_eq!(Events::new(1 << 14), Err(1 << 14), "an event that is not known");
        assert_eq!(Events::new(ALL), Ok(all));
    }
}

//! Reading the fields of spans.

use std::fmt::Debug;

use tracing::field::{Field, Visit};

/// Gives every field, by its name, as text to a function.
pub(super) struct Texts<F: FnMut(&'static str, &str)>(pub(super) F);

impl<F: FnMut(&'static str, &str)> Visit for Texts<F> {
    fn record_str(&mut self, field: &Field, value: &str) {
        (self.0)(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        (self.0)(field.name(), &format!("{value:?}"));
    }
}

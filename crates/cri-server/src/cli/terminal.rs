//! Strangers' words on a terminal: images, registries and archives have a say in what commands show.

/// The words without anything that a terminal would act upon; lines stay lines.
pub(crate) fn clean(words: &str) -> String {
    words.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown_and_not_acted_upon() {
        assert_eq!(clean("a\u{1b}[2J\u{9b}31mb\rc\n"), "a\u{fffd}[2J\u{fffd}31mb\u{fffd}c\n");
    }
}

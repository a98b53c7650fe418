//! The words that scripts are written in.

/// The value of a word in a table of words.
///
/// # Errors
/// When it isn't there.
pub fn choose<T: Copy>(table: &[(&str, T)], word: &str) -> Result<T, String> {
    let found = table.iter().find(|(one, _)| *one == word).map(|(_, value)| *value);
    found.ok_or_else(|| {
        format!("\"{word}\" is none of {:?}", table.iter().map(|(one, _)| one).collect::<Vec<_>>())
    })
}

/// A small number.
///
/// # Errors
/// When it is none.
pub fn number(word: &str) -> Result<u8, String> {
    word.parse().map_err(|_| format!("\"{word}\" is no number below 256"))
}

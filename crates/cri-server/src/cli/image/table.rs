//! Output for people: tables, sizes, shortened ids.

use std::io::{self, Write};

use crate::cli::terminal::clean;

/// A table being filled.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|title| (*title).to_owned()).collect()] }
    }

    /// Adds a row. What is in it may be an image's own words.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| clean(cell).replace('\n', " ")).collect());
    }

    /// Prints it to standard output. Whoever reads no further (`| head`) is no error.
    pub(super) fn print(&self) -> io::Result<()> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widest = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or_default()).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            text.push_str(cells.join("   ").trim_end());
            text.push('\n');
        }
        print(text.as_bytes())
    }
}

/// Prints to standard output. Whoever reads no further (`| head`) is no error.
pub(super) fn print(bytes: &[u8]) -> io::Result<()> {
    match io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Prints a document.
pub(super) fn print_json(value: &serde_json::Value) -> io::Result<()> {
    print(format!("{value:#}\n").as_bytes())
}

/// What others call a size: decimal units and three digits, as the peers show it.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1e3;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// The first digits of an id, as many as tools show.
pub(super) fn short(id: &str) -> String {
    id.split_once(':').map_or(id, |(_, hex)| hex).chars().take(12).collect()
}

/// A text on one line, cut off where it is too long.
pub(super) fn cut(text: &str, limit: usize) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= limit {
        return line;
    }
    line.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// A time of RFC 3339 without what nobody reads in a table.
pub(super) fn time(text: &str) -> String {
    text.get(..16).unwrap_or(text).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (99_950, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (123_456_789, "123 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }

    #[test]
    fn no_cell_moves_the_cursor() {
        let mut table = Table::new(&["NAME"]);
        table.row(vec!["\u{1b}]0;title\u{7}\nsecond".to_owned()]);
        assert_eq!(table.rows[1], ["\u{fffd}]0;title\u{fffd} second"]);
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(cut("a  b\n c", 10), "a b c");
        assert_eq!(cut("äöüäöü", 4), "äöü…");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(time("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04");
    }
}

//! The program that makes containers with the kernel alone, and what it says.
//!
//! It is an example of the crate `runtime`, run as any program: nothing of that crate is known here.

use std::path::Path;
use std::process::Command;

/// From clone to exec, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor {
    /// p50.
    pub half: f64,
    /// p95.
    pub most: f64,
}

/// Runs the program and gives the figure that pods are compared with, beside all that it printed.
///
/// # Errors
/// Why there is no floor, in words.
pub fn run(program: &Path) -> Result<(Floor, String), String> {
    let said = |cause: String| format!("\"{}\" {cause}", program.display());
    let output = Command::new(program).output().map_err(|error| said(format!("can't be run: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        let cause = String::from_utf8_lossy(&output.stderr);
        return Err(said(format!("ended with {}: {} {text}", output.status, cause.trim())));
    }
    let floor = parse(&text).ok_or_else(|| said(format!("printed {text:?}")))?;
    Ok((floor, text))
}

/// The line "clone to exec: P50 / P95", which is in microseconds.
fn parse(text: &str) -> Option<Floor> {
    let line = text.lines().find_map(|line| line.strip_prefix("clone to exec: "))?;
    let (half, most) = line.split_once(" / ")?;
    let milliseconds = |text: &str| text.parse::<f64>().ok().map(|value| value / 1000.0);
    Some(Floor { half: milliseconds(half)?, most: milliseconds(most)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_read_in_milliseconds() {
        let text = "clone to exit: 700 / 900\nclone to exec: 600 / 750";
        assert_eq!(parse(text), Some(Floor { half: 0.6, most: 0.75 }));
        assert_eq!(parse("clone to exec: soon"), None);
    }
}

//! How far a pull is: one line that is written over on a terminal, lines of text elsewhere. All on standard error.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::table::{short, size};
use crate::own_service::v1::{LayerProgress, LayerState, PullImageEvent};

/// Columns of the bar itself.
const BAR: usize = 30;
/// What the speed is measured over.
const SPEED_WINDOW: Duration = Duration::from_secs(3);

/// What was shown last.
pub(super) struct Progress {
    way: Way,
    states: HashMap<String, i32>,
    speed: Speed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Quiet,
    Bar,
    Lines,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Progress {
        let way = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Way::Quiet,
            (false, true) => Way::Bar,
            (false, false) => Way::Lines,
        };
        Progress { way, states: HashMap::new(), speed: Speed::default() }
    }

    pub(super) fn show(&mut self, event: &PullImageEvent) -> io::Result<()> {
        match self.way {
            Way::Quiet => Ok(()),
            Way::Bar => {
                let speed = self.speed.of(totals(&event.layers).0);
                write_over(&bar(event, speed))
            }
            Way::Lines => self.lines(event),
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if self.way == Way::Bar { write_over("") } else { Ok(()) }
    }

    /// A line for each layer that has come further.
    fn lines(&mut self, event: &PullImageEvent) -> io::Result<()> {
        for layer in &event.layers {
            let before = self.states.insert(layer.digest.clone(), layer.state);
            if before == Some(layer.state) || layer.state() == LayerState::Waiting {
                continue;
            }
            writeln!(io::stderr(), "{}: {}", short(&layer.digest), what(layer))?;
        }
        Ok(())
    }
}

/// Bytes that had come at some moments of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Speed(Vec<(Instant, u64)>);

impl Speed {
    /// Bytes in a second, of late, now that so many have come in all.
    pub(super) fn of(&mut self, bytes: u64) -> u64 {
        let now = Instant::now();
        self.0.retain(|(at, _)| now.duration_since(*at) < SPEED_WINDOW);
        self.0.push((now, bytes));
        let (first, before) = self.0[0];
        let seconds = now.duration_since(first).as_secs_f64();
        if seconds > 0.2 { (bytes.saturating_sub(before) as f64 / seconds) as u64 } else { 0 }
    }
}

/// Writes over a terminal's last line.
pub(super) fn write_over(line: &str) -> io::Result<()> {
    // To the line's beginning, and what is left of the old one away (ECMA-48: EL).
    write!(io::stderr(), "\r{line}\x1b[K")?;
    io::stderr().flush()
}

/// The bar itself, and the share that it shows.
pub(super) fn gauge(done: u64, total: u64) -> String {
    let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let filled = (share * BAR as f64) as usize;
    format!("{}{} {:3.0} %", "█".repeat(filled), "░".repeat(BAR - filled), share * 100.0)
}

fn what(layer: &LayerProgress) -> String {
    match layer.state() {
        LayerState::Waiting => "waiting".to_owned(),
        LayerState::Fetching => format!("fetching {}", size(layer.size)),
        LayerState::Unpacking => "unpacking".to_owned(),
        LayerState::Syncing => "writing to the disk".to_owned(),
        LayerState::Done => "done".to_owned(),
        LayerState::HereAlready => "here already".to_owned(),
    }
}

/// Bytes that are here and bytes in all, of what has to be fetched.
fn totals(layers: &[LayerProgress]) -> (u64, u64) {
    let wanted = || layers.iter().filter(|layer| layer.state() != LayerState::HereAlready);
    (wanted().map(|layer| layer.fetched).sum(), wanted().map(|layer| layer.size).sum())
}

fn bar(event: &PullImageEvent, speed: u64) -> String {
    if event.layers.is_empty() {
        return format!("{}…", event.stage);
    }
    let (fetched, total) = totals(&event.layers);
    let is_done =
        |layer: &&LayerProgress| matches!(layer.state(), LayerState::Done | LayerState::HereAlready);
    let (done, all) = (event.layers.iter().filter(is_done).count(), event.layers.len());
    let speed = if speed > 0 { format!("   {}/s", size(speed)) } else { String::new() };
    format!(
        "{}   {} of {}   {done} of {all} layers{speed}",
        gauge(fetched, total),
        size(fetched),
        size(total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(state: LayerState, fetched: u64, size: u64) -> LayerProgress {
        LayerProgress { digest: "sha256:ab".into(), size, fetched, state: state.into() }
    }

    #[test]
    fn the_bar_shows_what_has_to_be_fetched() {
        let mut event = PullImageEvent { stage: "resolving".into(), ..Default::default() };
        assert_eq!(bar(&event, 0), "resolving…");
        event.layers = vec![
            layer(LayerState::HereAlready, 0, 5_000_000),
            layer(LayerState::Done, 1_000_000, 1_000_000),
            layer(LayerState::Fetching, 500_000, 2_000_000),
        ];
        let shown = bar(&event, 2_500_000);
        assert!(shown.ends_with(" 50 %   1.50 MB of 3.00 MB   2 of 3 layers   2.50 MB/s"), "{shown}");
        assert_eq!(shown.matches('█').count(), BAR / 2);
        event.layers.truncate(1);
        assert!(bar(&event, 0).contains("100 %"), "nothing to fetch is all of it");
    }
}

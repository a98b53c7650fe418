//! Signals by name or number, as images and requests write them.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The highest signal number of Linux, SIGRTMAX.
const HIGHEST: i32 = 64;
/// The first real-time signal that the C libraries leave to programs.
const REALTIME_MIN: i32 = 34;

/// A signal that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

impl Signal {
    /// The request to end.
    pub const TERM: Self = Self(15);
    /// The end.
    pub const KILL: Self = Self(9);

    /// Reads `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `RTMAX-2`.
    ///
    /// # Errors
    /// [`Error::Refused`] with the field `stop_signal` for anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = name.parse::<i32>().ok().or_else(|| realtime(name)).or_else(|| by_name(name));
        number
            .filter(|number| (1..=HIGHEST).contains(number))
            .map(Self)
            .ok_or_else(|| Error::refused("stop_signal", format!("\"{text}\" is not a signal")))
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Its name with `SIG`.
    pub fn name(self) -> String {
        let named = nix::sys::signal::Signal::try_from(self.0).map(|signal| signal.as_str().to_owned());
        named.unwrap_or_else(|_| match self.0 {
            REALTIME_MIN => "SIGRTMIN".to_owned(),
            HIGHEST => "SIGRTMAX".to_owned(),
            // CRI's Signal enumeration counts the lower half up from the first and the upper half down from the last.
            number if number <= REALTIME_MIN + 15 => format!("SIGRTMIN+{}", number - REALTIME_MIN),
            number => format!("SIGRTMAX-{}", HIGHEST - number),
        })
    }
}

fn by_name(name: &str) -> Option<i32> {
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        other => other,
    };
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

fn realtime(name: &str) -> Option<i32> {
    let (base, rest) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => (REALTIME_MIN, rest),
        (None, Some(rest)) => (HIGHEST, rest),
        (None, None) => return None,
    };
    let offset = if rest.is_empty() { 0 } else { rest.parse::<i32>().ok()? };
    let number = base.checked_add(offset)?;
    (REALTIME_MIN..=HIGHEST).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        let read = |text| Signal::parse(text).map(Signal::number).ok();
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGCLD", 17),
            ("64", 64),
        ] {
            assert_eq!(read(text), Some(number), "{text}");
        }
        for text in ["", "SIG", "0", "-9", "65", "RTMIN+31", "SIGRTMIN-1", "SIGNOTHING", "15x"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn every_signal_has_a_name_that_is_read_back() {
        for number in (1..32).chain(34..=64) {
            let signal = Signal::parse(&number.to_string()).expect("a signal");
            assert_eq!(Signal::parse(&signal.name()).expect("its name"), signal, "{}", signal.name());
        }
    }
}

//! Signals: CRI counts them its own way, so they are matched by name.

use proto::runtime::v1 as cri;
use sandbox::{Error, Signal};

use super::known;

/// A stop signal that was asked for; `None` leaves it to the image.
///
/// # Errors
/// [`Error::Refused`] for a number that the contract doesn't have.
pub(crate) fn read(number: i32) -> Result<Option<Signal>, Error> {
    let signal: cri::Signal = known(number, "stop_signal")?;
    if signal == cri::Signal::RuntimeDefault {
        return Ok(None);
    }
    let name = signal.as_str_name().trim_start_matches("SIGNAL_");
    let name = name.replace("MAXMINUS", "MAX-").replace("MINPLUS", "MIN+");
    Signal::parse(&name).map(Some)
}

/// A signal as an answer shows it.
pub(crate) fn shown(signal: Signal) -> i32 {
    let name = signal.name().replace("MAX-", "MAXMINUS").replace("MIN+", "MINPLUS");
    let found = cri::Signal::from_str_name(&format!("SIGNAL_{name}"));
    found.unwrap_or(cri::Signal::RuntimeDefault) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_contract_is_read_and_shown() {
        for number in 1..=65 {
            let signal = read(number).unwrap().unwrap();
            let again = read(shown(signal)).unwrap().unwrap();
            assert_eq!(signal, again, "signal {number} of the contract");
        }
        assert_eq!(read(0).unwrap(), None);
        assert!(read(66).is_err());
    }
}

//! Which answer is right.

use tonic::{Code, Status};

use super::faults::{Fault, Kind};

/// What is wrong with the answer to a call at one of whose steps a fault has struck; an ok is looked at by what is there then.
pub(super) fn answer(fault: &Fault, answer: &Result<(), Status>) -> Result<(), String> {
    let Err(status) = answer else { return Ok(()) };
    let (code, text) = (status.code(), status.message());
    let told = text.matches("a fault was injected").count();
    // What fails always, fails as often as there is something to be done.
    let is_told = if fault.times == "once" { told == 1 } else { told >= 1 };
    let is_right = match fault.kind {
        Kind::Error => code == Code::Internal && is_told && names_a_thing(text),
        Kind::Want(what) => {
            code == Code::ResourceExhausted
                && what.iter().any(|words| text.contains(words))
                && names_a_thing(text)
        }
        // Whoever asked has given up, or the step's own deadline has passed.
        Kind::Hang => code == Code::DeadlineExceeded,
        // The connection broke off: there is no answer of ours.
        Kind::Daemon => true,
        Kind::Supervisor | Kind::Workload => {
            matches!(
                code,
                Code::Unavailable | Code::Internal | Code::FailedPrecondition | Code::DeadlineExceeded
            ) && names_a_thing(text)
        }
    };
    if is_right { Ok(()) } else { Err(format!("the answer is {code:?}: {text}")) }
}

/// Things are named in quotes.
fn names_a_thing(text: &str) -> bool {
    text.matches('"').count() >= 2
}

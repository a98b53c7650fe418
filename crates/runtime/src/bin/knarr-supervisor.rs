//! The supervisor of one pod, started by the daemon: see `runtime::supervisor`.

use std::io::Write;
use std::process::ExitCode;

use runtime::supervisor::{Arguments, HOLD_USER_NAMESPACE, SupervisorError, hold_user_namespace, run};

/// What a shell user gets for misuse, as from other programs.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    if std::env::args().skip(1).eq([HOLD_USER_NAMESPACE]) {
        return finish(hold_user_namespace());
    }
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = "usage: knarr-supervisor --pod ID --dir DIRECTORY [--cgroup JSON] [--begin called] <LISTENING_SOCKET";
            return fail(USAGE, &format!("{error}; {usage}"));
        }
    };
    finish(run(arguments))
}

fn finish(outcome: Result<(), SupervisorError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ SupervisorError::Misused(_)) => fail(USAGE, &error.to_string()),
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            fail(1, &format!("{error}{cause}"))
        }
    }
}

fn fail(code: u8, why: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "knarr-supervisor: {why}");
    ExitCode::from(code)
}

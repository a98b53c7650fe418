//! Faults at steps, on demand: of test builds alone (docs/matrix.md).
//!
//! | file in `KNARR_FAULTS` | who writes it | what it has |
//! |---|---|---|
//! | `passed` | the daemon | a line for each step that was passed |
//! | `armed` | the test | `<step> <fault> once` or `… always` |
//! | `struck` | the daemon, before the fault acts | a line for each fault: step and fault |
//! | `hold` | the test, which removes it | held steps wait while it is there |

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// How often a step that is held looks whether it still is.
const LOOK: Duration = Duration::from_millis(5);

/// Has every step ask for its fault, where the environment names a directory for that.
pub(crate) fn plug() {
    let Some(directory) = std::env::var_os("KNARR_FAULTS").map(PathBuf::from) else { return };
    // By this the test knows that it is understood.
    let _unwritable = note(&directory, "passed", "");
    let _is_first = DIRECTORY.set(directory);
    image_service::plug_faults(pass);
    sandbox::plug_faults(pass);
}

fn pass(step: &str) -> io::Result<()> {
    let Some(directory) = DIRECTORY.get() else { return Ok(()) };
    // A thread that is confined can't: its steps are none.
    let Ok(()) = note(directory, "passed", step) else { return Ok(()) };
    let Some(fault) = taken(directory, step) else { return Ok(()) };
    note(directory, "struck", &format!("{step} {fault}"))?;
    match fault.as_str() {
        "error" => Err(io::Error::other("a fault was injected")),
        "full-disk" => Err(Errno::ENOSPC.into()),
        "no-descriptors" => Err(Errno::EMFILE.into()),
        "no-memory" => Err(Errno::ENOMEM.into()),
        "no-pids" => Err(Errno::EAGAIN.into()),
        "kill-daemon" => Ok(kill(nix::unistd::getpid(), Signal::SIGKILL)?),
        _ => {
            // Where the step is one of the executor's, others take the thread's tasks over.
            tokio::task::block_in_place(|| hold(&directory.join("hold")));
            Ok(())
        }
    }
}

/// The fault that is armed for a step, if one is; one that strikes once is gone then.
fn taken(directory: &Path, step: &str) -> Option<String> {
    let armed = directory.join("armed");
    let text = fs::read_to_string(&armed).ok()?;
    let [name, fault, times] = text.split_whitespace().collect::<Vec<_>>()[..] else { return None };
    if name != step {
        return None;
    }
    // Whoever renames it has it.
    (times == "always" || fs::rename(&armed, directory.join("taken")).is_ok()).then(|| fault.to_owned())
}

fn note(directory: &Path, file: &str, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(directory.join(file))?;
    file.write_all(format!("{line}\n").as_bytes())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file is looked at again, by a thread that has nothing else to do"
)]
fn hold(file: &Path) {
    while file.exists() {
        std::thread::sleep(LOOK);
    }
}

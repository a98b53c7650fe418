//! Running commands in containers: one whose output is collected (`sync`), and one that somebody is connected to (`connected`).
//!
//! The bytes go from the command's pipes or terminal to the caller, past the pod's actor.
//!
//! Not here: how the process gets there (the runtime crate), and what clients speak.

pub(crate) mod sync;

use std::time::Duration;

use runtime::plan::{ProcessPlan, TerminalSize};
use runtime::wire::{Scope, Stream};

use crate::container::status::ContainerPhase;
use crate::error::{Error, Kind};
use crate::registry::{ContainerEntry, PodEntry};
use crate::shared::Shared;
use crate::step;
use crate::streams::{
    Ending, Of, Pipe, StreamChoice, StreamSession, Terminal, failed, read_pipe, write_pipe,
};
use crate::supervisor::client::{Client, ExecStart, Joined};

/// The most that is kept of both streams together. kubelet reads no message above 16 MiB (its cri-client's `maxMsgSize`), and
/// an answer that it can't read would turn a command that went well into an error; a little is left for the rest of the message.
pub const OUTPUT_LIMIT: usize = (16 << 20) - (4 << 10);

/// What is used up ([`Error::Exhausted`]) when the commands that run print more than is kept of all of them together.
pub const OUTPUT_OF_ALL: &str = "memory for the output of commands";

/// A command to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// After this time it is killed; `None` for no limit.
    pub timeout: Option<Duration>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit status, or 128 and the number of the signal.
    pub exit_code: i32,
    /// Standard output; with standard error at most [`OUTPUT_LIMIT`] bytes of it.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Checks that a command is one that could be executed somewhere.
///
/// # Errors
/// [`Error::Refused`], by the fields of CRI's requests.
pub fn check_command(command: &[String]) -> Result<(), Error> {
    match command.first().map(String::is_empty) {
        None => return Err(Error::refused("cmd", "is empty")),
        Some(true) => return Err(Error::refused("cmd[0]", "is empty")),
        Some(false) => {}
    }
    match command.iter().position(|word| word.contains('\0')) {
        Some(at) => Err(Error::refused(format!("cmd[{at}]"), "has a zero byte in it")),
        None => Ok(()),
    }
}

/// The connection to the supervisor of a container that runs.
///
/// # Errors
/// [`Error::WrongState`] when it doesn't.
pub(crate) fn running(
    container: &ContainerEntry,
    pod: &PodEntry,
    wish: &'static str,
) -> Result<Client, Error> {
    let state = match &container.status.phase {
        ContainerPhase::Running { .. } => "without a supervisor",
        ContainerPhase::Created => "created",
        ContainerPhase::Exited(_) => "exited",
    };
    match (&container.status.phase, &pod.client) {
        (ContainerPhase::Running { .. }, Some(client)) => Ok(client.clone()),
        _ => {
            Err(Error::WrongState { kind: Kind::Container, id: container.status.id.to_string(), state, wish })
        }
    }
}

/// Runs a command that somebody is connected to. Safe to cancel: the command is killed then.
pub(crate) async fn connected(
    shared: &Shared,
    (container, pod): (&ContainerEntry, &PodEntry),
    (command, choice): (&[String], StreamChoice),
) -> Result<StreamSession, Error> {
    let client = running(container, pod, "have a command run in it")?;
    let mut process = process(container, command)?;
    let failed = failed(&container.status.id);
    let mut streams = Vec::new();
    let (mut stdin, mut stdout, mut stderr) = (None, None, None);
    if choice.terminal {
        give_terminal(&mut process);
    } else {
        if choice.stdin {
            let (input, end) = write_pipe().map_err(&failed)?;
            stdin = Some(input);
            streams.push((Stream::Stdin, end));
        }
        for (wanted, stream, output) in
            [(choice.stdout, Stream::Stdout, &mut stdout), (choice.stderr, Stream::Stderr, &mut stderr)]
        {
            if wanted {
                let (reading, end) = read_pipe(Pipe::Ordinary).map_err(&failed)?;
                *output = Some(reading);
                streams.push((stream, end));
            }
        }
    }
    let after = shared.config.deadlines.start;
    let start = ExecStart { container: &container.status.id, process, streams, after, reach: Scope::Session };
    let Joined { exec, terminal } = begin(&client, start).await?;
    let terminal = terminal.map(|master| Terminal::new(master, Some(exec.killer()))).transpose();
    let terminal = terminal.map_err(&failed)?;
    if let Some(terminal) = &terminal {
        stdin = choice.stdin.then(|| terminal.input());
        // Read in any case: a terminal whose output nobody takes stops whoever writes there.
        stdout = Some(terminal.output());
    }
    Ok(StreamSession { stdin, stdout, stderr, terminal, ending: Ending(Of::Exec(exec)) })
}

/// Has a command started.
///
/// # Errors
/// Those of [`Client::exec`], with what is used up told apart.
async fn begin(client: &Client, start: ExecStart<'_>) -> Result<Joined, Error> {
    step::before("exec", client.exec(start)).await.map_err(|error| match error {
        Error::Exec { container, cause } => Error::exec(container, cause),
        other => other,
    })
}

/// A terminal of the size that it gets when nobody says another.
fn give_terminal(process: &mut ProcessPlan) {
    process.terminal = Some(TerminalSize::default());
    // As the first process of a container with a terminal has it.
    if !process.env.iter().any(|variable| variable.starts_with("TERM=")) {
        process.env.push("TERM=xterm".to_owned());
    }
}

/// The process that joins: like the container's first one, seccomp filter included, but for the command; it has no terminal.
fn process(container: &ContainerEntry, command: &[String]) -> Result<ProcessPlan, Error> {
    let Some(first) = &container.process else {
        return Err(Error::WrongState {
            kind: Kind::Container,
            id: container.status.id.to_string(),
            state: "without its plan, which cannot be read",
            wish: "have a command run in it",
        });
    };
    check_command(command)?;
    Ok(ProcessPlan { args: command.to_vec(), terminal: None, ..ProcessPlan::clone(first) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_command_is_refused_by_its_word() {
        let check =
            |words: &[&str]| check_command(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        check(&["true", ""]).unwrap();
        for (words, refusal) in [
            (&[][..], "cmd: is empty"),
            (&["", "a"], "cmd[0]: is empty"),
            (&["a\0b"], "cmd[0]: has a zero byte in it"),
            (&["true", "a", "\0"], "cmd[2]: has a zero byte in it"),
        ] {
            assert_eq!(check(words).unwrap_err().to_string(), refusal);
        }
    }
}

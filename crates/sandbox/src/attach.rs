//! Connecting somebody to the streams of a container's first process.
//!
//! The container and its log never wait: the supervisor copies output, after the log has it, into pipes that are read here, and ends
//! an attachment whose pipes are not read fast enough. Input goes straight into the container's pipe or terminal.
//!
//! | the container has | its input ends |
//! |---|---|
//! | no standard input | never: there is none |
//! | `stdin` | with the container, over any number of attachments |
//! | `stdin` and `stdin_once` | for all attachments, when one that had it has gone, or its client has nothing more to say |
//! | a terminal | never: whoever reads there takes what is typed for an end of file (Control-D) |
//!
//! Not here: the copying (the runtime crate's `supervisor`), and what clients speak.

use runtime::wire::{AttachedInput, Stream};

use crate::container::config::Stdin;
use crate::error::Error;
use crate::exec::running;
use crate::registry::{ContainerEntry, PodEntry};
use crate::streams::{Ending, Input, Of, Pipe, StreamChoice, StreamSession, Terminal, failed, read_pipe};
use crate::supervisor::client::Attach;

/// Connects to a container. Safe to cancel: the connection ends then.
pub(crate) async fn connected(
    (container, pod): (&ContainerEntry, &PodEntry),
    choice: StreamChoice,
) -> Result<StreamSession, Error> {
    let client = running(container, pod, "be attached to")?;
    let config = &container.status.config;
    check(config.tty, choice)?;
    let failed = failed(&container.status.id);
    let (mut outputs, mut stdout, mut stderr) = (Vec::new(), None, None);
    for (wanted, stream, output) in
        [(choice.stdout, Stream::Stdout, &mut stdout), (choice.stderr, Stream::Stderr, &mut stderr)]
    {
        if wanted {
            let (reading, end) = read_pipe(Pipe::Large).map_err(&failed)?;
            *output = Some(reading);
            outputs.push((stream, end));
        }
    }
    let stdin = choice.stdin && config.stdin != Stdin::Null;
    let attach = Attach { container: &container.status.id, stdin, outputs };
    let (attachment, input, descriptor) = client.attach(attach).await?;
    let (stdin, terminal) = match (input, descriptor) {
        (AttachedInput::Pipe, Some(writing)) if config.stdin == Stdin::Once => {
            (container.input.open(writing).map_err(&failed)?, None)
        }
        (AttachedInput::Pipe, Some(writing)) => (Some(Input::pipe(writing).map_err(&failed)?), None),
        (AttachedInput::Terminal, Some(master)) => {
            let terminal = Terminal::new(master, None).map_err(&failed)?;
            (stdin.then(|| terminal.input()), Some(terminal))
        }
        (AttachedInput::None | AttachedInput::Pipe | AttachedInput::Terminal, _) => (None, None),
    };
    let stdin = stdin.map(|input| input.ending(attachment.input_end()));
    Ok(StreamSession { stdin, stdout, stderr, terminal, ending: Ending(Of::Attachment(attachment)) })
}

/// A client that takes a container to have a terminal prepares its own for one: without, its keys would do nothing that they say.
/// The other way round nothing is lost: the terminal's output is standard output, and standard error has nothing.
fn check(tty: bool, choice: StreamChoice) -> Result<(), Error> {
    match (tty, choice.terminal) {
        (false, true) => Err(Error::refused("tty", "is set, and the container has no terminal")),
        (true, _) | (false, false) => Ok(()),
    }
}

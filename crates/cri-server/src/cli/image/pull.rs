//! `knarr pull`: progress goes to standard error, the image's id to standard output.

use std::io::{self, BufRead, IsTerminal, Write};

use nix::sys::termios::{self, LocalFlags, SetArg};

use super::progress::Progress;
use super::table::print;
use super::{Client, ClientError, Outcome, PullArgs};
use crate::own_service::v1;

pub(super) async fn run(mut client: Client, arguments: PullArgs) -> Outcome<()> {
    let PullArgs { image, creds, quiet } = arguments;
    let (username, password) = credentials(creds)?;
    let request = v1::PullImageRequest { image, username, password };
    let mut events = client.pull(request).await.map_err(ClientError::from)?.into_inner();
    let mut progress = Progress::new(quiet);
    let id = loop {
        match events.message().await {
            Ok(Some(event)) => {
                progress.show(&event)?;
                if !event.id.is_empty() {
                    break event.id;
                }
            }
            Ok(None) => return Err("the daemon did not say how the pull ended".into()),
            Err(status) => {
                progress.clear()?;
                return Err(ClientError::from(status).into());
            }
        }
    };
    progress.clear()?;
    Ok(print(format!("{id}\n").as_bytes())?)
}

/// User and password; what isn't given is asked for.
fn credentials(given: Option<String>) -> Outcome<(String, String)> {
    match given {
        None => Ok((String::new(), String::new())),
        Some(given) => match given.split_once(':') {
            Some((user, password)) => Ok((user.to_owned(), password.to_owned())),
            None => Ok((given, password()?)),
        },
    }
}

/// A line of standard input, which isn't shown while it is typed.
fn password() -> io::Result<String> {
    let stdin = io::stdin();
    let before = if stdin.is_terminal() {
        write!(io::stderr(), "password: ")?;
        let before = termios::tcgetattr(&stdin)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &silent)?;
        Some(before)
    } else {
        None
    };
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if let Some(before) = before {
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &before)?;
        writeln!(io::stderr())?;
    }
    read.map(|_| line.trim_end_matches(['\r', '\n']).to_owned())
}

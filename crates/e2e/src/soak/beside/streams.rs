//! Sessions of exec and attach in random pods, by both protocols; some end in the middle.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1::{AttachRequest, ExecRequest};
use tokio::time::timeout;

use super::{SESSIONS, every};
use crate::soak::latencies::Call;
use crate::soak::life::Life;
use crate::soak::place::Place;
use crate::streams::{Channel, Command, Protocol, V5, Wanted};
use crate::{Client, Dice, patience};

/// How long a session may take.
const SESSION: Duration = Duration::from_secs(60);

/// What a session speaks with a process.
const WANTED: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };

pub(super) async fn talk(place: Arc<Place>) {
    let client = place.client();
    let mut dice = Dice::new(3);
    let mut ticks = every(SESSIONS);
    while !place.is_over() {
        ticks.tick().await;
        let Some(life) = place.crowd.any(&mut dice) else { continue };
        let (kind, protocol) = (Kind::ALL[at(&mut dice, 3)], [Protocol::Spdy, V5][at(&mut dice, 2)]);
        let kills = place.kills();
        let session = timeout(patience(SESSION), session(&client, &life, (kind, protocol)));
        let session = async { session.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) };
        match place.clock.timed(Call::Stream, session).await {
            Err(_) if life.is_leaving() || place.was_killed_since(kills) => {}
            Err(error) => place.complain(format!("{kind:?}, {protocol:?}, in {}: {error}", life.container)),
            Ok(()) => {}
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A command that answers, to its end.
    Exec,
    /// One whose client goes first.
    Deserted,
    /// A word to the container's first process, and its answer.
    Attach,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Exec, Self::Deserted, Self::Attach];
}

fn at(dice: &mut Dice, bound: u64) -> usize {
    usize::try_from(dice.below(bound)).unwrap_or_default()
}

async fn session(client: &Client, life: &Life, (kind, protocol): (Kind, Protocol)) -> io::Result<()> {
    let mut command = Command::open(&url(client, life, kind).await?, protocol, WANTED).await?;
    command.send(Channel::Stdin, b"to and fro\n").await?;
    match kind {
        Kind::Attach => hear(&mut command, "heard to and fro\n").await,
        Kind::Deserted => hear(&mut command, "to and fro\n").await,
        Kind::Exec => {
            hear(&mut command, "to and fro\n").await?;
            command.end_input().await?;
            while command.next().await?.is_some() {}
            Ok(())
        }
    }
}

async fn url(client: &Client, life: &Life, kind: Kind) -> io::Result<String> {
    let (container_id, tty, stdin, stdout, stderr) = (life.container.clone(), false, true, true, false);
    let mut runtime = client.runtime.clone();
    let answer = match kind {
        Kind::Attach => {
            let request = AttachRequest { container_id, stdin, tty, stdout, stderr };
            runtime.attach(request).await.map(|answer| answer.into_inner().url)
        }
        Kind::Exec | Kind::Deserted => {
            let cmd = vec!["cat".to_owned()];
            let request = ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
            runtime.exec(request).await.map(|answer| answer.into_inner().url)
        }
    };
    answer.map_err(io::Error::other)
}

/// Hears until a text has come.
async fn hear(command: &mut Command, text: &str) -> io::Result<()> {
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(text) {
        let Some((channel, bytes)) = command.next().await? else {
            let heard = String::from_utf8_lossy(&heard).into_owned();
            return Err(io::Error::other(format!("the session ended after {heard:?}")));
        };
        if matches!(channel, Channel::Stdout) {
            heard.extend_from_slice(&bytes);
        }
    }
    Ok(())
}

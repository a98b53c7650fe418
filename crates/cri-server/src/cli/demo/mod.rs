//! `knarr demo`: the main job on its own.
//!
//! A private daemon on directories of its own with the built-in network, an image pulled from a registry that the demo
//! serves itself, a pod, its log, an exec, its stats; then everything is removed again. It is a client of the daemon like
//! any other: nothing here reaches into it. A signal cuts the demo short, and everything is removed all the same.

mod daemon;
mod image;
mod registry;
mod tour;

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::DemoArgs;

const WORKLOAD: &str = "knarr-demo-workload";

/// A line about what happens now, where there is a terminal to follow it, and what came out of it, always.
pub(super) struct Screen {
    terminal: bool,
}

impl Screen {
    fn new() -> Self {
        Self { terminal: io::stderr().is_terminal() }
    }

    /// Shows what is being waited for, until the next call.
    pub(super) fn busy(&self, what: &str) -> io::Result<()> {
        if self.terminal { write!(io::stderr(), "\r\x1b[K… {what}") } else { Ok(()) }
    }

    /// Shows a result.
    pub(super) fn show(&self, what: &str, value: &str) -> io::Result<()> {
        if self.terminal {
            write!(io::stderr(), "\r\x1b[K")?;
        }
        writeln!(io::stdout(), "{what:<10} {value}")
    }
}

/// Runs the demo; the error says which part of it failed.
pub(crate) fn run(arguments: &DemoArgs) -> Result<(), Box<dyn Error>> {
    crate::finish(crate::executor()?, demonstrate(arguments))
}

async fn demonstrate(arguments: &DemoArgs) -> Result<(), Box<dyn Error>> {
    // From the beginning, so that no signal ends the demo with a daemon behind it.
    let interrupt = Interrupt::watch()?;
    let screen = Screen::new();
    screen.busy("packing an image and serving it")?;
    let packed = image::pack(&workload()?)?;
    let registry = registry::Registry::serve(packed).await?;
    screen.busy("starting a private daemon")?;
    let daemon = daemon::Daemon::start()?;
    let (reference, own) = match &arguments.image {
        Some(image) => (image.clone(), tour::Workload::Foreign),
        None => (registry.reference(), tour::Workload::Packed),
    };
    let toured = tour::tour(&daemon, &screen, (&reference, own), interrupt).await;
    let ended = daemon.end().await;
    toured?;
    ended?;
    screen.show("clean", "pod, image, daemon and directories are gone")?;
    Ok(())
}

/// The program that runs in the demo's pod: beside this one where it was built, in libexec (Filesystem Hierarchy Standard 3.0, 4.7)
/// where it is installed.
fn workload() -> Result<PathBuf, Box<dyn Error>> {
    let places = [crate::beside(WORKLOAD)?, crate::beside("../libexec/knarr")?.join(WORKLOAD)];
    let [built, installed] = &places;
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.ok_or_else(|| {
        format!("the demo's own program is neither {} nor {}", built.display(), installed.display()).into()
    })
}

/// The wish to end early: SIGINT or SIGTERM.
pub(super) struct Interrupt {
    signals: [Signal; 2],
}

impl Interrupt {
    fn watch() -> io::Result<Self> {
        Ok(Self { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?] })
    }

    /// Does `work` unless a signal comes first; then the work is dropped. Safe to cancel.
    ///
    /// # Errors
    /// Those of the work, and the interruption.
    pub(super) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, Box<dyn Error>>>,
    ) -> Result<T, Box<dyn Error>> {
        let [interrupt, terminate] = &mut self.signals;
        tokio::select! {
            done = work => done,
            _ = interrupt.recv() => Err("interrupted".into()),
            _ = terminate.recv() => Err("interrupted".into()),
        }
    }
}

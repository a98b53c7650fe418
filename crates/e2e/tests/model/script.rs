//! Scripts: what is asked of the daemon, as data and as text that a person reads and a test replays.
//!
//! ```text
//! # A line is a phase: what is in it happens at once, and the next line waits for all of it.
//! run a0
//! create a0/x0 polite | create a0/x0 polite
//! start a0/x0 @3 | stop a0/x0 1 | kill @7
//! remove a0/x0 !2
//! ```
//! `a0` is the pod called `a` in its attempt 0, `a0/x1` the container `x` in it in its attempt 1. `@3` waits for three milliseconds first, `!2`
//! is a client that goes away after two; `kill` and `restart` end the daemon with SIGKILL and SIGTERM, and start it once the phase is over.
//!
//! Not here: what scripts are made up (see `generator`), what an answer may be (see `model`).

use std::fmt;
use std::str::FromStr;

use crate::words::{choose, number};

/// A pod by its name and attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodName {
    pub name: char,
    pub attempt: u8,
}

/// A container by its pod, name and attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerName {
    pub pod: PodName,
    pub name: char,
    pub attempt: u8,
}

/// What a pod's configuration says beside its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    Usual,
    /// The same name, another label: not the same request.
    Other,
}

/// What a container's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Ends with 3 on SIGTERM, and with 5 when it is told to.
    Polite,
    /// Ignores SIGTERM, and ends with 5 when it is told to.
    Deaf,
    /// Ends with 7 at once.
    Brief,
    /// There is no such program.
    Missing,
}

/// Which pods a list is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pods {
    All,
    Ready,
    NotReady,
    Labelled(Variant),
}

/// Which containers a list is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Containers {
    All,
    Created,
    Running,
    Exited,
    Of(PodName),
}

/// Something that is asked of the daemon, or done to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Pull,
    Unpull,
    Image,
    Run(PodName, Variant),
    StopPod(PodName),
    RemovePod(PodName),
    PodStatus(PodName),
    Pods(Pods),
    Create(ContainerName, Kind),
    Start(ContainerName),
    /// With a grace period in seconds.
    Stop(ContainerName, u8),
    Remove(ContainerName),
    /// New CPU shares.
    Update(ContainerName, u8),
    Exec(ContainerName),
    Status(ContainerName),
    Containers(Containers),
    /// Tells it to end by itself: nothing that the daemon hears of.
    End(ContainerName),
}

/// What is done in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A call; its client goes away after so many milliseconds.
    Ask(Call, Option<u8>),
    /// The daemon is killed.
    Kill,
    /// The daemon is ended and started again.
    Restart,
}

/// An act, so many milliseconds after the phase began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub act: Act,
    pub after: u8,
}

/// What happens at once.
pub type Phase = Vec<Move>;

/// One phase after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script(pub Vec<Phase>);

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.attempt)
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.pod, self.name, self.attempt)
    }
}

/// A letter and a digit.
fn letter_and_digit(text: &str) -> Result<(char, u8), String> {
    let mut letters = text.chars();
    match (letters.next(), letters.as_str().parse()) {
        (Some(name), Ok(attempt)) => Ok((name, attempt)),
        _ => Err(format!("\"{text}\" is no letter with a number")),
    }
}

impl FromStr for PodName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, attempt) = letter_and_digit(text)?;
        Ok(Self { name, attempt })
    }
}

impl FromStr for ContainerName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (pod, own) = text.split_once('/').ok_or_else(|| format!("\"{text}\" names no container"))?;
        let (name, attempt) = letter_and_digit(own)?;
        Ok(Self { pod: pod.parse()?, name, attempt })
    }
}

/// The words of kinds, variants and filters.
pub const KINDS: [(&str, Kind); 4] =
    [("polite", Kind::Polite), ("deaf", Kind::Deaf), ("brief", Kind::Brief), ("missing", Kind::Missing)];
pub const VARIANTS: [(&str, Variant); 2] = [("", Variant::Usual), ("other", Variant::Other)];
pub const PODS: [(&str, Pods); 5] = [
    ("", Pods::All),
    ("ready", Pods::Ready),
    ("notready", Pods::NotReady),
    ("usual", Pods::Labelled(Variant::Usual)),
    ("other", Pods::Labelled(Variant::Other)),
];
pub const CONTAINERS: [(&str, Containers); 4] = [
    ("", Containers::All),
    ("created", Containers::Created),
    ("running", Containers::Running),
    ("exited", Containers::Exited),
];

/// The word of a value in one of these tables.
fn word<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> &'static str {
    table.iter().find(|(_, one)| one == value).map_or("?", |(word, _)| word)
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Pull => "pull".to_owned(),
            Self::Unpull => "unpull".to_owned(),
            Self::Image => "image".to_owned(),
            Self::Run(pod, variant) => format!("run {pod} {}", word(&VARIANTS, variant)),
            Self::StopPod(pod) => format!("stoppod {pod}"),
            Self::RemovePod(pod) => format!("removepod {pod}"),
            Self::PodStatus(pod) => format!("podstatus {pod}"),
            Self::Pods(filter) => format!("pods {}", word(&PODS, filter)),
            Self::Create(container, kind) => format!("create {container} {}", word(&KINDS, kind)),
            Self::Start(container) => format!("start {container}"),
            Self::Stop(container, grace) => format!("stop {container} {grace}"),
            Self::Remove(container) => format!("remove {container}"),
            Self::Update(container, shares) => format!("update {container} {shares}"),
            Self::Exec(container) => format!("exec {container}"),
            Self::Status(container) => format!("status {container}"),
            Self::Containers(Containers::Of(pod)) => format!("containers {pod}"),
            Self::Containers(filter) => format!("containers {}", word(&CONTAINERS, filter)),
            Self::End(container) => format!("end {container}"),
        };
        f.write_str(text.trim_end())
    }
}

impl Call {
    /// Whether it only looks: nothing follows from it.
    pub fn is_look(self) -> bool {
        match self {
            Self::Image
            | Self::PodStatus(_)
            | Self::Pods(_)
            | Self::Exec(_)
            | Self::Status(_)
            | Self::Containers(_) => true,
            Self::Pull
            | Self::Unpull
            | Self::Run(..)
            | Self::StopPod(_)
            | Self::RemovePod(_)
            | Self::Create(..)
            | Self::Start(_)
            | Self::Stop(..)
            | Self::Remove(_)
            | Self::Update(..)
            | Self::End(_) => false,
        }
    }
}

impl FromStr for Call {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let mut next = || words.next().unwrap_or_default();
        let (verb, subject, rest) = (next(), next(), next());
        let call = match verb {
            "pull" => Self::Pull,
            "unpull" => Self::Unpull,
            "image" => Self::Image,
            "run" => Self::Run(subject.parse()?, choose(&VARIANTS, rest)?),
            "stoppod" => Self::StopPod(subject.parse()?),
            "removepod" => Self::RemovePod(subject.parse()?),
            "podstatus" => Self::PodStatus(subject.parse()?),
            "pods" => Self::Pods(choose(&PODS, subject)?),
            "create" => Self::Create(subject.parse()?, choose(&KINDS, rest)?),
            "start" => Self::Start(subject.parse()?),
            "stop" => Self::Stop(subject.parse()?, number(rest)?),
            "remove" => Self::Remove(subject.parse()?),
            "update" => Self::Update(subject.parse()?, number(rest)?),
            "exec" => Self::Exec(subject.parse()?),
            "status" => Self::Status(subject.parse()?),
            "containers" => Self::Containers(match choose(&CONTAINERS, subject) {
                Ok(filter) => filter,
                Err(_) => Containers::Of(subject.parse()?),
            }),
            "end" => Self::End(subject.parse()?),
            _ => return Err(format!("\"{text}\" is no call")),
        };
        Ok(call)
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.act {
            Act::Ask(call, _) => write!(f, "{call}")?,
            Act::Kill => f.write_str("kill")?,
            Act::Restart => f.write_str("restart")?,
        }
        if self.after > 0 {
            write!(f, " @{}", self.after)?;
        }
        match self.act {
            Act::Ask(_, Some(patience)) => write!(f, " !{patience}"),
            Act::Ask(_, None) | Act::Kill | Act::Restart => Ok(()),
        }
    }
}

impl FromStr for Move {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let marked = |mark: char| text.split_whitespace().find_map(|word| word.strip_prefix(mark));
        let after = marked('@').map_or(Ok(0), number)?;
        let patience = marked('!').map(number).transpose()?;
        let plain: Vec<_> = text.split_whitespace().filter(|word| !word.starts_with(['@', '!'])).collect();
        let act = match plain[..] {
            ["kill"] => Act::Kill,
            ["restart"] => Act::Restart,
            _ => Act::Ask(plain.join(" ").parse()?, patience),
        };
        Ok(Self { act, after })
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phase in &self.0 {
            let moves: Vec<_> = phase.iter().map(ToString::to_string).collect();
            writeln!(f, "{}", moves.join(" | "))?;
        }
        Ok(())
    }
}

impl FromStr for Script {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let phase = |line: &str| line.split('|').map(str::parse::<Move>).collect::<Result<Phase, String>>();
        Ok(Self(lines.filter(|line| !line.is_empty()).map(phase).collect::<Result<_, String>>()?))
    }
}

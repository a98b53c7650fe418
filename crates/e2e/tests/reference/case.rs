//! What a case is: a chain of plugins, the steps of its story, and where ours differs on purpose. Not here: the cases
//! themselves (`cases/`), carrying them out.

use serde_json::{Value, json};

use crate::probe::Question;
use crate::scratch::Place;
use crate::side::Side;

/// What Debian's plugins know.
pub(crate) const ALL_VERSIONS: &[&str] = &["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"];

/// One for each format of results.
pub(crate) const FORMATS: &[&str] = &["0.2.0", "0.4.0", "1.0.0"];

/// What only ours knows.
pub(crate) const NEWEST: &str = "1.1.0";

/// What is the same in every version is looked at in one.
pub(crate) const ONE_VERSION: &[&str] = &["1.0.0"];

/// A story that both sides are told.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// A chain of plugins, without cniVersion and name. `$DATA` is a directory of the case's own.
    pub(crate) plugins: Vec<Value>,
    pub(crate) versions: &'static [&'static str],
    pub(crate) steps: Vec<Step>,
    pub(crate) differences: Vec<Difference>,
    /// Who plays against Debian alone.
    pub(crate) casts: &'static [Cast],
}

impl Case {
    /// A case of one plugin that is added, checked, deleted, and deleted again.
    pub(crate) fn new(name: impl Into<String>, plugin: Value) -> Case {
        Case {
            name: name.into(),
            plugins: vec![plugin],
            versions: ONE_VERSION,
            steps: story![add(1), check(1), del(1), del(1)],
            differences: Vec::new(),
            casts: &[OURS],
        }
    }

    /// The same of a chain.
    pub(crate) fn chain(name: impl Into<String>, plugins: &[Value]) -> Case {
        Case { plugins: plugins.to_vec(), ..Case::new(name, Value::Null) }
    }

    /// In every version that Debian knows; all that each step leaves is looked at in the newest one, in the others only
    /// what is left in the end.
    pub(crate) fn in_all_versions(self) -> Case {
        self.in_versions(ALL_VERSIONS)
    }

    /// In every format of results, likewise.
    pub(crate) fn in_all_formats(self) -> Case {
        self.in_versions(FORMATS)
    }

    pub(crate) fn in_versions(self, versions: &'static [&'static str]) -> Case {
        Case { versions, ..self }
    }

    /// Another story.
    pub(crate) fn steps(self, steps: Vec<Step>) -> Case {
        Case { steps, ..self }
    }

    /// With something done before its steps.
    pub(crate) fn after(mut self, place: Place, commands: &'static str) -> Case {
        self.steps.insert(0, Step::On(place, commands));
        self
    }

    /// With others to play against Debian alone.
    pub(crate) fn casts(self, casts: &'static [Cast]) -> Case {
        Case { casts, ..self }
    }

    /// With a difference on purpose at the places whose path begins with `at`, where `*` stands for anything.
    pub(crate) fn differs(mut self, at: &'static str, reason: &'static str) -> Case {
        self.differences.push(Difference { at, reason });
        self
    }
}

/// Where ours is not like Debian's, and why.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    /// `<step> / <path in what it showed>`, `*` standing for anything.
    pub(crate) at: &'static str,
    pub(crate) reason: &'static str,
}

/// Who carries out which command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cast {
    pub(crate) name: &'static str,
    pub(crate) add: Side,
    pub(crate) rest: Side,
}

impl Cast {
    const fn of(name: &'static str, side: Side) -> Cast {
        Cast { name, add: side, rest: side }
    }
}

pub(crate) const DEBIAN: Cast = Cast::of("Debian's", Side::DEBIAN);
pub(crate) const OURS: Cast = Cast::of("ours", Side::OURS);
/// Either takes over from the other, and they share addresses.
pub(crate) const TAKEOVERS: &[Cast] = &[
    OURS,
    Cast { name: "ours adds, Debian's takes over", add: Side::OURS, rest: Side::DEBIAN },
    Cast { name: "Debian's adds, ours takes over", add: Side::DEBIAN, rest: Side::OURS },
    Cast::of("Debian's on our addresses", Side::OUR_ADDRESSES),
    Cast::of("ours on Debian's addresses", Side::DEBIANS_ADDRESSES),
];
/// Chains of both.
pub(crate) const MIXED_CHAINS: &[Cast] = &[
    OURS,
    Cast::of("our ports after Debian's bridge", Side::OUR_PORTS),
    Cast::of("Debian's ports after our bridge", Side::DEBIANS_PORTS),
];

/// One step of a story.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A call of every plugin of the chain, in its order, or backwards for DEL.
    Call(Call),
    /// Commands of a shell, which must end well.
    On(Place, &'static str),
    /// Servers on TCP and UDP that answer with their place and the address that they see.
    Serve(Place, u16),
    /// Questions to servers, asked at once.
    Ask(Vec<Question>),
    /// A datagram to a group, sent from the first place: whom the second one, which has joined it, sees.
    Multicast(Place, Place, &'static str),
    /// Another question by UDP from a port that stays the same, as one flow to the kernel.
    Flow(Place, &'static str),
    /// The end of a namespace, and of what it had on the host.
    End(Place),
    /// What is in the firewall of the host for pods.
    Rules,
}

impl From<Call> for Step {
    fn from(call: Call) -> Step {
        Step::Call(call)
    }
}

/// Steps of a case, calls and others.
macro_rules! story {
    ($($step:expr),* $(,)?) => { vec![$($crate::case::Step::from($step)),*] };
}
pub(crate) use story;

/// What of a call is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// How it ended: what a call that fails leaves until its DEL is nobody's promise.
    Outcome,
    /// All that is there afterwards, too.
    Everything,
}

/// What is given as prevResult.
#[derive(Debug, Clone)]
pub(crate) enum Previous {
    /// What the specification has: the result of the plugin before for ADD, that of the whole ADD later, from 0.4.0 on.
    Usual,
    Nothing,
    /// For the whole chain, or its first plugin.
    This(Value),
}

/// What CNI_NETNS says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    Pod,
    Nothing,
    NothingThere,
    AFile,
}

/// A call of a chain.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) command: &'static str,
    pub(crate) pod: u8,
    /// Laid over the configuration of every plugin: null takes a key away, objects are merged.
    pub(crate) config: Value,
    /// Variables instead of the usual ones; None: not there at all.
    pub(crate) environment: Vec<(&'static str, Option<&'static str>)>,
    pub(crate) netns: Names,
    pub(crate) previous: Previous,
    /// Standard input as it is.
    pub(crate) raw: Option<&'static str>,
    pub(crate) seen: Seen,
}

impl Call {
    fn new(command: &'static str, pod: u8) -> Call {
        Call {
            command,
            pod,
            config: Value::Null,
            environment: Vec::new(),
            netns: Names::Pod,
            previous: Previous::Usual,
            raw: None,
            seen: Seen::Everything,
        }
    }

    pub(crate) fn with(self, config: Value) -> Call {
        Call { config, ..self }
    }

    pub(crate) fn env(mut self, name: &'static str, value: Option<&'static str>) -> Call {
        self.environment.push((name, value));
        self
    }

    pub(crate) fn args(self, args: &'static str) -> Call {
        self.env("CNI_ARGS", Some(args))
    }

    pub(crate) fn on_interface(self, name: &'static str) -> Call {
        self.env("CNI_IFNAME", Some(name))
    }

    pub(crate) fn netns(self, netns: Names) -> Call {
        Call { netns, ..self }
    }

    pub(crate) fn previous(self, previous: Previous) -> Call {
        Call { previous, ..self }
    }

    pub(crate) fn raw(self, raw: &'static str) -> Call {
        Call { raw: Some(raw), ..self }
    }

    /// Only how it ends is compared.
    pub(crate) fn outcome(self) -> Call {
        Call { seen: Seen::Outcome, ..self }
    }

    /// Whether it is about one attachment, which the environment names.
    pub(crate) fn is_of_an_attachment(&self) -> bool {
        matches!(self.command, "ADD" | "CHECK" | "DEL")
    }

    /// What a report calls it.
    pub(crate) fn name(&self) -> String {
        if self.is_of_an_attachment() {
            format!("{} pod{}", self.command, self.pod)
        } else {
            self.command.into()
        }
    }
}

pub(crate) fn add(pod: u8) -> Call {
    Call::new("ADD", pod)
}

/// CHECK, of which only the outcome is looked at: what it might have changed, the step after it shows.
pub(crate) fn check(pod: u8) -> Call {
    Call::new("CHECK", pod).outcome()
}

pub(crate) fn del(pod: u8) -> Call {
    Call::new("DEL", pod)
}

/// GC with `valid` as what there still is (CNI 1.1.0, section 2, "GC").
pub(crate) fn gc(valid: &[(&str, &str)]) -> Call {
    let valid =
        valid.iter().map(|(container, interface)| json!({"containerID": container, "ifname": interface}));
    Call::new("GC", 1).with(json!({"cni.dev/valid-attachments": valid.collect::<Vec<_>>()}))
}

pub(crate) fn status() -> Call {
    Call::new("STATUS", 1).outcome()
}

pub(crate) fn version() -> Call {
    Call::new("VERSION", 1).outcome()
}

//! The table of faults: what is ordered, and what has to be heard of it.
//!
//! Cases run side by side, each worker on a "host" of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use cni::Error;

use crate::rig::{Chain, Pod, Rig};
use crate::support::netns::on_own_host;
use crate::support::shown;

/// How many hosts at once: most cases wait for processes and deadlines.
const WORKERS: usize = 12;

/// What is to be heard of a fault.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Heard {
    /// Nothing: all is as if it hadn't been.
    Nothing,
    /// An error of that kind with these words, each once.
    Error(fn(&Error) -> bool, &'static [&'static str]),
}

/// A way of going wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// Its name in plugin.sh.
    pub(crate) name: &'static str,
    /// Before, after the plugin's work; or once only.
    pub(crate) when: &'static [&'static str],
    /// At ADD, whose answer is a result.
    pub(crate) at_add: Heard,
    /// At the other verbs.
    pub(crate) elsewhere: Heard,
}

const fn fails(
    name: &'static str,
    when: &'static [&'static str],
    is: fn(&Error) -> bool,
    words: &'static [&'static str],
) -> Fault {
    Fault { name, when, at_add: Heard::Error(is, words), elsewhere: Heard::Error(is, words) }
}

const fn is_fine(name: &'static str, when: &'static [&'static str]) -> Fault {
    Fault { name, when, at_add: Heard::Nothing, elsewhere: Heard::Nothing }
}

const fn bad_result(name: &'static str, words: &'static [&'static str]) -> Fault {
    let is = |error: &Error| matches!(error, Error::PluginGarbage { .. });
    Fault { name, when: &["after"], at_add: Heard::Error(is, words), elsewhere: Heard::Nothing }
}

const BOTH: &[&str] = &["before", "after"];

pub(crate) const FAULTS: &[Fault] = &[
    fails("missing", &["before"], |e| matches!(e, Error::PluginMissing { .. }), &["isn't in"]),
    fails("killed", BOTH, |e| matches!(e, Error::PluginCrashed { .. }), &["signal: 9"]),
    fails("hang", BOTH, |e| matches!(e, Error::PluginTimedOut { .. }), &["within"]),
    fails("stubborn", &["after"], |e| matches!(e, Error::PluginTimedOut { .. }), &["within"]),
    fails("grandchild", &["before"], |e| matches!(e, Error::PluginTimedOut { .. }), &["within"]),
    is_fine("keeps-pipes", &["after"]),
    is_fine("slow", BOTH),
    fails("flood", BOTH, |e| matches!(e, Error::PluginOutput { .. }), &["more than 1048576 bytes"]),
    is_fine("noise", BOTH),
    is_fine("older", &["after"]),
    is_fine("newer", &["after"]),
    bad_result("unknown-version", &["unknown cniVersion '7.0.0'"]),
    bad_result("garbage", &["what a day"]),
    bad_result("nothing", &["no valid result"]),
    bad_result("half", &["no valid result"]),
    fails(
        "error",
        &["before", "after", "once-before", "once-after"],
        |e| matches!(e, Error::PluginFailed { code: 107, .. }),
        &["out of leases", "the pool is dry since noon", "107"],
    ),
];

/// One fault at one place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) chain: Chain,
    pub(crate) verb: &'static str,
    pub(crate) fault: Fault,
    pub(crate) when: &'static str,
    pub(crate) plugin: &'static str,
}

impl Case {
    pub(crate) fn order(&self, rig: &Rig) {
        rig.order(self.plugin, &format!("{} {} {}", self.verb, self.when, self.fault.name));
    }

    pub(crate) fn is_once(&self) -> bool {
        self.when.starts_with("once")
    }

    /// Whether its plugin uses its deadline up.
    pub(crate) fn hangs(&self) -> bool {
        ["hang", "stubborn", "grandchild"].contains(&self.fault.name)
    }

    pub(crate) fn heard(&self) -> Heard {
        if self.verb == "ADD" { self.fault.at_add } else { self.fault.elsewhere }
    }

    /// Whether all is as if nothing had been wrong, or what is told is what has to be.
    pub(crate) fn judge(&self, failure: Option<&Error>) {
        match (self.heard(), failure) {
            (Heard::Nothing, None) => {}
            (Heard::Nothing, Some(error)) => panic!("fails: {}", shown(error)),
            (Heard::Error(..), None) => panic!("isn't noticed"),
            (Heard::Error(is, words), Some(error)) => {
                assert!(is(one_of(error)), "another error: {error:?}");
                let (plugin, verb) = (format!("'{}'", self.plugin), format!(" {}", self.verb));
                self.says_once(&shown(error), words);
                assert_eq!(shown(error).matches(&plugin).count(), 1, "names its plugin: {}", shown(error));
                let names_verb = shown(error).matches(&verb).count();
                assert_eq!(names_verb, usize::from(self.fault.name != "missing"), "{}", shown(error));
            }
        }
    }

    pub(crate) fn says_once(&self, text: &str, words: &[&str]) {
        for word in words {
            assert_eq!(text.matches(word).count(), 1, "says '{word}' once: {text}");
        }
    }
}

/// The one failure of a list of them.
fn one_of(error: &Error) -> &Error {
    match error {
        Error::Detach { failures, .. } | Error::Collect { failures } => {
            assert_eq!(failures.len(), 1, "{}", shown(error));
            &failures[0]
        }
        other => other,
    }
}

/// All faults of a verb at all places, if `wanted`.
pub(crate) fn cases(chain: Chain, verb: &'static str, wanted: fn(&Fault, &str) -> bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for fault in FAULTS {
        for when in fault.when.iter().filter(|when| wanted(fault, when)) {
            for plugin in chain.plugins() {
                cases.push(Case { chain, verb, fault: *fault, when, plugin });
            }
        }
    }
    assert!(!cases.is_empty());
    cases
}

/// Runs the cases side by side, and tells of all that failed.
pub(crate) fn run<F: Future<Output = ()> + 'static>(
    cases: Vec<Case>,
    version: &'static str,
    test: fn(Case, Rig) -> F,
) {
    let (todo, failed) = (Mutex::new(cases), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                // Poisoned by nobody: cases panic without it.
                let next = || todo.lock().unwrap().pop();
                while let Some(case) = next() {
                    let outcome =
                        catch_unwind(AssertUnwindSafe(|| on_own_host(move || one(case, version, test))));
                    if outcome.is_err() {
                        failed.lock().unwrap().push(format!(
                            "{} {} {} of {}",
                            case.verb, case.when, case.fault.name, case.plugin
                        ));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} cases failed: {failed:#?}", failed.len());
}

async fn one<F: Future<Output = ()>>(case: Case, version: &'static str, test: fn(Case, Rig) -> F) {
    if case.chain == Chain::Debian {
        warm_up().await;
    }
    let rig = Rig::new(case.chain, version);
    tokio::time::timeout(std::time::Duration::from_secs(120) * crate::rig::slowness(), test(case, rig))
        .await
        .expect("it ends");
}

/// Debian's plugins leave a bridge and empty chains for the next pod.
pub(crate) async fn warm_up() {
    let rig = Rig::new(Chain::Debian, "1.0.0");
    let (networks, pod) = (rig.open(), Pod::new("pod9"));
    networks.add(&pod.attachment).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    networks.del(&pod.attachment).await.unwrap();
}

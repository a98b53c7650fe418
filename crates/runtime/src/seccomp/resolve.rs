//! From rules by name to decisions by number, for each architecture that a filter knows.
//!
//! Not here: instructions (`bpf`).

use std::collections::{BTreeMap, HashMap};

use super::architecture::{Architecture, MULTIPLEXERS, Multiplexer, X32_BIT};
use super::profile::{Condition, Profile, Test, Verdict};

/// Rules of one call.
type Rules = Vec<(Vec<Condition>, Verdict)>;

/// What becomes of the calls of a range of numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The first whose conditions hold decides; none of them is without conditions.
    pub rules: Rules,
    /// When none does.
    pub otherwise: Verdict,
}

/// What a filter says about one architecture.
#[derive(Debug)]
pub struct Section {
    /// AUDIT_ARCH_*.
    pub audit: u32,
    /// From which number on which decision holds, up to the next one. Begins at 0.
    pub ranges: Vec<(u32, Decision)>,
}

/// What becomes of calls of an architecture that the profile doesn't name: nothing in it can be about them.
pub const FOREIGN: Verdict = Verdict::KILL_PROCESS;

/// The sections of a profile on a machine, its own architecture first.
pub fn sections(profile: &Profile, native: Architecture) -> Vec<Section> {
    let named = |architecture: &Architecture| profile.architectures.contains(architecture);
    let mut sections = Vec::new();
    for architecture in std::iter::once(native).chain(native.relatives().iter().copied().filter(named)) {
        let decisions = decisions(profile, architecture);
        match architecture {
            // x32 has no section of its own: its calls are x86-64's, high up.
            Architecture::X32 => {}
            Architecture::X86_64 if named(&Architecture::X32) => {
                let mut all = decisions;
                all.extend(self::decisions(profile, Architecture::X32));
                sections.push(section(profile, architecture, all));
            }
            _ => sections.push(section(profile, architecture, decisions)),
        }
    }
    sections
}

fn section(profile: &Profile, architecture: Architecture, decisions: BTreeMap<u32, Decision>) -> Section {
    let otherwise = Decision::plain(profile.default);
    let mut ranges = vec![(0, otherwise.clone())];
    for (number, decision) in decisions {
        begin(&mut ranges, number, decision);
        begin(&mut ranges, number.saturating_add(1), otherwise.clone());
    }
    if architecture == Architecture::X86_64 && !profile.architectures.contains(&Architecture::X32) {
        begin(&mut ranges, X32_BIT, Decision::plain(FOREIGN));
        // A call that a tracer has cancelled, which is none of x32's.
        begin(&mut ranges, u32::MAX, otherwise);
    }
    Section { audit: architecture.audit(), ranges }
}

fn begin(ranges: &mut Vec<(u32, Decision)>, from: u32, decision: Decision) {
    if ranges.last().is_some_and(|last| last.0 == from) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|last| last.1 != decision) {
        ranges.push((from, decision));
    }
}

/// The decision of every call that has a rule.
fn decisions(profile: &Profile, architecture: Architecture) -> BTreeMap<u32, Decision> {
    let mut rules: HashMap<&str, Rules> = HashMap::new();
    for rule in &profile.rules {
        let narrow = |condition: &Condition| Condition { test: condition.test.narrowed(), ..*condition };
        let conditions: Vec<Condition> = match architecture.has_narrow_arguments() {
            true => rule.conditions.iter().map(narrow).collect(),
            false => rule.conditions.clone(),
        };
        for name in &rule.names {
            rules.entry(name).or_default().push((conditions.clone(), rule.verdict));
        }
    }
    if architecture == Architecture::X86 {
        demultiplex(&mut rules, profile);
    }
    let decided = |name: &str, rules: Vec<_>| {
        let numbers = architecture.numbers(name);
        let decision = (!numbers.is_empty()).then(|| Decision::of(rules, otherwise(profile, name)));
        numbers.into_iter().filter_map(move |number| Some((number, decision.clone()?)))
    };
    rules.into_iter().flat_map(|(name, rules)| decided(name, rules)).collect()
}

/// What holds for a call when no rule does.
fn otherwise(profile: &Profile, name: &str) -> Verdict {
    let exception = profile.exceptions.iter().find(|(exception, _)| *exception == name);
    exception.map_or(profile.default, |(_, verdict)| *verdict)
}

/// Gives the calls that stand for many what is said about those. Their arguments are behind a pointer, where no filter can look: whatever depends
/// on them gets the strictest verdict that it could have.
fn demultiplex(rules: &mut HashMap<&str, Rules>, profile: &Profile) {
    for Multiplexer { name: multiplexer, mask, calls } in MULTIPLEXERS {
        let mut further = Vec::new();
        for (value, name) in calls {
            let Some(own) = rules.get(name) else { continue };
            let verdict = Decision::of(own.clone(), otherwise(profile, name)).strictest();
            if verdict != profile.default {
                let test = Test::Masked { mask, value: *value };
                further.push((vec![Condition { index: 0, test }], verdict));
            }
        }
        if !further.is_empty() {
            rules.entry(multiplexer).or_default().extend(further);
        }
    }
}

impl Decision {
    pub fn plain(verdict: Verdict) -> Self {
        Self { rules: Vec::new(), otherwise: verdict }
    }

    /// From all rules of a call; [`Profile`] says which of several counts.
    fn of(mut rules: Rules, default: Verdict) -> Self {
        let whole = rules.iter().filter(|(conditions, verdict)| conditions.is_empty() && *verdict != default);
        if let Some((_, verdict)) = whole.min_by_key(|(_, verdict)| verdict.leniency()) {
            return Self::plain(*verdict);
        }
        rules.retain(|(conditions, _)| !conditions.is_empty());
        rules.sort_by_key(|(_, verdict)| verdict.leniency());
        while rules.last().is_some_and(|(_, verdict)| *verdict == default) {
            rules.pop();
        }
        Self { rules, otherwise: default }
    }

    /// The strictest of what it may come to.
    fn strictest(&self) -> Verdict {
        let all = self.rules.iter().map(|(_, verdict)| *verdict).chain([self.otherwise]);
        all.min_by_key(|verdict| verdict.leniency()).unwrap_or(self.otherwise)
    }
}

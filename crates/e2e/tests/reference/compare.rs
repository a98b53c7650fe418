//! Playing a case with every cast and comparing what was shown. Not here: what is in a case.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::case::{Case, Cast, DEBIAN, Difference};
use crate::differences::EVERYWHERE;
use crate::run::{Observation, run};

/// How many cases are played at a time. Each waits for the kernel more than it computes.
const AT_ONCE: usize = 6;

/// The code that Debian's plugins have for whatever has none of its own. Ours may know better.
const ANYTHING: u64 = 999;

/// Something that one side showed and the other one didn't.
#[derive(Debug)]
pub(crate) struct Found {
    /// `<step> / <path in what it showed>`.
    pub(crate) at: String,
    debian: Value,
    other: Value,
}

impl Found {
    /// Whether Debian's DEL fails and the other one doesn't: what a runtime can't delete it can never forget.
    fn is_kinder(&self) -> bool {
        self.at.contains(" DEL ") && self.at.ends_with(" / error") && self.other.is_null()
    }
}

/// Plays all `cases` in all their versions with all their casts.
///
/// # Panics
/// When something differs and the case doesn't say so, or says so and it doesn't; the message has it all.
pub(crate) fn hold(cases: &[Case]) {
    if let Err(why) = crate::side::installed() {
        println!("skipped: {why}");
        return;
    }
    let only = std::env::var("KNARR_REFERENCE_ONLY").unwrap_or_default();
    let cases: Vec<&Case> = cases.iter().filter(|case| case.name.contains(&only)).collect();
    let plays: Vec<(&Case, &str)> =
        cases.iter().flat_map(|case| case.versions.iter().map(move |version| (*case, *version))).collect();
    let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((case, version)) = plays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = complaints_of(case, version);
                    complaints.lock().unwrap().extend(found);
                }
            });
        }
    });
    let complaints = complaints.into_inner().unwrap();
    assert!(
        complaints.is_empty(),
        "{} of {} plays differ:\n\n{}",
        complaints.len(),
        plays.len(),
        complaints.join("\n\n")
    );
}

/// What is to be said against a case in one version.
fn complaints_of(case: &Case, version: &str) -> Vec<String> {
    let expected = run(case, version, DEBIAN);
    let mut complaints = Vec::new();
    let mut met = BTreeSet::new();
    for cast in case.casts {
        let found = compare(&expected, &run(case, version, *cast));
        let is_general = |found: &Found| EVERYWHERE.iter().any(|known| matches(known.at, &found.at));
        let found = found.into_iter().filter(|found| !found.is_kinder() && !is_general(found));
        let (on_purpose, by_accident): (Vec<_>, Vec<_>) =
            found.partition(|found| case.differences.iter().any(|known| matches(known.at, &found.at)));
        met.extend(on_purpose.into_iter().map(|found| found.at));
        if !by_accident.is_empty() {
            complaints.push(said(case, version, *cast, &by_accident));
        }
    }
    let stale = |known: &&Difference| !met.iter().any(|at| matches(known.at, at));
    for known in case.differences.iter().filter(stale) {
        complaints.push(format!(
            "{} [{version}]: doesn't differ at \"{}\" any more ({})",
            case.name, known.at, known.reason
        ));
    }
    complaints
}

fn said(case: &Case, version: &str, cast: Cast, found: &[Found]) -> String {
    let mut text = format!("{} [{version}], {}:", case.name, cast.name);
    for Found { at, debian, other } in found {
        text += &format!("\n  {at}\n    Debian's: {}\n    {}: {}", short(debian), cast.name, short(other));
    }
    text
}

fn short(value: &Value) -> String {
    let text = if value.is_null() { "nothing".to_owned() } else { value.to_string() };
    text.chars().take(600).collect()
}

/// All that differs, at the deepest place.
pub(crate) fn compare(debian: &[Observation], other: &[Observation]) -> Vec<Found> {
    let mut found = Vec::new();
    for (debian, other) in debian.iter().zip(other) {
        differ(&debian.step, &debian.shown, &other.shown, &mut found);
    }
    found
}

fn differ(at: &str, debian: &Value, other: &Value, found: &mut Vec<Found>) {
    match (debian, other) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                differ(&format!("{at} / {key}"), &debian[key], &other[key], found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differ(&format!("{at} / {index}"), a, b, found);
            }
        }
        (a, b) if a == b || (at.ends_with(" / error") && *a == ANYTHING && b.is_u64()) => {}
        (a, b) => found.push(Found { at: at.to_owned(), debian: a.clone(), other: b.clone() }),
    }
}

/// Whether `at` begins as `pattern` says, or is it when the pattern ends with a slash.
pub(crate) fn matches(pattern: &str, at: &str) -> bool {
    let mut rest = at;
    for (index, part) in pattern.split('*').enumerate() {
        match rest.find(part) {
            Some(position) if index > 0 || position == 0 => rest = &rest[position + part.len()..],
            _ => return false,
        }
    }
    rest.is_empty() || !pattern.ends_with('/')
}

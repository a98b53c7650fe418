//! Reads Prometheus' text format, as far as kubelet writes it.

use std::collections::{BTreeMap, HashMap};

use super::{Figures, Page, Row, static_pod};

/// The labels that say of whom a row is.
const WHOSE: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// The labels whose values differ from machine to machine.
const OF_THE_MACHINE: [&str; 17] = [
    "boot_id",
    "cadvisorRevision",
    "cadvisorVersion",
    "core_id",
    "device",
    "dockerVersion",
    "kernelVersion",
    "level",
    "machine_id",
    "major",
    "minor",
    "node_id",
    "osVersion",
    "page_size",
    "system_uuid",
    "target_node_id",
    "thread_id",
];

/// Labels with their values.
type Labels = BTreeMap<String, String>;

pub(super) fn read(into: &mut Figures, (page, text): (Page, &str), pods: &[&str]) -> Result<(), String> {
    let mut kinds = HashMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| format!("no type: {line}"))?;
            kinds.insert(name.to_owned(), kind.to_owned());
        } else if !line.is_empty() && !line.starts_with('#') {
            let (name, labels, value) = sample(line).ok_or_else(|| format!("no sample: {line}"))?;
            let Some(subject) = subject(&labels, pods) else { continue };
            // The machine's interfaces are as they are.
            if subject == "(node)" && labels.contains_key("interface") {
                continue;
            }
            let series = into.put((page, name), Row { own: own(&labels), subject }, value);
            series.kind = kinds.get(name).cloned().unwrap_or_else(|| "untyped".into());
            series.labels.extend(labels.into_keys());
        }
    }
    Ok(())
}

/// Name, labels and value of a line; the time that may follow is left.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// Labels up to the closing brace, and what is behind that.
fn labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut found = Labels::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((found, rest));
        }
        let (name, behind) = rest.split_once("=\"")?;
        let (value, behind) = quoted(behind)?;
        found.insert(name.to_owned(), value);
        rest = behind;
    }
}

/// A text up to its closing quote, and what is behind that.
fn quoted(rest: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &rest[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// Of whom a row is; none for pods that aren't asked for.
fn subject(labels: &Labels, pods: &[&str]) -> Option<String> {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    if label("pod").is_empty() {
        let path = label("id");
        return Some(if path.is_empty() || path == "/" { "(node)" } else { "(cgroup)" }.to_owned());
    }
    let pod = static_pod(label("pod"), pods)?;
    let part = match (label("container"), label("name")) {
        ("" | "POD", "") => "(pod)",
        ("" | "POD", _) => "(sandbox)",
        (container, _) => container,
    };
    Some(format!("{pod}/{part}"))
}

/// The labels of a series' own.
fn own(labels: &Labels) -> String {
    let named = labels.iter().filter(|(name, _)| !WHOSE.contains(&name.as_str()));
    let shown = named.map(|(name, value)| {
        let value = if OF_THE_MACHINE.contains(&name.as_str()) { "*" } else { value };
        format!("{name}={value}")
    });
    shown.collect::<Vec<_>>().join(",")
}

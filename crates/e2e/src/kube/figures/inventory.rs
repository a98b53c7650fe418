//! Figures as text, without their values: what a project keeps to compare with.
//!
//! A line for each series, with the page, its kind and its labels, and below it one for each set of values of its own labels, with
//! the subjects that have it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{Figures, Page, Row, Series};

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((page, name), series) in &self.0 {
            let labels: Vec<&str> = series.labels.iter().map(String::as_str).collect();
            writeln!(formatter, "{} {name} {} {{{}}}", page.path(), series.kind, labels.join(","))?;
            let mut subjects = BTreeMap::<&str, Vec<&str>>::new();
            for row in series.rows.keys() {
                subjects.entry(&row.own).or_default().push(&row.subject);
            }
            for (own, subjects) in subjects {
                writeln!(formatter, "  {{{own}}} {}", subjects.join(" "))?;
            }
        }
        Ok(())
    }
}

impl FromStr for Figures {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut figures = Self::default();
        let mut current = None;
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let wrong = || format!("not a line of an inventory: {line}");
            if let Some(row) = line.strip_prefix("  ") {
                let (own, subjects) = braced(row).ok_or_else(wrong)?;
                let series: &mut Series =
                    current.as_ref().and_then(|key| figures.0.get_mut(key)).ok_or_else(wrong)?;
                let row = |subject: &str| (Row { own: own.to_owned(), subject: subject.to_owned() }, 0.0);
                series.rows.extend(subjects.split_whitespace().map(row));
            } else {
                let (key, series) = series(line).ok_or_else(wrong)?;
                figures.0.insert(key.clone(), series);
                current = Some(key);
            }
        }
        Ok(figures)
    }
}

fn series(line: &str) -> Option<((Page, String), Series)> {
    let [path, name, kind, labels] = line.splitn(4, ' ').collect::<Vec<_>>().try_into().ok()?;
    let page = Page::ALL.into_iter().find(|page| page.path() == path)?;
    let labels = braced(labels)?.0.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
    Some(((page, name.to_owned()), Series { kind: kind.to_owned(), labels, ..Series::default() }))
}

/// What is between braces, and what follows.
fn braced(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('{')?.split_once('}')
}

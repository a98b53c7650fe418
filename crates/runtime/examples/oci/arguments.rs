//! Flags of commands: those with a value, those without, and what comes after them.

use crate::Outcome;

/// The flags that a command knows.
pub struct Flags {
    /// With a value: `--flag value`, `--flag=value`.
    pub values: &'static [&'static str],
    /// Without.
    pub switches: &'static [&'static str],
}

/// What a line says.
pub struct Parsed {
    values: Vec<(String, String)>,
    switches: Vec<String>,
    /// From the first word on that is no flag.
    pub rest: Vec<String>,
}

impl Flags {
    pub const NONE: Self = Self { values: &[], switches: &[] };

    /// Reads a line up to its first word that is no flag.
    pub fn parse(&self, line: &[String]) -> Outcome<Parsed> {
        let mut parsed = Parsed { values: Vec::new(), switches: Vec::new(), rest: Vec::new() };
        let mut words = line.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                parsed.rest = words.cloned().collect();
                break;
            }
            if !word.starts_with('-') || word == "-" {
                parsed.rest = std::iter::once(word).chain(words).cloned().collect();
                break;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if self.switches.contains(&name) {
                match value.as_deref() {
                    None | Some("true") => parsed.switches.push(name.to_owned()),
                    Some("false") => {}
                    Some(other) => return Err(format!("{name} has the value {other:?}").into()),
                }
            } else if self.values.contains(&name) {
                let value = value.or_else(|| words.next().cloned());
                parsed.values.push((name.to_owned(), value.ok_or_else(|| format!("{name} has no value"))?));
            } else {
                return Err(format!("{name:?} is not a flag of this command").into());
            }
        }
        Ok(parsed)
    }
}

impl Parsed {
    /// The last value of a flag.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of a flag by its long or its short name.
    pub fn either(&self, (long, short): (&str, &str)) -> Option<&str> {
        self.value(long).or_else(|| self.value(short))
    }

    /// All values of a flag.
    pub fn all<'a>(&'a self, names: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
        let wanted = move |(name, _): &&(String, String)| names.contains(&name.as_str());
        self.values.iter().filter(wanted).map(|(_, value)| value.as_str())
    }

    /// Whether a switch is on.
    pub fn has(&self, name: &str) -> bool {
        self.switches.iter().any(|known| known == name)
    }

    /// The container's id, the first word after the flags.
    pub fn id(&self) -> Outcome<&str> {
        Ok(self.rest.first().ok_or("the container's id is missing")?)
    }

    /// The container's id, the only word after the flags.
    pub fn only_id(&self) -> Outcome<&str> {
        match self.rest.as_slice() {
            [id] => Ok(id),
            [] => Err("the container's id is missing".into()),
            [_, unexpected, ..] => Err(format!("unexpected argument {unexpected:?}").into()),
        }
    }
}

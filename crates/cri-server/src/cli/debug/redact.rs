//! Taking secrets out of what is given away. Pure.
//!
//! What is a secret can't be known; what may be one is removed, and names stay, since those are what a reader needs:
//! - values of environment variables, whatever their names; all arguments of commands but the first;
//! - values of annotations and labels that are long, or whose names sound like secrets;
//! - values under names that sound like secrets, in documents and in lines; logins in URLs; what follows `Bearer` and `Basic`.

use serde_json::{Map, Value};

/// What stands for a secret.
const REMOVED: &str = "(removed)";

/// Parts of names that sound like secrets, in lower case.
const SECRETIVE: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "authorization",
    "apikey",
    "api_key",
    "api-key",
    "access_key",
    "access-key",
    "private",
    "last-applied-configuration",
];

/// Names of environments, in documents of ours, of OCI and of CRI.
const ENVIRONMENTS: [&str; 4] = ["env", "envs", "environment", "variables"];

/// Names of command lines.
const COMMANDS: [&str; 5] = ["args", "command", "cmd", "entrypoint", "cmdline"];

/// Names of notes that anybody may write what they like into.
const NOTES: [&str; 4] = ["annotations", "pod_annotations", "container_annotations", "labels"];

/// Notes are about things, and those have names; what is longer may be a document with anything in it.
const LONGEST_NOTE: usize = 128;

/// A document without secrets.
pub(super) fn json(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(members.into_iter().map(member).collect()),
        Value::Array(items) => Value::Array(items.into_iter().map(json).collect()),
        Value::String(text) => Value::String(self::text(&text)),
        other => other,
    }
}

fn member((name, value): (String, Value)) -> (String, Value) {
    let is_one_of = |names: &[&str]| names.contains(&name.to_lowercase().as_str());
    let value = if is_one_of(&ENVIRONMENTS) {
        environment(value)
    } else if is_one_of(&COMMANDS) {
        command(value)
    } else if is_one_of(&NOTES) {
        notes(value)
    } else if sounds_secret(&name) {
        removed(value)
    } else {
        json(value)
    };
    (name, value)
}

/// Nothing of a value but that there is one.
fn removed(value: Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value,
        Value::Array(items) => Value::Array(items.into_iter().map(removed).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (name, removed(value))).collect())
        }
        Value::String(text) if text.is_empty() => Value::String(text),
        Value::String(_) | Value::Number(_) => Value::String(REMOVED.to_owned()),
    }
}

/// As a list of `NAME=value`, of objects or pairs with a name and a value, or an object.
fn environment(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(variable).collect()),
        Value::Object(members) => removed(Value::Object(members)),
        other => removed(other),
    }
}

fn variable(value: Value) -> Value {
    match value {
        Value::String(text) => match text.split_once('=') {
            Some((name, _)) => Value::String(format!("{name}={REMOVED}")),
            None => Value::String(REMOVED.to_owned()),
        },
        Value::Array(mut pair) if pair.len() == 2 => {
            pair[1] = removed(pair[1].take());
            Value::Array(pair)
        }
        Value::Object(members) => {
            let keep = |(name, value): (String, Value)| match name.as_str() {
                "key" | "name" => (name, value),
                _ => (name, removed(value)),
            };
            Value::Object(members.into_iter().map(keep).collect::<Map<_, _>>())
        }
        other => removed(other),
    }
}

fn command(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let argument = |(at, item): (usize, Value)| if at == 0 { json(item) } else { removed(item) };
            Value::Array(items.into_iter().enumerate().map(argument).collect())
        }
        Value::String(line) => Value::String(line.split([' ', '\0']).next().unwrap_or_default().to_owned()),
        other => json(other),
    }
}

fn notes(value: Value) -> Value {
    let Value::Object(members) = value else { return json(value) };
    let note = |(name, value): (String, Value)| {
        let is_long = value.as_str().is_some_and(|text| text.len() > LONGEST_NOTE);
        let value = if is_long || sounds_secret(&name) { removed(value) } else { json(value) };
        (name, value)
    };
    Value::Object(members.into_iter().map(note).collect())
}

fn sounds_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRETIVE.iter().any(|part| name.contains(part))
}

/// Lines without secrets.
pub(super) fn text(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        clean.push_str(&self::line(line));
    }
    clean
}

/// What a word makes of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing.
    Plain,
    /// What gives a secret its value, or any word.
    Named,
    /// A secret.
    Secret,
}

/// The words of a line: what follows a secretive name with `=` or `:`, or a word of HTTP, is removed.
fn line(line: &str) -> String {
    let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
    let (mut clean, mut next) = (Vec::new(), Next::Plain);
    for word in body.split(' ') {
        let (kept, follows) = match (next, word) {
            (_, "") => (String::new(), next),
            (Next::Named | Next::Secret, "=" | ":") | (Next::Secret, "Bearer" | "Basic") => {
                (word.to_owned(), Next::Secret)
            }
            (Next::Secret, _) => (REMOVED.to_owned(), Next::Plain),
            (Next::Plain | Next::Named, _) => self::word(word),
        };
        clean.push(kept);
        next = follows;
    }
    clean.join(" ") + end
}

/// A word without its secret, and what the next one is.
fn word(word: &str) -> (String, Next) {
    let bare = word.trim_matches(['"', '\'', ',', '{', '[', '(']);
    if matches!(bare, "Bearer" | "bearer" | "Basic" | "basic") {
        return (word.to_owned(), Next::Secret);
    }
    if let Some(at) = word.find(['=', ':'])
        && !word[at..].starts_with("://")
        && sounds_secret(&word[..at])
    {
        let value = word[at + 1..].trim_matches(['"', '\'', ',']);
        return match value {
            "" | "Bearer" | "Basic" => (word.to_owned(), Next::Secret),
            _ => (format!("{}{REMOVED}", &word[..=at]), Next::Plain),
        };
    }
    match (sounds_secret(bare), bare.starts_with("--")) {
        (true, true) => (word.to_owned(), Next::Secret),
        (true, false) => (word.to_owned(), Next::Named),
        (false, _) => (without_login(word), Next::Plain),
    }
}

/// `scheme://user:password@host` without what is before the host.
fn without_login(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((login, host)) => {
            format!("{scheme}://{REMOVED}@{host}{}", &rest[login.len() + 1 + host.len()..])
        }
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLANTED: &str = "hunter2-planted";

    #[test]
    fn secrets_of_documents_are_removed_and_names_stay() {
        let p = PLANTED;
        let document = json!({
            "envs": [["A", p], {"key": "B", "value": p}, format!("C={p}")],
            "env": {"D": p},
            "process": {"args": ["/bin/server", "--password", p], "env": [format!("E={p}")]},
            "annotations": {"example.com/api-token": p, "example.com/note": "kept",
                "kubectl.kubernetes.io/last-applied-configuration": format!("{{\"x\":\"{p}\"}}"), "example.com/long": p.repeat(20)},
            "auth": {"password": p, "username": "u", "identity_token": p},
            "said": format!("got 401 with Authorization: Bearer {p} from https://u:{p}@host/v2/"),
            "nothing": {"token": "", "secret": null},
        });
        let clean = super::json(document);
        let text = clean.to_string();
        assert!(!text.contains(p), "{text}");
        assert_eq!(clean["envs"][0], json!(["A", "(removed)"]));
        assert_eq!(clean["envs"][1], json!({"key": "B", "value": "(removed)"}));
        assert_eq!(clean["process"]["args"], json!(["/bin/server", "(removed)", "(removed)"]));
        assert_eq!(clean["annotations"]["example.com/note"], "kept");
        assert_eq!(clean["auth"]["username"], "u");
        assert_eq!(
            clean["said"],
            "got 401 with Authorization: Bearer (removed) from https://(removed)@host/v2/"
        );
        assert_eq!(clean["nothing"], json!({"token": "", "secret": null}));
    }

    #[test]
    fn secrets_of_lines_are_removed() {
        for (line, expected) in [
            ("password=hunter2 x", "password=(removed) x"),
            ("db_password: hunter2", "db_password: (removed)"),
            ("--token hunter2 --verbose", "--token (removed) --verbose"),
            ("--registry-password=hunter2", "--registry-password=(removed)"),
            ("Authorization: Basic aHVudGVyMg==", "Authorization: Basic (removed)"),
            ("secret = \"hunter2\"", "secret = (removed)"),
            ("\"token\":\"hunter2\",", "\"token\":(removed)"),
            ("pulled https://host/v2/x:latest", "pulled https://host/v2/x:latest"),
            ("level=info pod=abc", "level=info pod=abc"),
        ] {
            assert_eq!(text(line), expected);
        }
        assert_eq!(text("a=1\nmy_secret=x\n"), "a=1\nmy_secret=(removed)\n");
    }
}

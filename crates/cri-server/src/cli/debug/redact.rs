//! Taking secrets out of what is given away. Pure.
//!
//! What is a secret can't be known; what may be one is removed, and names stay, since those are what a reader needs:
//! - values of environment variables, whatever their names; all arguments of commands but the first;
//! - values of annotations and labels that are long, or whose names sound like secrets;
//! - values under names that sound like secrets, in documents and wherever in lines; logins and queries of URLs; what follows
//!   `Bearer` and `Basic`.

use serde_json::{Map, Value};

/// What stands for a secret.
const REMOVED: &str = "(removed)";

/// Parts of names that sound like secrets, in lower case.
const SECRETIVE: [&str; 17] = [
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
    "cookie",
    "signature",
    "jwt",
];

/// Parts of names between hyphens, underscores and dots that do.
const WORDS: [&str; 3] = ["auth", "pwd", "sig"];

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
    let is_word = |word: &str| WORDS.contains(&word);
    SECRETIVE.iter().any(|part| name.contains(part)) || name.split(['-', '_', '.']).any(is_word)
}

/// Lines without secrets.
pub(super) fn text(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

/// What is wrong with a configuration, without the values, which may stand where secrets do.
pub(super) fn faults(told: &str) -> String {
    let without = |line: &str| match line.split_once(", not ") {
        Some((must, _)) => format!("{must}, not {REMOVED}\n"),
        None => format!("{line}\n"),
    };
    text(&told.lines().map(without).collect::<String>()).trim_end().to_owned()
}

/// A line may be, or end with, a document.
fn line(line: &str) -> String {
    let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
    let document = body.find(['{', '[']).and_then(|at| Some((at, serde_json::from_str(&body[at..]).ok()?)));
    match document {
        Some((at, document)) => format!("{}{}{end}", logins(&values(&body[..at])), json(document)),
        None => logins(&values(body)) + end,
    }
}

/// Without the values of names that sound secret, wherever in it they stand.
fn values(text: &str) -> String {
    let (mut clean, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((at, reach)) = next_secret(rest) {
        clean.push_str(&rest[..at]);
        let length = length_of(&rest[at..], reach);
        if length > 0 {
            clean.push_str(REMOVED);
        }
        rest = &rest[at + length..];
    }
    clean + rest
}

/// How far a secret goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// To the end of the word.
    Word,
    /// To the end of the line, as with headers of HTTP.
    Line,
}

/// Where the next secret begins.
fn next_secret(text: &str) -> Option<(usize, Reach)> {
    text.char_indices().find_map(|(at, c)| {
        let (before, behind) = (&text[..at], &text[at + c.len_utf8()..]);
        let begin = text.len() - behind.trim_start().len();
        match c {
            ':' if behind.starts_with("//") => None,
            '=' | ':' => {
                let before = before.trim_end_matches([' ', '"', '\'', '\\']);
                let name = &before[before.rfind(|c| !is_of_name(c)).map_or(0, |at| at + 1)..];
                let header = name.to_lowercase();
                let is_header = c == ':' && (header.ends_with("cookie") || header.ends_with("authorization"));
                let reach = if is_header { Reach::Line } else { Reach::Word };
                sounds_secret(name).then_some((begin, reach))
            }
            ' ' => {
                let word = before.rsplit(' ').next().unwrap_or_default().trim_matches(['"', '\'', '[', ',']);
                let is_scheme = matches!(word, "Bearer" | "bearer" | "Basic" | "basic");
                let is_flag = word.starts_with('-') && !word.contains(['=', ':']) && sounds_secret(word);
                let is_value = !behind.trim_start().starts_with('-');
                (is_scheme || is_flag && is_value).then_some((begin, Reach::Word))
            }
            _ => None,
        }
    })
}

/// ASCII alone: names that are looked for have no other letters.
fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// The bytes of a value at the beginning of a text.
fn length_of(value: &str, reach: Reach) -> usize {
    if let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        return value[1..].find(quote).map_or(value.len(), |end| end + 2);
    }
    if value.starts_with('[') {
        return value.find(']').map_or(value.len(), |end| end + 1);
    }
    let end = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | '"' | '\'' | ']' | '}' | ')');
    let scheme =
        ["Bearer ", "bearer ", "Basic ", "basic "].into_iter().find(|scheme| value.starts_with(scheme));
    let scheme = scheme.map_or(0, str::len);
    match reach {
        Reach::Line => value.find(['"', '\'']).unwrap_or(value.len()),
        Reach::Word => value[scheme..].find(end).map_or(value.len(), |end| scheme + end),
    }
}

/// Without users and passwords before hosts, and without what is asked of them.
fn logins(text: &str) -> String {
    let parts = text.split_inclusive(|c: char| c.is_whitespace() || "\"',;()[]{}<>".contains(c));
    parts.map(without_login).collect()
}

fn without_login(part: &str) -> String {
    let (scheme, rest) = match part.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), part),
    };
    let is_url = !scheme.is_empty();
    let login = rest.rsplit_once('@').filter(|(login, host)| {
        // `name:tag@sha256:…` is an image.
        is_url || (login.contains(':') && !login.contains('/') && !host.starts_with("sha"))
    });
    let (login, rest) = login.map_or(("", rest), |(_, host)| (REMOVED, host));
    let at = if login.is_empty() { "" } else { "@" };
    match rest.split_once('?') {
        Some((rest, query)) if is_url => {
            let end =
                query.chars().next_back().filter(|c| !is_of_name(*c)).map(String::from).unwrap_or_default();
            format!("{scheme}{login}{at}{rest}?{REMOVED}{end}")
        }
        _ => format!("{scheme}{login}{at}{rest}"),
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
            "auths": {"registry.test": {"auth": p}},
            "credentials": {"password": p, "username": "u", "identity_token": p},
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
        assert_eq!(clean["auths"]["registry.test"]["auth"], "(removed)");
        assert_eq!(clean["nothing"], json!({"token": "", "secret": null}));
    }

    #[test]
    fn secrets_of_lines_are_removed_wherever_they_stand() {
        for line in [
            "password=hunter2 x",
            "db_password: hunter2",
            "--token hunter2 --verbose",
            "--registry-password=hunter2",
            "Authorization: Basic hunter2",
            "sent Bearer hunter2 once",
            "secret = \"hunter2\"",
            "password = \"two hunter2 words\"",
            "\"token\":\"hunter2\",",
            "{\"fields\":{\"token\":\"hunter2\"}}",
            "Nov 22 host knarr[7]: {\"level\":\"INFO\",\"fields\":{\"env\":[\"A=hunter2\"]}}",
            "https://a/b?X-Amz-Signature=hunter2",
            "https://a/b?x=hunter2 then",
            "?sig=hunter2",
            "?access_token=hunter2&x=1",
            "a=b;password=hunter2",
            "user=u,password=hunter2",
            "--from-literal=password=hunter2",
            "[\"https://a/x\",\"https://u:hunter2@b/\"]",
            "https://u:p/hunter2@b/",
            "user:hunter2@proxy:3128",
            "auth=hunter2",
            "\"auth\": \"hunter2\"",
            "X-Registry-Auth: hunter2",
            "Cookie: a=hunter2; b=hunter2",
            "MYSQL_PWD=hunter2",
        ] {
            let clean = text(line);
            assert!(!clean.contains("hunter2") && clean.contains("(removed)"), "{line}: {clean}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for line in [
            "pulled https://host/v2/x:latest",
            "level=info pod=abc time=12:30:00",
            "busybox:latest@sha256:0123 is here",
            "/var/run/secrets/kubernetes.io/serviceaccount:/x",
            "a=1\n\nb=2\n",
        ] {
            assert_eq!(text(line), line);
        }
        assert_eq!(text("a=1\nmy_secret=x y\n"), "a=1\nmy_secret=(removed) y\n");
        let told = "the configuration can't be used:\n  /f:1:2: handlers.x.args: must be an array, not string \"hunter2\"";
        assert_eq!(
            faults(told),
            "the configuration can't be used:\n  /f:1:2: handlers.x.args: must be an array, not (removed)"
        );
    }
}

//! One call of a plugin's executable as the CNI specification has it (version 1.1.0, section 2 "Execution Protocol").

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// A call, ready to be made from the thread that is in the host's namespace.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) executable: PathBuf,
    /// All of its environment.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) stdin: String,
}

/// How it ended: `{"result": …}` or `{"error": code}`; both sides word their errors as they like.
pub(crate) fn invoke(invocation: &Invocation) -> Value {
    let mut command = Command::new(&invocation.executable);
    command.env_clear().envs(invocation.environment.iter().cloned());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{invocation:?}: {error}"));
    // A plugin may end without having read what it doesn't need.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(invocation.stdin.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if std::env::var_os("KNARR_REFERENCE_TRACE").is_some() {
        println!("{invocation:?}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    }
    let answer = match said.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
    };
    match output.status.code() {
        Some(0) => json!({"result": without_empty(answer)}),
        Some(_) if answer["code"].is_u64() => json!({"error": answer["code"]}),
        _ => json!({"died": format!("{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr))}),
    }
}

/// What is empty may as well not be there.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, without_empty(value)));
            fields.filter(|(_, value)| !is_empty(value)).collect()
        }
        other => other,
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

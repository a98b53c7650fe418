//! Our plugins as ordinary executables: what a runtime gives by environment and standard input, and gets on standard output
//! (SPEC.md section 2), for other runtimes than this one.
//!
//! What a plugin does is `builtin`'s affair; here is nothing but the protocol. No task, no thread, no configuration file: a run
//! is over in milliseconds.

mod call;
mod delegate;

use std::io::{Read, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use self::call::Call;
use self::delegate::Delegates;
use crate::builtin::{self, Kind};
use crate::command::Command;
use crate::error::{Error, chain};
use crate::orphans;
use crate::version;

/// The version of the specification that VERSION and errors without a configuration are written in.
const NEWEST: &str = "1.1.0";

/// Whether there is a plugin of that name.
#[must_use]
pub fn is_plugin(name: &str) -> bool {
    Kind::of(name).is_some()
}

/// Carries out the call that the environment and the input describe, as the plugin of that name; prints the result or an
/// error object. Unknown names and calls without `CNI_COMMAND` fail with such an object, too.
///
/// Blocks until the kernel and, for addresses, another plugin's executable have answered; acts on the network namespace of the
/// calling thread.
pub fn run(
    name: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> ExitCode {
    let mut version = NEWEST.to_owned();
    let (answer, code) = match answer(name, environment, input, &mut version) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (Some(error_object(&version, &error)), ExitCode::FAILURE),
    };
    let printed = answer.map_or(Ok(()), |answer| writeln!(output, "{answer:#}"));
    // Nobody reads; there is nobody to tell.
    if printed.and_then(|()| output.flush()).is_err() { ExitCode::FAILURE } else { code }
}

fn answer(
    name: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    input: &mut dyn Read,
    version: &mut String,
) -> Result<Option<Value>, Error> {
    let unknown = || Error::PluginMissing { plugin: name.to_owned(), searched: Vec::new() };
    let kind = Kind::of(name).ok_or_else(unknown)?;
    if environment("CNI_COMMAND").as_deref() == Some("VERSION") {
        let supported = version::ALL.map(version::Version::as_str);
        return Ok(Some(json!({ "cniVersion": NEWEST, "supportedVersions": supported })));
    }
    let call = Call::read(name, environment, input, version)?;
    let gone = matches!(call.request.command, Command::Del | Command::Gc);
    // What ADD refuses is taken away all the same: a runtime stops at the first plugin that fails, and would leave what the
    // others made.
    if !gone {
        kind.serves(&call.request.config)
            .map_err(|unserved| Error::Unsupported { plugin: name.to_owned(), field: unserved.field })?;
    }
    let answer =
        builtin::run(kind, &call.request, &Delegates::new(call.path, environment(orphans::VARIABLE)));
    if gone && matches!(kind, Kind::Bridge | Kind::Portmap) {
        // In the daemon they wait for others a while; here nobody would come back for them.
        let cleared = builtin::clear_tables();
        return answer.and_then(|answer| cleared.map(|()| answer));
    }
    // What nobody asked for isn't printed: only ADD has a result.
    answer.map(|answer| answer.filter(|_| call.request.command == Command::Add))
}

/// SPEC.md section 5, "Error".
fn error_object(version: &str, error: &Error) -> Value {
    let mut object = json!({ "cniVersion": version, "code": error.code(), "msg": error.to_string() });
    let whole = chain(error);
    let details = whole.strip_prefix(&error.to_string()).unwrap_or_default().trim_start_matches(": ");
    if !details.is_empty() {
        object["details"] = details.into();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_as(name: &str, env: &[(&str, &str)], input: &str) -> (String, Value) {
        let get =
            |wanted: &str| env.iter().find(|(key, _)| *key == wanted).map(|(_, value)| (*value).to_owned());
        let mut output = Vec::new();
        let code = run(name, &get, &mut input.as_bytes(), &mut output);
        (format!("{code:?}"), serde_json::from_slice(&output).unwrap_or_default())
    }

    const OK: &str = "ExitCode(unix_exit_status(0))";

    fn add_env() -> Vec<(&'static str, &'static str)> {
        vec![
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", "/nonexistent"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/nonexistent"),
        ]
    }

    #[test]
    fn versions_are_told_to_who_asks() {
        let (code, answer) = run_as("bridge", &[("CNI_COMMAND", "VERSION")], "");
        assert_eq!(code, OK);
        assert_eq!(answer["cniVersion"], "1.1.0");
        assert_eq!(answer["supportedVersions"].as_array().unwrap().len(), 7);
    }

    #[test]
    fn what_is_wrong_with_a_call_is_told_by_its_code() {
        let conf = r#"{"cniVersion":"1.0.0","name":"n","type":"bridge"}"#;
        let without = |name: &str| add_env().into_iter().filter(|(key, _)| *key != name).collect::<Vec<_>>();
        let with = |name, value| [without(name), vec![(name, value)]].concat();
        for (env, input, code, word) in [
            (without("CNI_COMMAND"), conf, 4, "CNI_COMMAND"),
            (with("CNI_COMMAND", "SING"), conf, 4, "SING"),
            (without("CNI_NETNS"), conf, 4, "CNI_NETNS"),
            (without("CNI_IFNAME"), conf, 4, "CNI_IFNAME"),
            (with("CNI_CONTAINERID", "../c"), conf, 4, "container id"),
            (with("CNI_IFNAME", "a/b"), conf, 4, "interface name"),
            (with("CNI_ARGS", "K"), conf, 4, "CNI_ARGS"),
            (with("CNI_ARGS", "K=v"), conf, 4, "'K'"),
            (add_env(), "{", 6, "configuration"),
            (add_env(), "[]", 6, "expected a map"),
            (add_env(), r#"{"cniVersion":1,"name":"n"}"#, 6, "cniVersion"),
            (add_env(), r#"{"cniVersion":"1.0.0"}"#, 7, "name"),
            (add_env(), r#"{"cniVersion":"1.0.0","name":"../n"}"#, 7, "name"),
            (add_env(), r#"{"cniVersion":"9.0.0","name":"n"}"#, 1, "9.0.0"),
            (with("CNI_COMMAND", "CHECK"), r#"{"cniVersion":"0.3.1","name":"n"}"#, 1, "CHECK"),
            (with("CNI_COMMAND", "GC"), conf, 1, "GC"),
            (with("CNI_COMMAND", "STATUS"), conf, 1, "STATUS"),
            (add_env(), r#"{"cniVersion":"1.0.0","name":"n","macspoofchk":true}"#, 2, "macspoofchk"),
            (add_env(), r#"{"cniVersion":"1.0.0","name":"n","vlan":5000}"#, 7, "vlan"),
            (add_env(), conf, 999, "/nonexistent"),
        ] {
            let (exit, answer) = run_as("bridge", &env, input);
            assert_ne!(exit, OK, "{word}");
            assert_eq!(answer["code"], code, "{answer}");
            let text = format!("{} {}", answer["msg"], answer["details"]);
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn a_call_about_no_attachment_needs_none() {
        let conf = r#"{"cniVersion":"1.1.0","name":"n","bridge":"b0"}"#;
        let (code, answer) = run_as("bridge", &[("CNI_COMMAND", "STATUS"), ("CNI_PATH", "/x")], conf);
        assert_eq!((code.as_str(), answer), (OK, Value::Null));
    }

    #[test]
    fn errors_are_in_the_version_of_the_configuration() {
        let (_, answer) = run_as("bridge", &add_env(), r#"{"cniVersion":"0.4.0","name":"n"}"#);
        assert_eq!(answer["cniVersion"], "0.4.0");
        assert!(answer["details"].as_str().unwrap().contains("No such file"));
    }
}

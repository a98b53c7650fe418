//! Fields of a configuration and arguments, found as the reference plugins find them.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::request::{IGNORE_UNKNOWN, Request};

/// Reads a plugin's own fields: names in any case, as Go's decoder takes them (the form's are in lower case), null as if it
/// wasn't there. What the form doesn't know is passed over.
///
/// # Errors
/// [`Error::PluginConf`].
pub(super) fn read<T: for<'de> Deserialize<'de>>(request: &Request) -> Result<T, Error> {
    T::deserialize(folded(&request.config)).map_err(|error| request.invalid(error.to_string()))
}

/// The fields with names in lower case, without results and lists of others' that no plugin reads this way.
pub(super) fn folded(config: &Map<String, Value>) -> Value {
    let read = config.iter().filter(|(name, _)| *name != "prevResult" && !name.starts_with("cni.dev/"));
    Value::Object(read.filter_map(fold).collect())
}

/// A field that isn't null, its name in any case; of several the one that [`folded`] keeps.
pub(super) fn get<'a>(config: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    let mut named =
        config.iter().filter(|(name, value)| name.eq_ignore_ascii_case(field) && !value.is_null());
    named.next_back().map(|(_, value)| value)
}

/// Who is asked for the addresses of a configuration's interfaces.
pub(crate) fn ipam(config: &Map<String, Value>) -> Option<&str> {
    let kind = get(config, "ipam")?.as_object().and_then(|ipam| get(ipam, "type"))?.as_str();
    kind.filter(|kind| !kind.is_empty())
}

/// Whether `bridge` is to have what its pods send leave under the host's address.
pub(crate) fn masquerades(config: &Map<String, Value>) -> bool {
    get(config, "ipMasq").and_then(Value::as_bool) == Some(true) && ipam(config).is_some()
}

fn fold((name, value): (&String, &Value)) -> Option<(String, Value)> {
    (!value.is_null()).then(|| (name.to_lowercase(), fold_value(value)))
}

fn fold_value(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.iter().filter_map(fold).collect()),
        Value::Array(items) => Value::Array(items.iter().map(fold_value).collect()),
        other => other.clone(),
    }
}

/// The value of an argument in `CNI_ARGS`. Others than that one are refused, unless the arguments say that they may be there.
///
/// # Errors
/// [`Error::PluginEnvironment`].
pub(super) fn argument<'a>(request: &'a Request, name: &str) -> Result<Option<&'a str>, Error> {
    let mut tolerant = false;
    for (_, value) in request.args.iter().filter(|(key, _)| key == IGNORE_UNKNOWN) {
        tolerant = match value.to_lowercase().as_str() {
            "1" | "true" => true,
            "0" | "false" => false,
            _ => return Err(refused(format!("{IGNORE_UNKNOWN}={value}"), "is neither true nor false")),
        };
    }
    let unknown = request.args.iter().find(|(key, _)| key != IGNORE_UNKNOWN && key != name);
    match unknown {
        Some((key, _)) if !tolerant => Err(refused(key.clone(), "isn't known")),
        _ => {
            let last = request.args.iter().rfind(|(key, value)| key == name && !value.is_empty());
            Ok(last.map(|(_, value)| value.as_str()))
        }
    }
}

fn refused(argument: String, problem: &str) -> Error {
    Error::PluginEnvironment { problem: format!("argument '{argument}' in CNI_ARGS {problem}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use serde_json::json;

    #[test]
    fn names_are_found_in_any_case_and_null_is_absent() {
        let config =
            json!({"isGateway": true, "ipam": {"rangeStart": "x", "routes": null}, "prevResult": {}});
        let folded = folded(config.as_object().unwrap());
        assert_eq!(folded, json!({"isgateway": true, "ipam": {"rangestart": "x"}}));
        let config = json!({"IPAM": {"Type": "dhcp"}, "ipmasq": true, "other": null});
        let config = config.as_object().unwrap();
        assert_eq!((ipam(config), masquerades(config)), (Some("dhcp"), true));
        assert_eq!(get(config, "Other"), None);
    }

    #[test]
    fn arguments_of_others_need_leave() {
        let with = |args: &[(&str, &str)]| {
            let mut request = Request::about_network("bridge", Command::Add, Map::new());
            request.args = args.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            argument(&request, "MAC").map(|found| found.map(str::to_owned)).map_err(|error| error.to_string())
        };
        assert_eq!(with(&[("MAC", "x")]), Ok(Some("x".into())));
        assert_eq!(with(&[]), Ok(None));
        assert!(with(&[("MAC", "x"), ("IP", "y")]).unwrap_err().contains("'IP'"));
        assert_eq!(with(&[("IgnoreUnknown", "1"), ("IP", "y"), ("MAC", "x")]), Ok(Some("x".into())));
        assert!(with(&[("IgnoreUnknown", "perhaps")]).is_err());
    }
}

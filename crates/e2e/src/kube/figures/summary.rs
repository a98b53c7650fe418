//! Reads the fields of `/stats/summary`.

use serde_json::Value;

use super::{Figures, Page, Row, static_pod};

pub(super) fn read(into: &mut Figures, text: &str, pods: &[&str]) -> Result<(), String> {
    let summary: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
    let mut node = summary["node"].clone();
    // The machine's interfaces are as they are.
    node.as_object_mut().and_then(|fields| fields.remove("network"));
    fields(into, "(node)", (String::new(), &node));
    for told in summary["pods"].as_array().into_iter().flatten() {
        let Some(pod) = told["podRef"]["name"].as_str().and_then(|name| static_pod(name, pods)) else {
            continue;
        };
        let mut of_pod = told.clone();
        let containers = of_pod.as_object_mut().and_then(|fields| fields.remove("containers"));
        fields(into, &format!("{pod}/(pod)"), (String::new(), &of_pod));
        for container in containers.iter().filter_map(Value::as_array).flatten() {
            let name = container["name"].as_str().ok_or_else(|| format!("no name: {container}"))?;
            fields(into, &format!("{pod}/{name}"), (String::new(), container));
        }
    }
    Ok(())
}

/// The fields below a path; those of lists are called by the name of the entry, which all lists here have.
fn fields(into: &mut Figures, subject: &str, (path, value): (String, &Value)) {
    let mut leaf = |kind: &str, value: f64| {
        let row = Row { own: String::new(), subject: subject.to_owned() };
        kind.clone_into(&mut into.put((Page::Summary, &path), row, value).kind);
    };
    match value {
        Value::Null => {}
        Value::Bool(_) => leaf("boolean", 0.0),
        Value::Number(number) => leaf("number", number.as_f64().unwrap_or_default()),
        Value::String(_) => leaf("string", 0.0),
        Value::Object(members) => {
            for (name, member) in members {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields(into, subject, (below, member));
            }
        }
        Value::Array(entries) => {
            for entry in entries {
                let name = entry["name"].as_str().unwrap_or("?");
                fields(into, subject, (format!("{path}[{name}]"), entry));
            }
        }
    }
}

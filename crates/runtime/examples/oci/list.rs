//! `list` and `ps`.

use serde_json::json;

use crate::Outcome;
use crate::arguments::{Flags, Parsed};
use crate::life::described;
use crate::store::Store;

pub const LIST_FLAGS: Flags = Flags { values: &["--format", "-f"], switches: &["--quiet", "-q"] };
pub const PS_FLAGS: Flags = Flags { values: &["--format", "-f"], switches: &[] };

/// `list [--quiet] [--format table|json]`
pub fn list(store: &Store, line: &Parsed) -> Outcome {
    // A container in the making is none yet.
    let found = store.ids()?.into_iter().filter_map(|id| store.load(&id).ok());
    let all = found.map(|record| described(store, &record)).collect::<Outcome<Vec<_>>>()?;
    let text = |state: &serde_json::Value, name: &str| {
        state.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
    };
    if line.has("--quiet") || line.has("-q") {
        all.iter().for_each(|state| println!("{}", text(state, "id")));
    } else if line.either(("--format", "-f")) == Some("json") {
        println!("{}", json!(all));
    } else {
        println!("ID\tPID\tSTATUS\tBUNDLE\tCREATED");
        for state in &all {
            let [id, status, bundle, created] =
                ["id", "status", "bundle", "created"].map(|name| text(state, name));
            println!("{id}\t{}\t{status}\t{bundle}\t{created}", state["pid"]);
        }
    }
    Ok(0)
}

/// `ps [--format json] ID`
pub fn ps(store: &Store, line: &Parsed) -> Outcome {
    let record = store.load(line.id()?)?;
    println!("{}", json!(record.cgroup.procs()?));
    Ok(0)
}

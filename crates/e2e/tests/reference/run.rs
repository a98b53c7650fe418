//! Carrying out a case with one cast: what each step showed. Not here: comparing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::case::{Call, Case, Cast, Previous, Seen, Step};
use crate::names::Names;
use crate::plugin::{Invocation, invoke};
use crate::probe::{self, Server};
use crate::scratch::{Place, Scratch, succeed};
use crate::snapshot;

/// What a step showed.
#[derive(Debug)]
pub(crate) struct Observation {
    pub(crate) step: String,
    pub(crate) shown: Value,
}

/// Carries out `case` in namespaces and directories of its own.
pub(crate) fn run(case: &Case, version: &str, cast: Cast) -> Vec<Observation> {
    let mut stage = Stage::new(case, version, cast);
    let steps = case.steps.iter().enumerate();
    steps.filter_map(|(number, step)| stage.carry_out(number + 1, step)).collect()
}

struct Stage<'c> {
    case: &'c Case,
    version: &'c str,
    cast: Cast,
    directory: TempDir,
    scratch: Scratch,
    names: Names,
    /// By pod and interface.
    results: BTreeMap<(u8, String), Value>,
    servers: Vec<(Place, Server)>,
}

impl<'c> Stage<'c> {
    fn new(case: &'c Case, version: &'c str, cast: Cast) -> Self {
        let directory = tempfile::Builder::new().prefix("knarr-reference-").tempdir().unwrap();
        cast.add.install(directory.path());
        if cast.rest != cast.add {
            cast.rest.install(directory.path());
        }
        fs::create_dir(directory.path().join("data")).unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let path = directory.path().to_string_lossy().into_owned();
        let names = Names::new(format!("{case:?}"), &[(path, "$".into())]);
        let scratch = Scratch::new(directory.path());
        Stage {
            case,
            version,
            cast,
            directory,
            scratch,
            names,
            results: BTreeMap::new(),
            servers: Vec::new(),
        }
    }

    fn carry_out(&mut self, number: usize, step: &Step) -> Option<Observation> {
        let (name, shown) = match step {
            Step::Call(call) => (call.name(), self.call(call, self.looks(number, call))),
            Step::On(place, commands) => {
                let commands = self.filled_in(commands);
                self.scratch.at(*place).run(|| succeed(&commands));
                return None;
            }
            Step::Serve(place, port) => {
                let server = self.scratch.at(*place).run(|| Server::start(&place.name(), *port));
                self.servers.push((*place, server));
                return None;
            }
            Step::Ask(questions) => {
                for question in questions {
                    self.scratch.at(question.from);
                }
                self.look(snapshot::links);
                ("questions".into(), probe::ask(&self.scratch, questions))
            }
            Step::Multicast(from, to, group) => {
                ("multicast".into(), probe::multicast(&self.scratch, *from, *to, group))
            }
            Step::Flow(from, to) => ("flow".into(), self.scratch.at(*from).run(|| probe::flow(to))),
            Step::End(place) => {
                self.end(*place);
                return None;
            }
            Step::Rules => ("rules".into(), self.scratch.at(Place::Host).run(snapshot::rules_of_pods)),
        };
        Some(Observation { step: format!("{number} {name}"), shown })
    }

    /// What of a call is looked at.
    fn looks(&self, number: usize, call: &Call) -> Seen {
        let is_full = self.case.versions.last().is_none_or(|newest| *newest <= self.version)
            || number == self.case.steps.len();
        if is_full { call.seen } else { Seen::Outcome }
    }

    fn call(&mut self, call: &Call, seen: Seen) -> Value {
        self.scratch.at(Place::Pod(call.pod));
        let outcomes = self.call_chain(call);
        if call.command == "ADD" || seen == Seen::Everything {
            let snapshots =
                self.look(if seen == Seen::Everything { snapshot::take } else { snapshot::links });
            self.names.learn(&snapshots);
            let mut shown = json!({"outcome": self.names.plain(&json!(outcomes))});
            if seen == Seen::Everything {
                self.show(&snapshots, &mut shown);
            }
            return shown;
        }
        json!({"outcome": self.names.plain(&json!(outcomes))})
    }

    /// Adds all that is there.
    fn show(&self, snapshots: &BTreeMap<Place, Value>, shown: &mut Value) {
        for (place, snapshot) in snapshots {
            shown[place.name()] = self.names.comparable(snapshot);
        }
        shown["files"] = files(&self.directory.path().join("data"));
    }

    fn look(&self, take: fn() -> Value) -> BTreeMap<Place, Value> {
        self.scratch.all().map(|(place, netns)| (place, netns.run(take))).collect()
    }

    /// Calls the plugins one after the other until one fails; DEL goes on.
    fn call_chain(&mut self, call: &Call) -> Vec<Value> {
        let variable =
            |name: &str| call.environment.iter().find(|(key, _)| *key == name).and_then(|(_, value)| *value);
        let key = (call.pod, variable("CNI_IFNAME").unwrap_or("eth0").to_owned());
        let mut previous = match &call.previous {
            Previous::Usual if call.command == "ADD" => None,
            Previous::Usual => self.results.get(&key).cloned().filter(|_| self.passes_results(call.command)),
            Previous::Nothing => None,
            Previous::This(value) => Some(value.clone()),
        };
        let mut plugins: Vec<&Value> = self.case.plugins.iter().collect();
        if call.command == "DEL" {
            plugins.reverse();
        }
        let mut outcomes = Vec::new();
        for plugin in plugins {
            let invocation = self.invocation(call, plugin, previous.as_ref());
            let outcome = self.scratch.at(Place::Host).run(|| invoke(&invocation));
            let failed = outcome.get("result").is_none();
            if call.command == "ADD" {
                previous = outcome.get("result").cloned();
            }
            outcomes.push(outcome);
            if failed && call.command != "DEL" {
                return outcomes;
            }
        }
        if let ("ADD", Some(result)) = (call.command, previous) {
            self.results.insert(key, result);
        }
        outcomes
    }

    /// Whether what ADD gave is told to later calls: to CHECK, which 0.4.0 brought, and since then to DEL.
    fn passes_results(&self, command: &str) -> bool {
        command == "CHECK" || matches!(self.version, "0.4.0" | "1.0.0" | "1.1.0")
    }

    fn invocation(&self, call: &Call, plugin: &Value, previous: Option<&Value>) -> Invocation {
        let side = if call.command == "ADD" { self.cast.add } else { self.cast.rest };
        let path = self.directory.path().join(side.name);
        let kind = plugin["type"].as_str().unwrap_or_default();
        let stdin = call.raw.map_or_else(|| self.stdin(call, plugin, previous), str::to_owned);
        Invocation {
            executable: path.join(kind),
            environment: self.environment(call, &path),
            stdin: self.filled_in(&stdin),
        }
    }

    fn stdin(&self, call: &Call, plugin: &Value, previous: Option<&Value>) -> String {
        let mut config = json!({"cniVersion": self.version, "name": "reference"});
        lay_over(&mut config, plugin);
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        lay_over(&mut config, &call.config);
        config.to_string()
    }

    fn environment(&self, call: &Call, path: &Path) -> Vec<(String, String)> {
        let netns = match call.netns {
            crate::case::Names::Pod => self.scratch.path(Place::Pod(call.pod)),
            crate::case::Names::Nothing => PathBuf::new(),
            crate::case::Names::NothingThere => self.directory.path().join("nothing"),
            crate::case::Names::AFile => self.directory.path().join("file"),
        };
        // iptables is looked for on it.
        let search = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let usual = [
            ("PATH", search),
            ("CNI_COMMAND", call.command.to_owned()),
            ("CNI_CONTAINERID", format!("container-{}", call.pod)),
            ("CNI_NETNS", netns.to_string_lossy().into_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", path.to_string_lossy().into_owned()),
        ];
        let mut all: BTreeMap<String, String> = usual.map(|(key, value)| (key.to_owned(), value)).into();
        if !call.is_of_an_attachment() {
            all.retain(|key, _| matches!(key.as_str(), "PATH" | "CNI_COMMAND" | "CNI_PATH"));
        }
        for (key, value) in &call.environment {
            match value {
                Some(value) => all.insert((*key).to_owned(), (*value).to_owned()),
                None => all.remove(*key),
            };
        }
        all.into_iter().collect()
    }

    fn filled_in(&self, text: &str) -> String {
        text.replace("$DATA", &self.directory.path().join("data").to_string_lossy())
            .replace("$HERE", &self.directory.path().to_string_lossy())
    }

    /// Ends a namespace, and waits until the kernel has taken its links from the host.
    fn end(&mut self, place: Place) {
        let links = || succeed("ip -o link show type veth | wc -l");
        let before = self.scratch.at(Place::Host).run(links);
        // A socket holds its namespace.
        self.servers.retain(|(at, _)| *at != place);
        self.scratch.end(place);
        let give_up = Instant::now() + e2e::patience(Duration::from_secs(20));
        while self.scratch.at(Place::Host).run(links) == before {
            assert!(Instant::now() < give_up, "the links of {place:?} stay");
            thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// Merges objects; null takes away.
pub(crate) fn lay_over(below: &mut Value, above: &Value) {
    let Value::Object(fields) = above else { return };
    for (key, value) in fields {
        match value {
            Value::Null => {
                below.as_object_mut().map(|below| below.remove(key));
            }
            Value::Object(_) if below[key].is_object() => lay_over(&mut below[key], value),
            _ => below[key] = value.clone(),
        }
    }
}

/// All files below `directory`, with what they hold, or for directories nothing.
fn files(directory: &Path) -> Value {
    let mut found = Map::new();
    let mut ahead = vec![directory.to_owned()];
    while let Some(next) = ahead.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().to_string_lossy().into_owned();
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
            if path.is_dir() {
                found.insert(format!("{name}/"), json!(format!("{mode:o}")));
                ahead.push(path);
            } else {
                let held = fs::read(&path).unwrap();
                found.insert(name, json!([String::from_utf8_lossy(&held), format!("{mode:o}")]));
            }
        }
    }
    Value::Object(found)
}

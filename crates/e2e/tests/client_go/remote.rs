//! Commands and attachments.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use e2e::{Network, Pod};
use futures::StreamExt;
use proto::runtime::v1 as cri;
use serde_json::{Value, json};

use super::program::ClientGo;

/// SPDY, WebSocket in both of its versions, and WebSocket that is refused with SPDY after it.
const PROTOCOLS: [&str; 4] = ["spdy", "v5", "v4", "fallback"];

/// What commands end with, and what is heard of it.
const ENDS: [(&str, u8); 4] = [("exit 0", 0), ("exit 1", 1), ("exit 255", 255), ("kill -9 $$", 137)];

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// Nothing: it isn't connected to the input.
    None,
    /// A line, and its input stays open.
    Line,
    /// A line and the end, while output goes on.
    Ended,
}

/// A command, how it is reached and what happens meanwhile.
#[derive(Debug, Clone, Copy)]
struct Case {
    protocol: &'static str,
    tty: bool,
    input: Input,
    resized: bool,
    end: (&'static str, u8),
}

/// All that go together, of everything that there is.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for protocol in PROTOCOLS {
        for tty in [false, true] {
            for input in [Input::None, Input::Line, Input::Ended] {
                for resized in [false, true] {
                    cases.extend(ENDS.map(|end| Case { protocol, tty, input, resized, end }));
                }
            }
        }
    }
    // Terminals alone have a size, and their input doesn't end. In v4 nothing means that it does.
    cases.retain(|case| case.tty || !case.resized);
    cases.retain(|case| case.input != Input::Ended || (!case.tty && case.protocol != "v4"));
    cases
}

/// How many lines come after the end of the input.
const AFTERWARDS: usize = 500;

impl Case {
    fn script(&self) -> String {
        let mut script = String::from("[ -t 1 ] && echo terminal || echo plain\n");
        script += match self.input {
            Input::None => "",
            Input::Line => "echo ready; read line; echo \"got $line\"\n",
            Input::Ended => "echo ready; echo \"got $(cat)\"\n",
        };
        if self.input == Input::Ended {
            writeln!(script, "i=0; while [ $i -lt {AFTERWARDS} ]; do echo \"after $i\"; i=$((i + 1)); done")
                .unwrap();
        }
        if self.resized {
            script += "until [ \"$(stty size 2>/dev/null)\" = '24 80' ]; do usleep 1000; done; echo small\n\
                       until [ \"$(stty size 2>/dev/null)\" = '43 132' ]; do usleep 1000; done; echo large\n";
        }
        script + "echo wrong >&2\n" + self.end.0
    }

    fn steps(&self) -> Vec<Value> {
        let mut steps = Vec::new();
        if self.resized {
            steps.push(json!({ "Size": [80, 24] }));
        }
        if self.input != Input::None {
            steps.extend([json!({ "Wait": "ready" }), json!({ "Send": "hello\n" })]);
        }
        if self.input == Input::Ended {
            steps.push(json!({ "End": true }));
        }
        if self.resized {
            steps.extend([json!({ "Wait": "small" }), json!({ "Size": [132, 43] })]);
        }
        steps
    }

    /// The lines of standard output; a terminal shows standard error there, and what is typed.
    fn output(&self) -> Vec<String> {
        let mut lines = vec![if self.tty { "terminal" } else { "plain" }.to_owned()];
        if self.input != Input::None {
            lines.push("ready".into());
            lines.extend(self.tty.then(|| "hello".into()));
            lines.push("got hello".into());
        }
        if self.input == Input::Ended {
            lines.extend((0..AFTERWARDS).map(|i| format!("after {i}")));
        }
        if self.resized {
            lines.extend(["small".into(), "large".into()]);
        }
        lines.extend(self.tty.then(|| "wrong".into()));
        lines
    }

    /// # Errors
    /// What the report has that it should not have.
    fn judge(&self, report: &Value) -> Result<(), String> {
        let newline = if self.tty { "\r\n" } else { "\n" };
        let output: String = self.output().iter().map(|line| format!("{line}{newline}")).collect();
        let wanted = json!({
            "output": output,
            "error": if self.tty { "" } else { "wrong\n" },
            "exit": self.end.1,
            "left": 0,
            "upgrades": if self.protocol == "fallback" { json!(["websocket", "SPDY/3.1"]) } else { json!(null) },
        });
        let got = json!({
            "output": report["Stdout"]["Text"],
            "error": report["Stderr"]["Text"],
            "exit": report["Exit"],
            "left": report["Left"],
            "upgrades": report["Upgrades"],
        });
        if got == wanted {
            Ok(())
        } else {
            Err(format!("{self:?}: {got}, and not {wanted}: {}", report["Error"]))
        }
    }
}

/// The fields of a plan that all have; it is given up when a machine of any speed should have done it.
fn plan(url: &str, protocol: &str, steps: &[Value]) -> Value {
    let seconds = e2e::patience(Duration::from_secs(60)).as_secs();
    json!({ "URL": url, "Protocol": protocol, "Stdin": true, "Seconds": seconds, "Steps": steps })
}

fn with(mut plan: Value, field: &str, value: impl Into<Value>) -> Value {
    plan[field] = value.into();
    plan
}

async fn exec(pod: &Pod, container: &str, (script, stdin, tty): (&str, bool, bool)) -> String {
    let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
    let container_id = container.to_owned();
    let request = cri::ExecRequest { container_id, cmd, tty, stdin, stdout: true, stderr: !tty };
    pod.runtime.clone().exec(request).await.expect("an address").into_inner().url
}

async fn attach(pod: &Pod, container: &str, tty: bool) -> String {
    let container_id = container.to_owned();
    let request = cri::AttachRequest { container_id, stdin: true, tty, stdout: true, stderr: !tty };
    pod.runtime.clone().attach(request).await.expect("an address").into_inner().url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_in_every_way() {
    let Some(client) = ClientGo::new() else { return };
    let pod = &Pod::new(Network::BuiltIn, |_| {}).await;
    let container = &pod.waiting("main", |_| {}).await;
    let judged = futures::stream::iter(cases()).map(|case| async move {
        let stdin = case.input != Input::None;
        let url = exec(pod, container, (&case.script(), stdin, case.tty)).await;
        let plan = with(plan(&url, case.protocol, &case.steps()), "TTY", case.tty);
        case.judge(&client.reports("remote", &with(plan, "Stdin", stdin)).await)
    });
    let judged: Vec<Result<(), String>> = judged.buffer_unordered(8).collect().await;
    let count = judged.len();
    let failed: Vec<String> = judged.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {count}: {}", failed.len(), failed.join("\n"));
    assert_eq!(count, 108, "the matrix is whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mebibytes_come_back_as_they_were() {
    let Some(client) = ClientGo::new() else { return };
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let size: u64 = 100 << 20;
    for protocol in PROTOCOLS {
        // In v4 nothing says where the input ends.
        let (script, end) =
            if protocol == "v4" { (format!("head -c {size}"), false) } else { ("cat".into(), true) };
        let url = exec(&pod, &container, (&script, true, false)).await;
        let plan = plan(&url, protocol, &[json!({ "Random": size }), json!({ "End": end })]);
        let report = client.reports("remote", &plan).await;
        let (sent, came) = (&report["Sent"], &report["Stdout"]);
        assert_eq!(
            (&came["Bytes"], &came["SHA256"]),
            (&json!(size), &sent["SHA256"]),
            "{protocol}: {}",
            report["Error"]
        );
        assert_eq!(
            (&report["Exit"], &report["Left"]),
            (&json!(0), &json!(0)),
            "{protocol}: {}",
            report["Error"]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_attached_to_in_every_way() {
    let Some(client) = ClientGo::new() else { return };
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    for protocol in PROTOCOLS {
        for tty in [false, true] {
            let size = "until [ \"$(stty size 2>/dev/null)\" = '43 132' ]; do usleep 1000; done; echo large;";
            let size = if tty { size } else { "" };
            let script =
                format!("read line; echo \"got $line\"; {size} read line; echo \"got $line\"; exit 5");
            let mut wanted = pod.script(&format!("{protocol}-{tty}"), &script);
            (wanted.stdin, wanted.tty) = (true, tty);
            let container = pod.create(wanted).await.unwrap();
            pod.client.start(&container).await.unwrap();
            let mut steps = vec![json!({ "Send": "one\n" }), json!({ "Wait": "got one" })];
            if tty {
                steps.extend([json!({ "Size": [132, 43] }), json!({ "Wait": "large" })]);
            }
            steps.extend([json!({ "Send": "two\n" }), json!({ "Wait": "got two" })]);
            let url = attach(&pod, &container, tty).await;
            let report = client.reports("remote", &with(plan(&url, protocol, &steps), "TTY", tty)).await;
            assert_eq!(
                (&report["Exit"], &report["Left"]),
                (&json!(0), &json!(0)),
                "{protocol}, {tty}: {report}"
            );
            assert_eq!(pod.client.exited(&container).await.exit_code, 5, "{protocol}, {tty}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_client_s_input_is_that_of_a_container_for_one() {
    let Some(client) = ClientGo::new() else { return };
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    for protocol in PROTOCOLS.into_iter().filter(|protocol| *protocol != "v4") {
        let mut wanted = pod.script(protocol, "echo \"got $(cat)\"; echo wrong >&2; exit 5");
        (wanted.stdin, wanted.stdin_once) = (true, true);
        let container = pod.create(wanted).await.unwrap();
        pod.client.start(&container).await.unwrap();
        let steps = [json!({ "Send": "one\ntwo" }), json!({ "End": true })];
        let report =
            client.reports("remote", &plan(&attach(&pod, &container, false).await, protocol, &steps)).await;
        assert_eq!(report["Stdout"]["Text"], "got one\ntwo\n", "{protocol}: {report}");
        assert_eq!(
            (&report["Stderr"]["Text"], &report["Exit"]),
            (&json!("wrong\n"), &json!(0)),
            "{protocol}"
        );
        assert_eq!(pod.client.exited(&container).await.exit_code, 5, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_run_is_told() {
    let Some(client) = ClientGo::new() else { return };
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    for protocol in PROTOCOLS {
        let request = cri::ExecRequest {
            container_id: container.clone(),
            cmd: vec!["no-such-program".into()],
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        let url = pod.runtime.clone().exec(request).await.unwrap().into_inner().url;
        let report = client.reports("remote", &with(plan(&url, protocol, &[]), "Stdin", false)).await;
        assert_eq!(report["Exit"], Value::Null, "{report}");
        assert!(report["Error"].as_str().unwrap().contains("no-such-program"), "{report}");
        // The address was for once.
        let again = client.reports("remote", &with(plan(&url, protocol, &[]), "Stdin", false)).await;
        assert!(again["Error"].as_str().unwrap().contains("its token was used"), "{again}");
    }
}

/// As `kubectl cp` does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_copied_in_and_out() {
    let Some(client) = ClientGo::new() else { return };
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let files = BTreeMap::from([
        ("empty".to_owned(), Vec::new()),
        ("large".to_owned(), (0..3_000_000_u32).map(|i| i.wrapping_mul(i).to_le_bytes()[1]).collect()),
        ("text".to_owned(), b"a line\n".to_vec()),
    ]);
    let (sent, fetched) = (pod.node.path("sent.tar"), pod.node.path("fetched.tar"));
    std::fs::write(&sent, packed(&files)).unwrap();
    for protocol in ["spdy", "v5", "fallback"] {
        let script = format!("mkdir /tmp/{protocol} && tar xf - -C /tmp/{protocol}");
        let url = exec(&pod, &container, (&script, true, false)).await;
        let steps = [json!({ "File": sent }), json!({ "End": true })];
        let report = client.reports("remote", &plan(&url, protocol, &steps)).await;
        assert_eq!((&report["Exit"], &report["Left"]), (&json!(0), &json!(0)), "{protocol}: {report}");

        let script = format!("tar cf - -C /tmp/{protocol} .");
        let url = exec(&pod, &container, (&script, false, false)).await;
        let plan = with(with(plan(&url, protocol, &[]), "Stdin", false), "Output", fetched.to_str());
        let report = client.reports("remote", &plan).await;
        assert_eq!(report["Exit"], 0, "{protocol}: {}", report["Error"]);
        assert!(unpacked(&fetched) == files, "{protocol}: other files");
    }
}

fn packed(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn unpacked(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(std::fs::File::open(path).unwrap());
    let entries =
        tar.entries().unwrap().map(Result::unwrap).filter(|entry| entry.header().entry_type().is_file());
    let read = entries.map(|mut entry| {
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.path().unwrap().to_string_lossy().trim_start_matches("./").to_owned();
        (name, content)
    });
    read.collect()
}

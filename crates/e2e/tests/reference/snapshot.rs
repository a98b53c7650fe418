//! What a namespace holds, read inside of it: links with their addresses and bridge ports, routes of all tables, rules,
//! neighbours, the sysctls of every interface; and rules of the firewall that belong to pods. Not here: making two of them
//! comparable.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::scratch::succeed;

/// What `ip` is asked for, and under what name its answer goes.
const QUESTIONS: [(&str, &str); 5] = [
    ("links", "address show"),
    ("routes", "route show table all"),
    ("rules", "rule show"),
    ("neighbours", "neighbour show nud all"),
    ("proxied neighbours", "neighbour show proxy"),
];

/// How long the kernel may take until links that were set up carry something. It tells of them once a second.
const PATIENCE: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(5);

/// What the calling thread's namespace holds, as soon as its links have come to rest.
pub(crate) fn take() -> Value {
    let mut found = rested(&QUESTIONS);
    if found["links"]
        .as_array()
        .unwrap()
        .iter()
        .any(|link| link["linkinfo"]["info_data"]["vlan_filtering"] == 1)
    {
        let vlans = succeed("bridge -json vlan show");
        found.insert("vlans".into(), serde_json::from_str(&vlans).unwrap());
    }
    found.insert("sysctls".into(), sysctls());
    Value::Object(found)
}

/// Its links and routes alone.
pub(crate) fn links() -> Value {
    Value::Object(rested(&QUESTIONS[..2]))
}

fn rested(questions: &[(&str, &str)]) -> Map<String, Value> {
    let give_up = Instant::now() + e2e::patience(PATIENCE);
    loop {
        let found = ask(&questions.iter().map(|(_, question)| *question).collect::<Vec<_>>());
        let (links, routes) = (found[0].as_array().unwrap(), found[1].as_array().unwrap());
        if links.iter().all(|link| rests(link) && are_in_use(link, routes)) {
            return questions.iter().map(|(name, _)| (*name).to_owned()).zip(found).collect();
        }
        assert!(Instant::now() < give_up, "links don't come to rest: {} {}", found[0], found[1]);
        thread::park_timeout(INTERVAL);
    }
}

/// Has `ip` answer all questions in one process.
fn ask(questions: &[&str]) -> Vec<Value> {
    let mut command = Command::new("ip");
    command.args(["-json", "-details", "-batch", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(questions.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
    let answers: Result<Vec<Value>, _> =
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect();
    answers.unwrap_or_else(|error| panic!("ip: {error}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// Whether the state of a link that the kernel tells of later has been told.
fn rests(link: &Value) -> bool {
    let flags: Vec<&str> = link["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !flags.contains(&"UP") {
        return true;
    }
    let carries = flags.contains(&"LOWER_UP");
    let told = link["operstate"].as_str().unwrap_or_default();
    if carries { matches!(told, "UP" | "UNKNOWN") } else { matches!(told, "DOWN" | "LOWERLAYERDOWN") }
}

/// Whether the global addresses of a link that is up can be reached already: those of IPv6 come to be some time after they
/// were added.
fn are_in_use(link: &Value, routes: &[Value]) -> bool {
    let is_up = link["flags"].as_array().into_iter().flatten().any(|flag| flag == "UP");
    let addresses = link["addr_info"].as_array().into_iter().flatten();
    let mut awaited =
        addresses.filter(|address| address["family"] == "inet6" && address["scope"] == "global");
    let has_route = |address: &Value| {
        let leads = |route: &Value| route["dst"] == address["local"] && route["type"] == "local";
        routes.iter().any(leads) && address["tentative"] != true
    };
    !is_up || awaited.all(has_route)
}

/// What is set for every interface (Documentation/networking/ip-sysctl.rst, `conf/interface/*`). All of it would take longer
/// than everything else.
const IPV4: [&str; 10] = [
    "accept_local",
    "accept_redirects",
    "arp_announce",
    "arp_ignore",
    "arp_notify",
    "forwarding",
    "proxy_arp",
    "route_localnet",
    "rp_filter",
    "send_redirects",
];
const IPV6: [&str; 12] = [
    "accept_dad",
    "accept_ra",
    "accept_redirects",
    "addr_gen_mode",
    "autoconf",
    "disable_ipv6",
    "enhanced_dad",
    "forwarding",
    "keep_addr_on_down",
    "mtu",
    "ndisc_notify",
    "proxy_ndp",
];

/// For the kernel this one is set whatever the number; ours tells by it who has set it.
fn plain<'a>(name: &str, value: &'a str) -> &'a str {
    if name == "route_localnet" && value != "0" { "1" } else { value }
}

fn sysctls() -> Value {
    let mut found = BTreeMap::new();
    for (family, names) in [("ipv4", IPV4.as_slice()), ("ipv6", IPV6.as_slice())] {
        let directory = Path::new("/proc/sys/net").join(family).join("conf");
        for interface in fs::read_dir(&directory).unwrap() {
            let interface = interface.unwrap();
            // An interface may go meanwhile.
            let value = |name| {
                fs::read_to_string(interface.path().join(name))
                    .map_or(Value::Null, |value| json!(plain(name, value.trim())))
            };
            let values: BTreeMap<_, _> = names.iter().map(|name| (*name, value(name))).collect();
            found.insert(format!("{family}.{}", interface.file_name().to_string_lossy()), json!(values));
        }
    }
    let forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    found.insert("ip_forward".into(), json!(forward.trim()));
    json!(found)
}

/// The rules of the calling thread's namespace, but for what Debian's portmap leaves there for all pods: its chains of the
/// top level, the jumps to them and the mark that they use.
pub(crate) fn rules_of_pods() -> Value {
    let mut left = Vec::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let text = succeed(&format!("{program} 2>/dev/null"));
        let lines = text.lines().filter(|line| line.starts_with("-A ") || line.starts_with(":CNI-"));
        left.extend(lines.filter(|line| !is_base(line)).map(str::to_owned));
    }
    // iptables keeps its tables when their chains are empty.
    let tables = succeed("nft list tables");
    left.extend(
        tables.lines().filter(|line| !line.contains(" nat") && !line.contains(" filter")).map(str::to_owned),
    );
    json!(left)
}

fn is_base(line: &str) -> bool {
    let name = line.trim_start_matches("-A ").trim_start_matches(':').split(' ').next().unwrap_or_default();
    let ours = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"];
    let enters = matches!(name, "PREROUTING" | "OUTPUT" | "POSTROUTING");
    let target = line.rsplit(" -j ").next().unwrap_or_default();
    (ours.contains(&name) && !line.contains("-j CNI-DN-")) || (enters && ours.contains(&target))
}

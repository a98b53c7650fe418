//! What the network state of a namespace consists of, as one text to compare.
//!
//! Left out is what changes by itself (counters, timers, whether a link has a carrier) and what the kernel adds to a link
//! that is up for as long as it is (link-local and multicast of IPv6).

use super::netns::sh;

/// One process for each kind of thing would be most of a short test's time.
const OBSERVE: &str = "
    printf 'link show\\naddress show\\n' | ip -o -batch -
    printf 'route show table all\\nrule show\\nneighbour show\\n' | ip -batch -
    printf 'route show table all\\nrule show\\nneighbour show\\n' | ip -6 -batch -
    nft list ruleset
    grep -E ' (udp|sctp) ' /proc/thread-self/net/nf_conntrack 2>/dev/null | sed -E 's/ (udp|sctp) +[0-9]+ [0-9]+/ \\1/' || :";

/// The state of the calling thread's network namespace, a line a thing.
pub fn snapshot() -> Vec<String> {
    let text = sh(OBSERVE);
    let mut lines: Vec<String> = text.lines().filter(|line| lasts(line)).map(plain).collect();
    // The kernel lists links and addresses in the order of their birth, which a bridge that was made again changes.
    lines.sort();
    lines
}

/// What came and what went, for a test to show; empty when nothing did.
pub fn difference(before: &[String], after: &[String]) -> Vec<String> {
    let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("gone: {line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("left over: {line}"));
    let counted =
        (before.len() != after.len()).then(|| format!("{} lines were {}", after.len(), before.len()));
    let difference: Vec<String> = gone.chain(new).collect();
    if difference.is_empty() { counted.into_iter().collect() } else { difference }
}

fn lasts(line: &str) -> bool {
    !line.contains("fe80:")
        && !line.contains("ff00::/8")
        && !line.contains("table local")
        && !line.trim().is_empty()
}

/// Without what changes by itself.
fn plain(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    // `7: eth0@if6: …`: numbers of interfaces are given anew.
    if words[0].strip_suffix(':').is_some_and(|number| number.parse::<u32>().is_ok()) {
        words.remove(0);
        let flags = ["mtu", "link/ether", "master", "inet", "inet6"];
        let name = words[0].split(['@', ':']).next().unwrap_or_default();
        let values = words.windows(2).filter(|pair| flags.contains(&pair[0]) && pair[0] != "link/ether");
        let values: Vec<String> = values.map(|pair| pair.join(" ")).collect();
        return format!("{name} {}", values.join(" "));
    }
    let volatile = ["linkdown", "dead", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "INCOMPLETE"];
    words.retain(|word| !volatile.contains(word));
    while let Some(at) = words.iter().position(|word| *word == "counter") {
        words.drain(at..(at + 5).min(words.len()));
    }
    words.join(" ")
}

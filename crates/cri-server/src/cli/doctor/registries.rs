//! What hosts.toml files and credentials say, before a pull finds it out at night; and, when asked, whether their hosts answer.
//!
//! What becomes of a single image `knarr registry explain` tells, with the daemon's own eyes.

use std::collections::BTreeSet;
use std::net::ToSocketAddrs as _;
use std::path::Path;
use std::time::Duration;

use super::Subject;
use super::finding::{Finding, may};

/// How long a host may take to accept.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn look(subject: &Subject<'_>) -> Vec<Finding> {
    let config = subject.config;
    let (count, problems) = image_service::registry_problems(&crate::parts::images(config));
    let lack = may(
        "pulls that need it fail",
        "correct that file; `knarr registry explain IMAGE` tells what comes of it",
    );
    let mut found: Vec<Finding> =
        problems.iter().map(|problem| Finding::lacks("registries", crate::chain(problem), lack)).collect();
    if found.is_empty() {
        let dir = config.registry_config_dir.display();
        found.push(Finding::ok("registries", format!("{count} configured in {dir}")));
    }
    if subject.reach {
        found.extend(hosts(&config.registry_config_dir).iter().map(|host| reach(host)));
    }
    found
}

/// The hosts that files name, and those that directories are named after where the file names no server: `host:port`.
fn hosts(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.flat_map(|entry| named(&entry.path(), &entry.file_name().to_string_lossy())).collect()
}

fn named(dir: &Path, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("hosts.toml")).unwrap_or_default();
    let table: toml::Table = text.parse().unwrap_or_default();
    let mirrors = table.get("host").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
    let own = match name {
        "_default" => None,
        // Where Docker's registry really is.
        "docker.io" => Some("registry-1.docker.io"),
        host => Some(host),
    };
    let server = table.get("server").and_then(toml::Value::as_str).or(own);
    mirrors.map(String::as_str).chain(server).filter_map(address).collect()
}

/// Host and port of a URL.
fn address(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let host = rest.split('/').next().filter(|host| !host.is_empty())?;
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if scheme == "http" { 80 } else { 443 };
    Some(if has_port { host.to_owned() } else { format!("{host}:{port}") })
}

fn reach(host: &str) -> Finding {
    let what = format!("registry {host}");
    let lack = may("pulls from it wait and fail", "");
    let addresses = match host.to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => {
            let remedy = "correct the name, or /etc/resolv.conf of this node";
            return Finding::lacks(what, format!("its name isn't found: {error}"), lack).remedied(remedy);
        }
    };
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match std::net::TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Finding::ok(what, format!("accepts connections at {address}")),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Finding::lacks(what, last, lack).remedied("see routes, firewall and proxy of this node")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port() {
        for (url, expected) in [
            ("https://mirror.example/v2", Some("mirror.example:443")),
            ("http://mirror.example", Some("mirror.example:80")),
            ("https://[::1]:5000", Some("[::1]:5000")),
            ("mirror.example:5000", Some("mirror.example:5000")),
            ("https://", None),
        ] {
            assert_eq!(address(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn hosts_are_those_of_files_and_of_directories_without_a_server() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("docker.io", "[host.\"https://mirror.example\"]"),
            ("quay.io", "server = \"http://near.example\""),
            ("plain.example:5000", ""),
            ("_default", "[host.\"http://all.example:81\"]"),
        ] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
        }
        let expected = [
            "all.example:81",
            "mirror.example:443",
            "near.example:80",
            "plain.example:5000",
            "registry-1.docker.io:443",
        ];
        assert_eq!(hosts(dir.path()).into_iter().collect::<Vec<_>>(), expected);
    }
}

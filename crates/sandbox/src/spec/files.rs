//! The /etc files of a pod, and where its containers' logs go.

use std::path::{Component, Path, PathBuf};

use crate::container::lengths;
use crate::error::Error;
use crate::pod::config::DnsConfig;

/// The text of resolv.conf; `None` says to take the host's.
///
/// # Errors
/// [`Error::Refused`] for a word with a blank or line break in it, which could forge a line.
pub(crate) fn resolv_conf(dns: Option<&DnsConfig>) -> Result<Option<String>, Error> {
    let Some(dns) = dns else { return Ok(None) };
    if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() {
        return Ok(None);
    }
    let lists = [("servers", &dns.servers), ("searches", &dns.searches), ("options", &dns.options)];
    for (field, words) in lists {
        if let Some(at) = words.iter().position(|word| word.is_empty() || word.contains(char::is_whitespace))
        {
            return Err(Error::refused(format!("dns_config.{field}[{at}]"), "is empty or has blanks in it"));
        }
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(Some(text))
}

/// The file that a container logs to: a path that stays inside the pod's log directory.
///
/// # Errors
/// [`Error::Refused`] for a path that is absolute or climbs (CVE-2025-0750).
pub(crate) fn log_path(directory: &Path, log_path: &str) -> Result<Option<PathBuf>, Error> {
    if log_path.is_empty() || directory.as_os_str().is_empty() {
        return Ok(None);
    }
    let is_inside =
        Path::new(log_path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !is_inside || log_path.contains('\0') {
        return Err(Error::refused(
            "log_path",
            format!("\"{log_path}\" does not stay below the pod's log directory"),
        ));
    }
    let is_file =
        Path::new(log_path).file_name().is_some() && !log_path.ends_with('/') && !log_path.ends_with("/.");
    if !is_file {
        return Err(Error::refused("log_path", format!("\"{log_path}\" does not name a file")));
    }
    lengths::names(Path::new(log_path), || "log_path".to_owned())?;
    Ok(Some(directory.join(log_path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_settings_become_lines() {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let dns = DnsConfig {
            servers: own(&["10.0.0.10", "fd00::1"]),
            searches: own(&["a.svc", "svc"]),
            options: own(&["ndots:5"]),
        };
        let text = resolv_conf(Some(&dns)).expect("fine");
        assert_eq!(
            text.as_deref(),
            Some("search a.svc svc\nnameserver 10.0.0.10\nnameserver fd00::1\noptions ndots:5\n")
        );
        assert_eq!(resolv_conf(None).expect("fine"), None);
        let forged = DnsConfig { searches: own(&["a\nnameserver 6.6.6.6"]), ..DnsConfig::default() };
        assert!(resolv_conf(Some(&forged)).is_err());
    }

    #[test]
    fn logs_stay_in_their_directory() {
        let path = |text| log_path(Path::new("/logs"), text);
        assert_eq!(path("a/0.log").expect("fine"), Some("/logs/a/0.log".into()));
        assert_eq!(path("").expect("fine"), None);
        let long = "x".repeat(256);
        for bad in ["../x", "a/../../x", "/etc/passwd", "a/..", ".", "./", "a/", "a/.", long.as_str()] {
            assert!(matches!(path(bad), Err(Error::Refused { field, .. }) if field == "log_path"), "{bad}");
        }
    }
}

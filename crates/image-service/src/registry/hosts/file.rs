//! What one `hosts.toml` says.
//!
//! | key, at the top for the `server` or in a `[host."address"]` for a mirror | what it is |
//! |---|---|
//! | `capabilities` | what it may be asked for: `pull`, `resolve`, `push`; all where nothing is named |
//! | `ca` | files of authorities: a text or a list |
//! | `client` | our certificate: a file, a list of files, or a list of pairs with the key's file; the first of several is shown |
//! | `skip_verify` | any certificate will do |
//! | `header` | headers for each request, each a text or a list |
//! | `override_path` | the address's path is the API's, with no `/v2` behind it |
//! | `dial_timeout` | longest wait for a connection, such as `"1s"` |
//! | `proxy` | the way there: `http`, `https`, `socks5`, `socks5h` |
//! | `credentials` | ours alone: `"none"`, or a table with `file`, `helper`, or `username` and `password_file` |
//!
//! What isn't known is refused by name: other runtimes ignore it, and with it, one night, the mirror that it was meant
//! for. So is a file that can't be read, for the same reason. Names of files are relative to the file's directory.
//! Not here: which file counts (the module above).

use std::io;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::{Capabilities, Role, Settings, Tls, api_base, duration, invalid, url};
use crate::auth::HostCredentials;

/// Largest `hosts.toml`, in bytes: far above what anybody writes.
pub(super) const LARGEST: u64 = 1 << 20;

/// What a `[host."…"]` section, or the top of the file, may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Section {
    capabilities: Vec<String>,
    ca: Option<OneOrMany<String>>,
    client: Option<Client>,
    skip_verify: bool,
    header: toml::Table,
    override_path: bool,
    dial_timeout: Option<String>,
    proxy: Option<String>,
    credentials: Option<toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// `"pair.pem"`, `["pair.pem", …]` or `[["cert.pem", "key.pem"], …]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Client {
    File(String),
    List(Vec<OneOrMany<String>>),
}

/// The table that `credentials` may be.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CredentialsTable {
    file: Option<PathBuf>,
    helper: Option<String>,
    username: Option<String>,
    password_file: Option<PathBuf>,
}

/// Reads the file's text: the mirrors in its order, then the server.
pub(super) fn parse(text: &str, dir: &Path, own: &Settings) -> io::Result<Vec<Settings>> {
    let mut table: toml::Table = toml::from_str(text).map_err(invalid)?;
    let hosts = match table.remove("host") {
        Some(toml::Value::Table(hosts)) => hosts,
        Some(_) => return Err(invalid("\"host\" is not a table")),
        None => toml::Table::new(),
    };
    let server = match table.remove("server") {
        Some(toml::Value::String(server)) => Some(server).filter(|server| !server.is_empty()),
        Some(_) => return Err(invalid("\"server\" is not a text")),
        None => None,
    };
    let mut endpoints = Vec::new();
    for (address, section) in hosts {
        let read =
            || settings(Some(&address), section.try_into().map_err(invalid)?, (dir, own, Role::Mirror));
        let wrong = |cause| invalid(format!("[host.\"{}\"]: {}", without_login(&address), short(&cause)));
        endpoints.push(read().map_err(wrong)?);
    }
    let read = || settings(server.as_deref(), table.try_into().map_err(invalid)?, (dir, own, Role::Registry));
    let wrong = |cause| invalid(format!("outside of all [host], beside \"server\": {}", short(&cause)));
    endpoints.push(read().map_err(wrong)?);
    Ok(endpoints)
}

/// An address as errors show it: some write a password into it.
fn without_login(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, host)| host)
}

/// The words of an error, which the TOML library ends with a line break.
fn short(cause: &io::Error) -> String {
    cause.to_string().trim_end().replace('\n', " ")
}

fn settings(
    address: Option<&str>,
    section: Section,
    (dir, own, role): (&Path, &Settings, Role),
) -> io::Result<Settings> {
    let base = match address {
        Some(address) => api_base(address, section.override_path)?,
        None => own.base.clone(),
    };
    let authorities = section.ca.map_or_else(Vec::new, OneOrMany::into_vec);
    let tls = Tls {
        authorities: authorities.iter().map(|path| dir.join(path)).collect(),
        client: section.client.map(|client| client_files(client, dir)).transpose()?,
        skip_verify: section.skip_verify,
    };
    let connect = section.dial_timeout.map(|text| {
        let length = duration::parse(&text).filter(|length| !length.is_zero());
        length.ok_or_else(|| invalid(format!("\"dial_timeout\" is not a length of time: \"{text}\"")))
    });
    Ok(Settings {
        base,
        role,
        can: capabilities(&section.capabilities)?,
        tls,
        headers: headers(section.header)?,
        connect: connect.transpose()?,
        proxy: section.proxy.map(|text| proxy(&text)).transpose()?,
        credentials: section.credentials.map(|value| credentials(value, dir)).transpose()?,
    })
}

/// No capabilities named means all of them.
fn capabilities(named: &[String]) -> io::Result<Capabilities> {
    if named.is_empty() {
        return Ok(Capabilities::ALL);
    }
    let mut can = Capabilities { pull: false, resolve: false, push: false };
    for name in named {
        match name.to_ascii_lowercase().as_str() {
            "pull" => can.pull = true,
            "resolve" => can.resolve = true,
            "push" => can.push = true,
            _ => {
                return Err(invalid(format!(
                    "\"{name}\" is none of the capabilities pull, resolve and push"
                )));
            }
        }
    }
    Ok(can)
}

/// The first certificate of those configured: a connection shows only one.
fn client_files(client: Client, dir: &Path) -> io::Result<(PathBuf, Option<PathBuf>)> {
    let first = match client {
        Client::File(file) => OneOrMany::One(file),
        Client::List(list) => list.into_iter().next().ok_or_else(|| invalid("\"client\" is empty"))?,
    };
    match first.into_vec().as_slice() {
        [both] => Ok((dir.join(both), None)),
        [certificate, key] => Ok((dir.join(certificate), (!key.is_empty()).then(|| dir.join(key)))),
        _ => Err(invalid("\"client\" is neither a file nor a certificate with its key")),
    }
}

fn headers(table: toml::Table) -> io::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let wrong = |_| invalid(format!("header \"{name}\" is neither a text nor a list of texts"));
        let values: OneOrMany<String> = value.try_into().map_err(wrong)?;
        let name: HeaderName = name.parse().map_err(|_| invalid(format!("\"{name}\" can't be a header")))?;
        for value in values.into_vec() {
            // The value isn't shown: it may be a secret.
            let unfit = |_| invalid(format!("the value of header \"{name}\" can't be sent"));
            let mut value: HeaderValue = value.parse().map_err(unfit)?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

fn proxy(text: &str) -> io::Result<Url> {
    let proxy = url(text)?;
    let bare = matches!(proxy.path(), "" | "/") && proxy.query().is_none() && proxy.fragment().is_none();
    let known = matches!(proxy.scheme(), "http" | "https" | "socks5" | "socks5h");
    if !known || !bare || proxy.host_str().is_none_or(str::is_empty) {
        return Err(invalid("\"proxy\" is not a bare address of http, https, socks5 or socks5h"));
    }
    Ok(proxy)
}

fn credentials(value: toml::Value, dir: &Path) -> io::Result<HostCredentials> {
    let one_of = "\"credentials\" is \"none\", or one of file, helper, and username with password_file";
    let table: CredentialsTable = match value {
        toml::Value::String(text) if text == "none" => return Ok(HostCredentials::Nobody),
        toml::Value::Table(_) => value.try_into().map_err(invalid)?,
        _ => return Err(invalid(one_of)),
    };
    match (table.file, table.helper, table.username, table.password_file) {
        (Some(file), None, None, None) => Ok(HostCredentials::File(dir.join(file))),
        (None, Some(helper), None, None) => Ok(HostCredentials::Helper(helper)),
        (None, None, Some(username), Some(file)) => {
            Ok(HostCredentials::Password { username, file: dir.join(file) })
        }
        _ => Err(invalid(one_of)),
    }
}

//! The configuration of `host-local`: in `ipam` of the network's, with what a runtime adds.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::range::{Range, RangeSet, Wished};
use crate::builtin::fields;
use crate::command::Command;
use crate::error::Error;
use crate::files::read_regular;
use crate::request::Request;
use crate::result::{Cidr, Dns, Route};
use crate::version::Version;

/// Where the reference plugin keeps its addresses.
const DATA_DIR: &str = "/var/lib/cni/networks";
/// More than any file of name service settings; a larger one isn't read.
const RESOLV_CONF_LIMIT: u64 = 64 << 10;

/// What is to be done for a call.
#[derive(Debug, Clone)]
pub(super) struct Conf {
    pub(super) network: String,
    pub(super) sets: Vec<RangeSet>,
    pub(super) routes: Vec<Route>,
    pub(super) resolv_conf: Option<PathBuf>,
    /// The addresses asked for; each has to be of a set.
    pub(super) wanted: Vec<IpAddr>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Fields {
    ipam: Option<IpamFields>,
    runtimeconfig: RuntimeFields,
    args: ArgsFields,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct IpamFields {
    /// One range alone, as it was written before there were sets.
    #[serde(flatten)]
    single: RangeFields,
    ranges: Vec<Vec<RangeFields>>,
    routes: Vec<Route>,
    resolvconf: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RangeFields {
    #[serde(deserialize_with = "unless_empty")]
    subnet: Option<Cidr>,
    #[serde(deserialize_with = "unless_empty")]
    rangestart: Option<IpAddr>,
    #[serde(deserialize_with = "unless_empty")]
    rangeend: Option<IpAddr>,
    #[serde(deserialize_with = "unless_empty")]
    gateway: Option<IpAddr>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RuntimeFields {
    ipranges: Vec<Vec<RangeFields>>,
    ips: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ArgsFields {
    cni: CniFields,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CniFields {
    ips: Vec<String>,
}

/// An empty text is as good as none.
fn unless_empty<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: for<'a> Deserialize<'a>,
{
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    T::deserialize(serde::de::value::StringDeserializer::<D::Error>::new(text)).map(Some)
}

/// Where the addresses of a request's network are. It is all that needs to be understood to give them back.
pub(super) fn dir(request: &Request) -> PathBuf {
    let fields = fields::folded(&request.config);
    let stated = fields.get("ipam").and_then(|ipam| ipam.get("datadir")).and_then(Value::as_str);
    let dir = stated.filter(|dir| !dir.is_empty()).unwrap_or(DATA_DIR);
    Path::new(dir).join(request.network())
}

impl Conf {
    /// Reads it.
    ///
    /// # Errors
    /// [`Error::PluginConf`], [`Error::PluginEnvironment`].
    pub(super) fn read(request: &Request) -> Result<Conf, Error> {
        let fields: Fields = fields::read(request)?;
        let Some(ipam) = fields.ipam else { return Err(request.invalid("'ipam' is missing".into())) };
        let single = ipam.single.subnet.is_some().then(|| vec![ipam.single]);
        let listed = fields.runtimeconfig.ipranges.into_iter().chain(single).chain(ipam.ranges);
        let sets = listed.enumerate().map(|(at, ranges)| {
            read_set(&ranges).map_err(|problem| request.invalid(format!("range set {at} {problem}")))
        });
        let sets: Vec<RangeSet> = sets.collect::<Result<_, _>>()?;
        refuse_sets(request, &sets)?;
        let mut wanted = Vec::new();
        let argument = fields::argument(request, "IP")?;
        let listed = fields.args.cni.ips.iter().chain(&fields.runtimeconfig.ips).map(String::as_str);
        for text in argument.into_iter().chain(listed) {
            let address = read_address(text);
            let address = address.ok_or_else(|| request.invalid(format!("'{text}' is no address")))?;
            if !wanted.contains(&address) {
                wanted.push(address);
            }
        }
        Ok(Conf {
            network: request.network().to_owned(),
            sets,
            routes: ipam.routes,
            resolv_conf: (!ipam.resolvconf.is_empty()).then(|| ipam.resolvconf.into()),
            wanted,
        })
    }
}

fn read_set(ranges: &[RangeFields]) -> Result<RangeSet, String> {
    let ranges = ranges.iter().map(|range| {
        let subnet = range.subnet.ok_or("has a range without a subnet")?;
        let canonical = |address: Option<IpAddr>| address.map(|address| address.to_canonical());
        Range::of(&Wished {
            subnet,
            gateway: canonical(range.gateway),
            first: canonical(range.rangestart),
            last: canonical(range.rangeend),
        })
        .map_err(|problem| format!("is invalid: {problem}"))
    });
    RangeSet::of(ranges.collect::<Result<_, String>>()?)
}

fn refuse_sets(request: &Request, sets: &[RangeSet]) -> Result<(), Error> {
    // They may come with each ADD, by the capability `ipRanges`.
    if sets.is_empty() && request.command != Command::Status {
        return Err(request.invalid("no address ranges".into()));
    }
    let v4 = sets.iter().filter(|set| set.is_ipv4()).count();
    if request.version() < Version::V0_3_0 && (v4 > 1 || sets.len() - v4 > 1) {
        let version = request.version();
        return Err(request.invalid(format!("CNI {version} has room for one address of a family")));
    }
    for (at, set) in sets.iter().enumerate() {
        if let Some(other) = sets.iter().skip(at + 1).position(|other| other.overlaps(set)) {
            return Err(request.invalid(format!("range sets {at} and {} overlap", at + 1 + other)));
        }
    }
    Ok(())
}

/// With or without a prefix length.
fn read_address(text: &str) -> Option<IpAddr> {
    let address = match text.split_once('/') {
        Some(_) => Cidr::parse(text)?.address,
        None => text.parse().ok()?,
    };
    Some(address.to_canonical())
}

/// The name service settings of a file (resolv.conf(5)).
///
/// # Errors
/// [`Error::ReadConf`], also for what is no regular file, is too large or isn't text.
pub(super) fn read_resolv_conf(path: &Path) -> Result<Dns, Error> {
    let read = read_regular(path, RESOLV_CONF_LIMIT).and_then(|content| {
        let problem = match String::from_utf8(content) {
            Ok(text) if text.len() as u64 <= RESOLV_CONF_LIMIT => return Ok(text),
            Ok(_) => format!("is larger than {RESOLV_CONF_LIMIT} bytes"),
            Err(_) => "isn't text".to_owned(),
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, problem))
    });
    let text = read.map_err(|source| Error::ReadConf { path: path.to_owned(), source })?;
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match (words.next().as_deref(), words.next()) {
            (Some("nameserver"), Some(server)) => dns.nameservers.push(server),
            (Some("domain"), Some(domain)) => dns.domain = domain,
            (Some("search"), Some(first)) => dns.search.extend(std::iter::once(first).chain(words)),
            (Some("options"), Some(first)) => dns.options.extend(std::iter::once(first).chain(words)),
            _ => {}
        }
    }
    Ok(dns)
}

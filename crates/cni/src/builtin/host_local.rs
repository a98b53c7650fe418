//! Addresses: handed out once, remembered in a directory, given back.
//!
//! The directory is laid out as the `host-local` plugin's is (a file for each address, named by it, holding container and
//! interface on a line each; `last_reserved_ip.<n>`; `lock`), so that either can take over from the other.
//!
//! A search begins after the address that was handed out last, so that one just given back rests as long as possible:
//! others may still remember whose it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::attachment::AttachmentId;
use crate::error::Error;
use crate::files;
use crate::result::Cidr;

/// The addresses of one subnet that may be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) subnet: Cidr,
    pub(super) gateway: IpAddr,
    first: u128,
    last: u128,
}

impl Range {
    /// All of a subnet but its network address, broadcast address and gateway; the gateway is the first when not given.
    /// `None`: too small, or the gateway isn't in it.
    pub(super) fn of(subnet: Cidr, gateway: Option<IpAddr>) -> Option<Range> {
        let width: u32 = if subnet.address.is_ipv4() { 32 } else { 128 };
        let hosts = width.checked_sub(u32::from(subnet.prefix)).filter(|bits| *bits >= 2)?;
        let mask = u128::MAX.checked_shr(128 - hosts).unwrap_or(0);
        let network = number(subnet.address) & !mask;
        let v4 = subnet.address.is_ipv4();
        let subnet = Cidr { address: address(network, v4), prefix: subnet.prefix };
        let (first, last) = (network + 1, (network | mask) - u128::from(v4));
        let gateway = gateway.unwrap_or_else(|| address(first, v4));
        let inside = gateway.is_ipv4() == v4 && (first..=last).contains(&number(gateway));
        inside.then_some(Range { subnet, gateway, first, last })
    }

    fn contains(&self, candidate: IpAddr) -> bool {
        candidate.is_ipv4() == self.subnet.address.is_ipv4()
            && (self.first..=self.last).contains(&number(candidate))
    }

    /// All of them, beginning after one.
    fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let (range, v4) = (*self, self.subnet.address.is_ipv4());
        let last = last.filter(|last| range.contains(*last)).map_or(range.last, number);
        let start = if last >= range.last { range.first } else { last + 1 };
        (start..=range.last)
            .chain(range.first..start)
            .map(move |candidate| address(candidate, v4))
            .filter(move |candidate| *candidate != range.gateway)
    }
}

/// The addresses of one network.
#[derive(Debug)]
pub(super) struct Pool {
    network: String,
    dir: PathBuf,
}

/// Held while the directory is looked at or changed, by us or by a plugin.
struct Locked<'a> {
    pool: &'a Pool,
    _file: File,
}

impl Pool {
    /// Opens the directory, making it if need be.
    pub(super) fn open(dir: PathBuf, network: &str) -> Result<Pool, Error> {
        files::make_dir(&dir)?;
        Ok(Pool { network: network.to_owned(), dir })
    }

    /// Hands out an address of the range; `index` is the range's number in the network.
    ///
    /// # Errors
    /// [`Error::AddressesExhausted`], [`Error::AddressUnavailable`] for one asked for, [`Error::Record`].
    pub(super) fn reserve(
        &self,
        index: usize,
        range: &Range,
        owner: &AttachmentId,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr, Error> {
        let locked = self.lock()?;
        if let Some(address) = wanted {
            let available = range.contains(address) && address != range.gateway;
            if available && locked.take(address, owner)? {
                return Ok(address);
            }
            return Err(Error::AddressUnavailable { network: self.network.clone(), address });
        }
        let last_path = self.dir.join(format!("last_reserved_ip.{index}"));
        let last = fs::read_to_string(&last_path).ok().and_then(|text| text.trim().parse().ok());
        for candidate in range.after(last) {
            if locked.take(candidate, owner)? {
                // Losing it costs the order only.
                let _ = fs::write(&last_path, candidate.to_string());
                return Ok(candidate);
            }
        }
        Err(Error::AddressesExhausted { network: self.network.clone(), subnet: range.subnet.to_string() })
    }

    /// The addresses of an owner.
    pub(super) fn owned(&self, owner: &AttachmentId) -> Result<Vec<IpAddr>, Error> {
        let entries = self.lock()?.entries()?;
        Ok(entries.into_iter().filter(|entry| entry.1.as_ref() == Some(owner)).map(|entry| entry.0).collect())
    }

    /// Gives back these addresses, as far as they are the owner's.
    pub(super) fn release(&self, owner: &AttachmentId, addresses: &[IpAddr]) -> Result<(), Error> {
        let locked = self.lock()?;
        for address in addresses {
            if locked.owner(*address)?.is_some_and(|found| found.as_ref() == Some(owner)) {
                files::remove(&self.path(*address))?;
            }
        }
        Ok(())
    }

    /// Gives back everything whose owner isn't kept. A file without an owner was cut short while it was written.
    pub(super) fn retain(&self, keep: impl Fn(&AttachmentId) -> bool) -> Result<Vec<IpAddr>, Error> {
        let locked = self.lock()?;
        let mut released = Vec::new();
        for (address, owner) in locked.entries()? {
            if !owner.as_ref().is_some_and(&keep) {
                files::remove(&self.path(address))?;
                released.push(address);
            }
        }
        Ok(released)
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.dir.join(address.to_string())
    }

    fn lock(&self) -> Result<Locked<'_>, Error> {
        let path = self.dir.join("lock");
        let failed = |source| Error::Record { action: "lock", path: path.clone(), source };
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = options.map_err(failed)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(Locked { pool: self, _file: file })
    }
}

impl Locked<'_> {
    /// Whether the address was free, and is the owner's now.
    fn take(&self, address: IpAddr, owner: &AttachmentId) -> Result<bool, Error> {
        let path = self.pool.path(address);
        let failed = |source| Error::Record { action: "write", path: path.clone(), source };
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            outcome => outcome.map_err(failed)?,
        };
        let text = format!("{}\r\n{}", owner.container_id, owner.ifname);
        file.write_all(text.as_bytes()).map_err(|source| {
            let _ = fs::remove_file(&path);
            failed(source)
        })?;
        Ok(true)
    }

    /// `None`: free. `Some(None)`: taken by nobody that can be told.
    fn owner(&self, address: IpAddr) -> Result<Option<Option<AttachmentId>>, Error> {
        let path = self.pool.path(address);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(parse_owner(&text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(None)),
            Err(source) => Err(Error::Record { action: "read", path, source }),
        }
    }

    fn entries(&self) -> Result<Vec<(IpAddr, Option<AttachmentId>)>, Error> {
        let dir: &Path = &self.pool.dir;
        let failed = |source| Error::Record { action: "list", path: dir.to_owned(), source };
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(address) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(owner) = self.owner(address)? {
                entries.push((address, owner));
            }
        }
        Ok(entries)
    }
}

fn parse_owner(text: &str) -> Option<AttachmentId> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Some(AttachmentId { container_id: lines.next()?.to_owned(), ifname: lines.next()?.to_owned() })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if v4 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn range(subnet: &str) -> Range {
        Range::of(Cidr::parse(subnet).unwrap(), None).unwrap()
    }

    fn owner(name: &str) -> AttachmentId {
        AttachmentId { container_id: name.into(), ifname: "eth0".into() }
    }

    fn pool() -> (tempfile::TempDir, Pool) {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::open(dir.path().join("net"), "net").unwrap();
        (dir, pool)
    }

    #[test]
    fn a_range_leaves_out_what_is_no_hosts() {
        let text = |subnet: &str| -> Vec<String> {
            range(subnet).after(None).map(|address| address.to_string()).collect()
        };
        assert_eq!(text("10.0.0.0/29"), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(text("10.0.0.5/30"), ["10.0.0.6"]);
        assert_eq!(text("fd00::/126"), ["fd00::2", "fd00::3"]);
        for bad in ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127"] {
            assert_eq!(Range::of(Cidr::parse(bad).unwrap(), None), None, "{bad}");
        }
        let subnet = Cidr::parse("10.0.0.0/24").unwrap();
        for bad in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "fd00::1"] {
            assert_eq!(Range::of(subnet, Some(bad.parse().unwrap())), None, "{bad}");
        }
    }

    #[test]
    fn an_address_is_handed_out_once_and_rests_after_it_came_back() {
        let (_dir, pool) = pool();
        let range = range("10.0.0.0/29");
        let first = pool.reserve(0, &range, &owner("a"), None).unwrap();
        assert_eq!(first.to_string(), "10.0.0.2");
        pool.release(&owner("a"), &[first]).unwrap();
        let rest: Vec<_> =
            (0..5).map(|n| pool.reserve(0, &range, &owner(&n.to_string()), None).unwrap()).collect();
        assert_eq!(rest[0].to_string(), "10.0.0.3");
        assert_eq!(rest[4], first);
        let error = pool.reserve(0, &range, &owner("z"), None).unwrap_err();
        assert!(matches!(error, Error::AddressesExhausted { .. }), "{error}");
        pool.release(&owner("z"), &rest).unwrap();
        assert_eq!(pool.owned(&owner("3")).unwrap(), [rest[3]]);
    }

    #[test]
    fn an_address_asked_for_is_given_if_it_is_free() {
        let (_dir, pool) = pool();
        let range = range("10.0.0.0/24");
        let wanted: IpAddr = "10.0.0.9".parse().unwrap();
        assert_eq!(pool.reserve(0, &range, &owner("a"), Some(wanted)).unwrap(), wanted);
        for bad in ["10.0.0.9", "10.0.0.1", "10.0.1.9", "10.0.0.255"] {
            let error = pool.reserve(0, &range, &owner("b"), Some(bad.parse().unwrap())).unwrap_err();
            assert!(matches!(error, Error::AddressUnavailable { .. }), "{error}");
        }
    }

    #[test]
    fn the_directory_is_the_plugins() {
        let (dir, pool) = pool();
        pool.reserve(0, &range("10.0.0.0/24"), &owner("a"), None).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join("net").join(name)).unwrap();
        assert_eq!(read("10.0.0.2"), "a\r\neth0");
        assert_eq!(read("last_reserved_ip.0"), "10.0.0.2");
    }

    #[test]
    fn what_nobody_keeps_comes_back() {
        let (dir, pool) = pool();
        let range = range("10.0.0.0/24");
        for name in ["a", "b"] {
            pool.reserve(0, &range, &owner(name), None).unwrap();
        }
        fs::write(dir.path().join("net/10.0.0.77"), "").unwrap();
        let released = pool.retain(|owner| owner.container_id == "a").unwrap();
        assert_eq!(released.len(), 2);
        assert_eq!(pool.owned(&owner("a")).unwrap().len(), 1);
        assert!(pool.owned(&owner("b")).unwrap().is_empty());
    }

    #[test]
    fn many_at_once_get_different_ones() {
        let (_dir, pool) = pool();
        let range = range("10.0.0.0/24");
        let taken = std::thread::scope(|scope| {
            let take = |thread: usize| {
                let (pool, range) = (&pool, &range);
                move || {
                    let one = |n| pool.reserve(0, range, &owner(&format!("{thread}-{n}")), None).unwrap();
                    (0..25).map(one).collect::<Vec<_>>()
                }
            };
            let threads: Vec<_> = (0..8).map(|thread| scope.spawn(take(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(taken.len(), 200);
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 200);
    }
}

//! Addresses of buses (D-Bus Specification, "Server Addresses"): the first unix socket in a list counts.

use std::path::PathBuf;

use crate::Error;

/// Where the system bus listens unless the environment says otherwise.
pub(crate) const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// The socket that an address names; one in the abstract namespace begins with a zero byte.
pub(crate) fn parse(address: &str) -> Result<PathBuf, Error> {
    let mut sockets = address.split(';').filter_map(|one| one.strip_prefix("unix:")).filter_map(unix);
    sockets.next().ok_or_else(|| Error::Address { address: address.to_owned() })
}

fn unix(parameters: &str) -> Option<PathBuf> {
    parameters.split(',').find_map(|parameter| match parameter.split_once('=')? {
        ("path", path) => unescape(path).map(PathBuf::from),
        ("abstract", name) => unescape(name).map(|name| PathBuf::from(format!("\0{name}"))),
        _ => None,
    })
}

/// Bytes that are not plain are written as `%` and two digits.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty() && !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (address, path) in [
            (SYSTEM_BUS, "/run/dbus/system_bus_socket"),
            ("tcp:host=x;unix:guid=1,path=/a%20b", "/a b"),
            ("unix:abstract=x", "\0x"),
        ] {
            assert_eq!(parse(address).unwrap(), PathBuf::from(path));
        }
        for bad in ["", "unix:", "tcp:host=x", "unix:path=", "unix:path=%2", "unix:path=%00"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}

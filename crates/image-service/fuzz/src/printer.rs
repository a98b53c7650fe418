//! What a target was told, written as an archive again: plainly, every value in a PAX record that can be one.

use super::recorder::Told;
use crate::unpack::entry::{Entry, Kind, Time};

/// The archive; none where PAX has no way to say it (times at the ends of the world).
pub(crate) fn print(told: &[Told]) -> Option<Vec<u8>> {
    let mut tar = Vec::new();
    for told in told {
        match told {
            Told::Node { path, entry, content } => node(&mut tar, path, entry, content)?,
            Told::Whiteout(path) => {
                let slash = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
                mark(&mut tar, &[&path[..slash], b".wh.", &path[slash..]].concat());
            }
            Told::Opaque(path) => mark(&mut tar, &[path, &b"/.wh..wh..opq"[..]].concat()),
        }
    }
    tar.resize(tar.len() + 1024, 0);
    Some(tar)
}

fn mark(tar: &mut Vec<u8>, name: &[u8]) {
    records(tar, &[record(b"path", name)].concat());
    super::grammar::put(tar, header(b'0', 0o644, 0), b"");
}

fn node(tar: &mut Vec<u8>, path: &[u8], entry: &Entry, content: &[(u64, Vec<u8>)]) -> Option<()> {
    let mut lines = record(b"path", if path.is_empty() { b"./" } else { path });
    lines.extend(record(b"uid", entry.uid.to_string().as_bytes()));
    lines.extend(record(b"gid", entry.gid.to_string().as_bytes()));
    lines.extend(record(b"mtime", time(entry.mtime)?.as_bytes()));
    for (name, value) in &entry.xattrs {
        lines.extend(record(&[b"SCHILY.xattr.", &name[..]].concat(), value));
    }
    let mut data = Vec::new();
    let (flag, device) = match &entry.kind {
        Kind::Regular { size, .. } => {
            data = sparse(&mut lines, *size, content);
            (b'0', (0, 0))
        }
        Kind::HardLink(target) => link(&mut lines, b'1', target),
        Kind::Symlink(target) => link(&mut lines, b'2', target),
        Kind::CharDevice { major, minor } => (b'3', (*major, *minor)),
        Kind::BlockDevice { major, minor } => (b'4', (*major, *minor)),
        Kind::Directory => (b'5', (0, 0)),
        Kind::Fifo => (b'6', (0, 0)),
    };
    records(tar, &lines);
    let mut header = header(flag, entry.mode, data.len() as u64);
    header[329..336].copy_from_slice(format!("{:07o}", device.0).as_bytes());
    header[337..344].copy_from_slice(format!("{:07o}", device.1).as_bytes());
    super::grammar::put(tar, header, &data);
    Some(())
}

fn link(lines: &mut Vec<u8>, flag: u8, target: &[u8]) -> (u8, (u32, u32)) {
    lines.extend(record(b"linkpath", target));
    (flag, (0, 0))
}

/// A file in GNU's last sparse form, with its map before its content.
fn sparse(lines: &mut Vec<u8>, size: u64, content: &[(u64, Vec<u8>)]) -> Vec<u8> {
    for (key, value) in [("major", 1), ("minor", 0), ("realsize", size)] {
        lines.extend(record(format!("GNU.sparse.{key}").as_bytes(), value.to_string().as_bytes()));
    }
    let mut data = format!("{}\n", content.len()).into_bytes();
    for (offset, bytes) in content {
        data.extend_from_slice(format!("{offset}\n{}\n", bytes.len()).as_bytes());
    }
    data.resize(data.len().next_multiple_of(512), 0);
    for (_, bytes) in content {
        data.extend_from_slice(bytes);
    }
    data
}

fn records(tar: &mut Vec<u8>, lines: &[u8]) {
    super::grammar::put(tar, header(b'x', 0, lines.len() as u64), lines);
}

fn header(flag: u8, mode: u32, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    header[..1].copy_from_slice(b"x");
    header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[156] = flag;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header
}

fn time(time: Time) -> Option<String> {
    Some(match (time.seconds, time.nanoseconds) {
        (seconds, 0) if seconds > i64::MIN => seconds.to_string(),
        (seconds @ 0.., nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
        (seconds, nanoseconds) if nanoseconds > 0 => {
            format!("-{}.{:09}", (seconds + 1).checked_neg()?, 1_000_000_000 - nanoseconds)
        }
        _ => return None,
    })
}

/// A PAX record: its length counts its own digits too.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

//! Archives made up at random.

use proptest::prelude::*;

use crate::archive::{Item, block_device, char_device, dir, fifo, file, hard_link, symlink};

/// One entry, described by small numbers, so that names meet again often.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) what: What,
    pub(crate) path: String,
    pub(crate) mode: u64,
    pub(crate) owner: (u64, u64),
    pub(crate) mtime: &'static str,
    pub(crate) xattrs: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    File(usize),
    Sparse(u64, Vec<(u64, usize)>),
    Directory,
    Symlink(String),
    HardLink(String),
    Fifo,
    CharDevice(u64, u64),
    BlockDevice(u64, u64),
    Whiteout,
    Opaque,
}

/// Sizes around the edges of blocks and of what fits behind an inode.
pub(crate) const SIZES: [usize; 14] =
    [0, 1, 5, 100, 2000, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 70_000, 300_001];

impl Step {
    /// The entry in an archive.
    pub(crate) fn item(&self) -> Item {
        let path = self.path.as_str();
        let (parent, name) = path.rsplit_once('/').map_or(("", path), |(parent, name)| (parent, name));
        let at = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        let mut item = match &self.what {
            What::File(size) => file("x", content(*size)),
            What::Sparse(size, parts) => sparse(*size, parts),
            What::Directory => dir("x/"),
            What::Symlink(target) => symlink("x", "").pax("linkpath", target),
            What::HardLink(source) => hard_link("x", "").pax("linkpath", source),
            What::Fifo => fifo("x"),
            What::CharDevice(major, minor) => char_device("x", *major, *minor),
            What::BlockDevice(major, minor) => block_device("x", *major, *minor),
            What::Whiteout => return file("x", "").pax("path", at(&format!(".wh.{name}"))),
            What::Opaque => return file("x", "").pax("path", at(".wh..wh..opq")),
        };
        item = if matches!(self.what, What::Sparse(..)) {
            item.pax("GNU.sparse.name", path)
        } else {
            item.pax("path", path)
        };
        item = item.mode(self.mode).owner(self.owner.0, self.owner.1).pax("mtime", self.mtime);
        for (name, value) in &self.xattrs {
            item = item.pax(&format!("SCHILY.xattr.{name}"), value);
        }
        item
    }
}

/// Bytes that don't repeat.
pub(crate) fn content(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

/// A file in the form of PAX 0.1.
pub(crate) fn sparse(size: u64, parts: &[(u64, usize)]) -> Item {
    let bytes: Vec<u8> = parts.iter().flat_map(|(_, length)| content(*length)).collect();
    // An empty part marks the end.
    let parts = parts.iter().copied().chain([(size, 0)]);
    let map: Vec<String> = parts.map(|(offset, length)| format!("{offset},{length}")).collect();
    let item = file("x", bytes).pax("GNU.sparse.major", "0").pax("GNU.sparse.minor", "1");
    let item =
        item.pax("GNU.sparse.size", size.to_string()).pax("GNU.sparse.numblocks", map.len().to_string());
    item.pax("GNU.sparse.map", map.join(","))
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => prop::sample::select(vec!["a", "b", "c", "lib", "-", ".x", "é", "~"]).prop_map(str::to_owned),
        1 => Just("n".repeat(255)),
    ]
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..4).prop_map(|parts| parts.join("/"))
}

fn sparse_parts() -> impl Strategy<Value = What> {
    let gap = prop::sample::select(vec![0u64, 1, 511, 4096, 5000, 100_000, 3_000_000]);
    let length = prop::sample::select(vec![1usize, 500, 4096, 10_000]);
    (prop::collection::vec((gap.clone(), length), 0..6), gap).prop_map(|(steps, rest)| {
        let (mut end, mut parts) = (0, Vec::new());
        for (gap, length) in steps {
            parts.push((end + gap, length));
            end += gap + length as u64;
        }
        What::Sparse(end + rest, parts)
    })
}

/// What hides names and what is only in layers is left out where another program has to understand it.
pub(crate) fn what() -> impl Strategy<Value = What> {
    let target = prop_oneof![
        5 => path(),
        1 => path().prop_map(|path| format!("/{path}")),
        1 => path().prop_map(|path| format!("../{path}")),
        1 => prop::sample::select(vec!["/", ".", "..", "//a/./b/"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![60usize, 4000, 4095]).prop_map(|length| "t/".repeat(length / 2) + "t"),
    ];
    prop_oneof![
        6 => prop::sample::select(SIZES.to_vec()).prop_map(What::File),
        1 => sparse_parts(),
        5 => Just(What::Directory),
        4 => target.prop_map(What::Symlink),
        3 => path().prop_map(What::HardLink),
        1 => Just(What::Fifo),
        1 => prop::sample::select(vec![(0, 0), (1, 3), (4095, 1_048_575)])
            .prop_map(|(major, minor)| What::CharDevice(major, minor)),
        1 => Just(What::BlockDevice(8, 300)),
        2 => Just(What::Whiteout),
        2 => Just(What::Opaque),
    ]
}

fn xattrs() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    let access = |tag: &[(u16, u16)]| {
        let entry =
            |(tag, bits): &(u16, u16)| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &[5, 0, 0, 0]].concat();
        [vec![2, 0, 0, 0], tag.iter().flat_map(entry).collect()].concat()
    };
    let plain = access(&[(1, 6), (4, 4), (0x20, 4)]);
    let named = access(&[(1, 6), (2, 7), (4, 5), (0x10, 6), (0x20, 0)]);
    let capability = [&[1, 0, 0, 2][..], &[4; 16]].concat();
    let one = prop::sample::select(vec![
        ("user.note", b"a\nb".to_vec()),
        ("user.empty", vec![]),
        ("trusted.t", vec![0xff; 300]),
        ("security.capability", capability),
        ("security.capability", vec![1; 20]),
        ("security.selinux", b"label".to_vec()),
        ("trusted.overlay.opaque", b"y".to_vec()),
        ("user.", b"v".to_vec()),
        ("other.kind", b"v".to_vec()),
        ("system.posix_acl_access", plain.clone()),
        ("system.posix_acl_access", named.clone()),
        ("system.posix_acl_default", named),
        ("system.posix_acl_default", vec![2, 0, 0]),
    ]);
    prop_oneof![4 => Just(vec![]), 1 => prop::collection::vec(one, 1..3)]
}

/// An archive as its entries.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let owner = prop::sample::select(vec![(0, 0), (1000, 1001), (2_097_151, 65_536)]);
    let mode = prop::sample::select(vec![0o644, 0o755, 0o4755, 0o1777, 0o2070, 0]);
    let mtime =
        prop::sample::select(vec!["0", "1700000000.123456789", "-1.5", "4294967296.25", "-2000000000"]);
    let step = (what(), path(), mode, owner, mtime, xattrs())
        .prop_map(|(what, path, mode, owner, mtime, xattrs)| Step { what, path, mode, owner, mtime, xattrs });
    prop::collection::vec(step, 0..40)
}

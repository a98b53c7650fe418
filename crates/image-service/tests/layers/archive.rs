//! Hand-made archives: every byte of a header can be chosen, also those that no tar program would write.

/// An archive being written.
#[derive(Default, Clone)]
pub(crate) struct Tar(Vec<u8>);

/// One entry with its headers.
#[derive(Clone)]
pub(crate) struct Item {
    name: Vec<u8>,
    flag: u8,
    link: Vec<u8>,
    mode: u64,
    owner: (u64, u64),
    mtime: u64,
    device: (u64, u64),
    /// What the header claims; the content's length unless set.
    size: Option<u64>,
    content: Vec<u8>,
    pax: Vec<(String, Vec<u8>)>,
    gnu_name: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    magic: [u8; 8],
    patches: Vec<(usize, Vec<u8>)>,
}

pub(crate) fn item(name: &str, flag: u8) -> Item {
    Item {
        name: name.into(),
        flag,
        link: Vec::new(),
        mode: 0o644,
        owner: (0, 0),
        mtime: 1_700_000_000,
        device: (0, 0),
        size: None,
        content: Vec::new(),
        pax: Vec::new(),
        gnu_name: None,
        gnu_link: None,
        magic: *b"ustar\x0000",
        patches: Vec::new(),
    }
}

pub(crate) fn file(name: &str, content: impl AsRef<[u8]>) -> Item {
    Item { content: content.as_ref().to_vec(), ..item(name, b'0') }
}

pub(crate) fn dir(name: &str) -> Item {
    Item { mode: 0o755, ..item(name, b'5') }
}

pub(crate) fn symlink(name: &str, target: &str) -> Item {
    Item { link: target.into(), mode: 0o777, ..item(name, b'2') }
}

pub(crate) fn hard_link(name: &str, source: &str) -> Item {
    Item { link: source.into(), ..item(name, b'1') }
}

pub(crate) fn fifo(name: &str) -> Item {
    item(name, b'6')
}

pub(crate) fn char_device(name: &str, major: u64, minor: u64) -> Item {
    Item { device: (major, minor), ..item(name, b'3') }
}

pub(crate) fn block_device(name: &str, major: u64, minor: u64) -> Item {
    Item { device: (major, minor), ..item(name, b'4') }
}

impl Item {
    pub(crate) fn mode(self, mode: u64) -> Item {
        Item { mode, ..self }
    }

    pub(crate) fn owner(self, uid: u64, gid: u64) -> Item {
        Item { owner: (uid, gid), ..self }
    }

    pub(crate) fn mtime(self, mtime: u64) -> Item {
        Item { mtime, ..self }
    }

    pub(crate) fn claims_size(self, size: u64) -> Item {
        Item { size: Some(size), ..self }
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Item {
        self.pax.push((key.into(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn gnu_name(self, name: &str) -> Item {
        Item { gnu_name: Some(name.into()), magic: *b"ustar  \0", ..self }
    }

    pub(crate) fn gnu_link(self, link: &str) -> Item {
        Item { gnu_link: Some(link.into()), magic: *b"ustar  \0", ..self }
    }

    pub(crate) fn gnu(self) -> Item {
        Item { magic: *b"ustar  \0", ..self }
    }

    pub(crate) fn old(self) -> Item {
        Item { magic: [0; 8], ..self }
    }

    /// Overwrites bytes of the header; the checksum is computed over the result.
    pub(crate) fn patch(mut self, at: usize, bytes: impl AsRef<[u8]>) -> Item {
        self.patches.push((at, bytes.as_ref().to_vec()));
        self
    }

    fn header(&self) -> [u8; 512] {
        let mut header = [0u8; 512];
        put(&mut header, 0, &self.name[..self.name.len().min(100)]);
        put(&mut header, 100, format!("{:07o}\0", self.mode).as_bytes());
        put(&mut header, 108, format!("{:07o}\0", self.owner.0).as_bytes());
        put(&mut header, 116, format!("{:07o}\0", self.owner.1).as_bytes());
        let size = self.size.unwrap_or(self.content.len() as u64);
        put(&mut header, 124, format!("{size:011o}\0").as_bytes());
        put(&mut header, 136, format!("{:011o}\0", self.mtime).as_bytes());
        header[156] = self.flag;
        put(&mut header, 157, &self.link[..self.link.len().min(100)]);
        put(&mut header, 257, &self.magic);
        put(&mut header, 329, format!("{:07o}\0", self.device.0).as_bytes());
        put(&mut header, 337, format!("{:07o}\0", self.device.1).as_bytes());
        for (at, bytes) in &self.patches {
            put(&mut header, *at, bytes);
        }
        put(&mut header, 148, b"        ");
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        header
    }
}

fn put(header: &mut [u8; 512], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Tar {
    pub(crate) fn new() -> Tar {
        Tar::default()
    }

    /// The archive with another entry.
    pub(crate) fn with(mut self, item: Item) -> Tar {
        self.add(item);
        self
    }

    pub(crate) fn add(&mut self, entry: Item) {
        if !entry.pax.is_empty() {
            let records: Vec<u8> = entry.pax.iter().flat_map(|(key, value)| record(key, value)).collect();
            self.add(Item { content: records, ..item("PaxHeaders/x", b'x') });
        }
        for (name, flag) in [(&entry.gnu_name, b'L'), (&entry.gnu_link, b'K')] {
            if let Some(name) = name {
                let content = [&name[..], b"\0"].concat();
                self.add(Item { content, ..item("././@LongLink", flag).gnu() });
            }
        }
        self.0.extend_from_slice(&entry.header());
        self.padded(&entry.content);
    }

    /// Bytes as they are, padded to whole blocks.
    pub(crate) fn padded(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// The whole archive, with its end.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.0[..], &[0; 1024]].concat()
    }

    /// Without the blocks that mark the end.
    pub(crate) fn unended(&self) -> Vec<u8> {
        self.0.clone()
    }
}

/// A PAX record: its length counts its own digits too.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

//! The names of a layer in the making: a tree in memory, small enough that millions of entries fit.
//!
//! A node takes 16 bytes, its name, and some more in one table for all directories; what a node is otherwise stands in
//! the image already. Paths are walked as [`super::super::tree`] walks real directories: through the archive's own
//! links, with the layer's root as `/`.
//! Whatever a later entry replaces stays in memory and is merely not reached any more.

use std::hash::{BuildHasher as _, RandomState};
use std::io;

use hashbrown::HashTable;
use rustix::io::Errno;

use super::directories::Directory;
use super::unfit::Unfit;
use crate::erofs::FileType;
use crate::unpack::tree::{Missing, Step, parts, walk};

/// Bytes that a layer's names, links and directories may take in memory. Beyond that an archive isn't an image but an
/// attack on the memory: five million entries with names of twenty bytes fit.
const MAX_HELD: usize = 256 * 1024 * 1024;

/// What the table holds for a name: its index and a byte of its hash, at the least that the table is filled.
const INDEXED: usize = 12;

/// Longest part of a path in bytes (NAME_MAX).
const MAX_NAME: usize = 255;

/// A directory, by its position among all there ever were.
pub(super) type DirId = u32;

/// The layer's root.
pub(super) const ROOT: DirId = 0;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Directory(DirId),
    /// Anything else.
    Node {
        kind: FileType,
        /// Number of its inode.
        inode: u64,
        /// It is overlay's mark of a hidden name.
        whiteout: bool,
        /// The inode has or had more than one name.
        linked: bool,
    },
}

impl Target {
    /// A mark that hides a name.
    pub(super) fn whiteout(inode: u64) -> Target {
        Target::Node { kind: FileType::CharDevice, inode, whiteout: true, linked: false }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self, Target::Directory(_))
    }

    pub(super) fn is_whiteout(&self) -> bool {
        matches!(self, Target::Node { whiteout: true, .. })
    }
}

/// One name. The bytes of a link's target follow those of its name, after their number in two bytes.
#[derive(Debug, Clone, Copy)]
struct Node {
    parent: DirId,
    name: u32,
    /// The directory, or the lower bits of the inode's number.
    low: u32,
    high: u16,
    length: u8,
    /// The kind, WHITEOUT and LINKED.
    flags: u8,
}

const WHITEOUT: u8 = 0x40;
const LINKED: u8 = 0x80;

/// Kinds by the number that a node keeps of them.
const KINDS: [FileType; 6] = [
    FileType::Regular,
    FileType::Directory,
    FileType::CharDevice,
    FileType::BlockDevice,
    FileType::Fifo,
    FileType::Symlink,
];

impl Node {
    fn point(&mut self, target: Target) {
        let (kind, value, flags) = match target {
            Target::Directory(id) => (FileType::Directory, u64::from(id), 0),
            Target::Node { kind, inode, whiteout, linked } => {
                let flags = if whiteout { WHITEOUT } else { 0 } | if linked { LINKED } else { 0 };
                (kind, inode, flags)
            }
        };
        let position = KINDS.iter().position(|other| *other == kind).unwrap_or(0);
        self.flags = flags | position.to_le_bytes()[0];
        let [a, b, c, d, e, f, ..] = value.to_le_bytes();
        self.low = u32::from_le_bytes([a, b, c, d]);
        // An image ends below 16 TiB, so that numbers of inodes have 39 bits.
        self.high = u16::from_le_bytes([e, f]);
    }

    fn target(&self) -> Target {
        let kind = KINDS[usize::from(self.flags & !(WHITEOUT | LINKED))];
        if kind == FileType::Directory {
            return Target::Directory(self.low);
        }
        let inode = u64::from(self.low) | u64::from(self.high) << 32;
        Target::Node { kind, inode, whiteout: self.flags & WHITEOUT != 0, linked: self.flags & LINKED != 0 }
    }
}

/// A path that was walked.
#[derive(Debug)]
struct Last {
    path: Vec<u8>,
    place: DirId,
    /// No link was on the way.
    straight: bool,
}

/// The tree.
#[derive(Debug)]
pub(super) struct Names {
    nodes: Vec<Node>,
    bytes: Vec<u8>,
    /// Positions of nodes by parent and name. Hashed with a key of this process, so that no archive can be made to
    /// collide; what is written doesn't depend on it.
    table: HashTable<u32>,
    hasher: RandomState,
    pub(super) directories: Vec<Directory>,
    /// The parent of the last entry, which mostly is that of the next or above it.
    last: Option<Last>,
    /// Bytes of the directories.
    held: usize,
}

impl Names {
    pub(super) fn new() -> Names {
        Names {
            nodes: Vec::new(),
            bytes: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            directories: vec![Directory::implied(ROOT)],
            last: None,
            held: 0,
        }
    }

    /// What `name` in the directory `parent` stands for.
    pub(super) fn find(&self, parent: DirId, name: &[u8]) -> Option<Target> {
        Some(self.nodes[self.position(parent, name)?].target())
    }

    fn position(&self, parent: DirId, name: &[u8]) -> Option<usize> {
        let same = |position: &u32| {
            let node = &self.nodes[*position as usize];
            node.parent == parent && self.name(node) == name
        };
        self.table.find(self.hasher.hash_one((parent, name)), same).map(|position| *position as usize)
    }

    fn name(&self, node: &Node) -> &[u8] {
        let start = node.name as usize;
        &self.bytes[start..start + usize::from(node.length)]
    }

    /// Lets `name` in `parent` stand for `target`, whatever it stood for before.
    ///
    /// # Errors
    /// That it would be too much to hold.
    pub(super) fn set(&mut self, parent: DirId, name: &[u8], target: Target) -> io::Result<()> {
        self.insert(parent, name, target, None)
    }

    /// The same for a symbolic link with `target`, of at most 4,095 bytes.
    pub(super) fn set_link(
        &mut self,
        parent: DirId,
        name: &[u8],
        inode: u64,
        target: &[u8],
    ) -> io::Result<()> {
        let node = Target::Node { kind: FileType::Symlink, inode, whiteout: false, linked: false };
        self.insert(parent, name, node, Some(target))
    }

    /// Lets `name` in `parent` stand for the same node as `of` in `of_parent`, which is there and no directory.
    pub(super) fn link(&mut self, parent: DirId, name: &[u8], of_parent: DirId, of: &[u8]) -> io::Result<()> {
        let Some(source) = self.position(of_parent, of) else { return Err(Errno::NOENT.into()) };
        self.nodes[source].flags |= LINKED;
        let target = self.nodes[source].target();
        let link = matches!(target, Target::Node { kind: FileType::Symlink, .. });
        let link = link.then(|| self.link_target(source).to_vec());
        self.insert(parent, name, target, link.as_deref())
    }

    /// Makes a directory at `name` in `parent`, whatever was there before.
    pub(super) fn make_dir(&mut self, parent: DirId, name: &[u8], directory: Directory) -> io::Result<DirId> {
        let id = DirId::try_from(self.directories.len()).map_err(|_| too_much())?;
        self.hold(size_of::<Directory>() + directory.xattrs.size())?;
        self.directories.push(directory);
        self.set(parent, name, Target::Directory(id))?;
        Ok(id)
    }

    /// Counts so many bytes as held.
    pub(super) fn hold(&mut self, bytes: usize) -> io::Result<()> {
        self.held += bytes;
        let nodes = self.nodes.len() * (size_of::<Node>() + INDEXED);
        if nodes + self.bytes.len() + self.held > MAX_HELD { Err(too_much()) } else { Ok(()) }
    }

    fn insert(&mut self, parent: DirId, name: &[u8], target: Target, link: Option<&[u8]>) -> io::Result<()> {
        let present = self.position(parent, name);
        let position = match present {
            Some(position) if link.is_none() => position,
            _ => self.add(present, parent, name, link)?,
        };
        if present.is_some() {
            // What the last path led to may be something else now.
            self.last = None;
        }
        self.nodes[position].point(target);
        Ok(())
    }

    /// Adds a name to those held, for a new node or with what is to follow it in memory.
    fn add(
        &mut self,
        present: Option<usize>,
        parent: DirId,
        name: &[u8],
        link: Option<&[u8]>,
    ) -> io::Result<usize> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| too_much())?;
        let length = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.bytes.extend_from_slice(name);
        if let Some(link) = link {
            let length = u16::try_from(link.len()).map_err(|_| Errno::NAMETOOLONG)?;
            self.bytes.extend_from_slice(&length.to_le_bytes());
            self.bytes.extend_from_slice(link);
        }
        self.hold(0)?;
        if let Some(position) = present {
            self.nodes[position].name = start;
            return Ok(position);
        }
        let position = self.nodes.len();
        let entry = u32::try_from(position).map_err(|_| too_much())?;
        self.nodes.push(Node { parent, name: start, low: 0, high: 0, length, flags: 0 });
        let hash = self.hasher.hash_one((parent, name));
        let (nodes, bytes, hasher) = (&self.nodes, &self.bytes, &self.hasher);
        self.table.insert_unique(hash, entry, |position| {
            let node = &nodes[*position as usize];
            let start = node.name as usize;
            hasher.hash_one((node.parent, &bytes[start..start + usize::from(node.length)]))
        });
        Ok(position)
    }

    fn link_target(&self, position: usize) -> &[u8] {
        let node = &self.nodes[position];
        let at = node.name as usize + usize::from(node.length);
        let length = usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]));
        &self.bytes[at + 2..at + 2 + length]
    }

    /// The directory with the path `path`, which is a parent as `TreePath::split` gives it.
    pub(super) fn place(&mut self, path: &[u8], missing: Missing) -> io::Result<DirId> {
        if path.is_empty() {
            return Ok(ROOT);
        }
        if let Some(last) = &self.last
            && last.path == path
        {
            return Ok(last.place);
        }
        let found = self.straight(path);
        let place = match found {
            Some(place) => place,
            None => walk(ROOT, path, |here, part| self.step(*here, part, missing))?,
        };
        self.last = Some(Last { path: path.to_owned(), place, straight: found.is_some() });
        Ok(place)
    }

    /// The same where all of it is there and no link is on the way.
    fn straight(&self, path: &[u8]) -> Option<DirId> {
        let below = |last: &Last| {
            path.strip_prefix(&last.path[..])?.strip_prefix(b"/").map(|rest| (last.place, rest))
        };
        let known = self.last.as_ref().filter(|last| last.straight).and_then(below);
        let (start, rest) = known.unwrap_or((ROOT, path));
        parts(rest).try_fold(start, |here, part| match self.find(here, part) {
            Some(Target::Directory(id)) => Some(id),
            _ => None,
        })
    }

    /// One step down a path: makes what lacks.
    fn step(&mut self, here: DirId, part: &[u8], missing: Missing) -> io::Result<Step<DirId>> {
        if part.len() > MAX_NAME {
            return Err(Errno::NAMETOOLONG.into());
        }
        let Some(position) = self.position(here, part) else {
            return match missing {
                Missing::Create => self.make_dir(here, part, Directory::implied(here)).map(Step::Down),
                Missing::Fail => Err(Errno::NOENT.into()),
            };
        };
        match self.nodes[position].target() {
            Target::Directory(id) => Ok(Step::Down(id)),
            Target::Node { kind: FileType::Symlink, .. } => {
                Ok(Step::Link(self.link_target(position).to_vec()))
            }
            // The layer hides what was there and now has something of its own there.
            Target::Node { whiteout: true, .. } if missing == Missing::Create => {
                let directory = Directory { opaque: true, ..Directory::implied(here) };
                self.make_dir(here, part, directory).map(Step::Down)
            }
            Target::Node { .. } => Err(Errno::NOTDIR.into()),
        }
    }

    /// All names, directory by directory: the names of the directory `id` are `names[starts[id]..starts[id + 1]]`, in
    /// no order. Those of directories that were replaced are among them.
    pub(super) fn by_parent(&self) -> (Vec<u32>, Vec<u32>) {
        let mut starts = vec![0u32; self.directories.len() + 1];
        for node in &self.nodes {
            starts[node.parent as usize + 1] += 1;
        }
        for id in 1..starts.len() {
            starts[id] += starts[id - 1];
        }
        let mut next = starts.clone();
        let mut names = vec![0u32; self.nodes.len()];
        for (position, node) in (0u32..).zip(&self.nodes) {
            let slot = &mut next[node.parent as usize];
            names[*slot as usize] = position;
            *slot += 1;
        }
        (starts, names)
    }

    /// A name and what it stands for, by its position as [`Names::by_parent`] gives it.
    pub(super) fn at(&self, position: u32) -> (&[u8], Target) {
        let node = &self.nodes[position as usize];
        (self.name(node), node.target())
    }
}

fn too_much() -> io::Error {
    Unfit("with it, the layer's names take more than 256 MiB").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> Target {
        Target::Node { kind: FileType::Regular, inode, whiteout: false, linked: false }
    }

    #[test]
    fn targets_come_back_as_they_were() {
        let mut names = Names::new();
        let largest = (1 << 39) - 1;
        for (name, target) in [
            ("a", file(1)),
            ("b", file(largest)),
            ("c", Target::whiteout(1 << 32)),
            ("d", Target::Node { kind: FileType::Fifo, inode: 7, whiteout: false, linked: true }),
        ] {
            names.set(ROOT, name.as_bytes(), target).unwrap();
            assert_eq!(names.find(ROOT, name.as_bytes()), Some(target));
        }
        names.set_link(ROOT, b"a", 9, b"somewhere").unwrap();
        let Some(Target::Node { kind, inode, .. }) = names.find(ROOT, b"a") else { panic!() };
        assert_eq!((kind, inode), (FileType::Symlink, 9));
        assert_eq!(names.find(ROOT, b"e"), None);
    }

    #[test]
    fn paths_go_through_links_and_make_what_lacks() {
        let mut names = Names::new();
        names.set_link(ROOT, b"lib", 1, b"/usr/../usr/lib").unwrap();
        let place = names.place(b"lib/x", Missing::Create).unwrap();
        assert_eq!(names.place(b"usr/lib/x", Missing::Fail).unwrap(), place);
        assert!(names.directories[place as usize].implied);
        names.set_link(ROOT, b"loop", 2, b"loop").unwrap();
        names.set(ROOT, b"file", file(3)).unwrap();
        for (path, errno) in [
            (&b"loop/x"[..], Errno::LOOP),
            (b"file/x", Errno::NOTDIR),
            (b"nothing", Errno::NOENT),
            (&b"d/".repeat(300)[..599], Errno::NAMETOOLONG),
        ] {
            let missing = if errno == Errno::NOENT { Missing::Fail } else { Missing::Create };
            let error = names.place(path, missing).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
        }
        // Another directory of that name has nothing of what the first one had.
        names.set(ROOT, b"usr", file(4)).unwrap();
        assert!(names.place(b"usr/lib/x", Missing::Fail).is_err());
        let other = names.make_dir(ROOT, b"usr", Directory::implied(ROOT)).unwrap();
        assert_eq!(names.find(other, b"lib"), None);
    }

    /// Whatever fills the memory ends with the same refusal.
    #[test]
    fn what_is_held_is_bounded() {
        let refused = |add: &mut dyn FnMut(&mut Names, u32) -> io::Result<()>| {
            let mut names = Names::new();
            let count = (0..).find(|n| add(&mut names, *n).is_err()).unwrap();
            let held = names.bytes.len() + names.nodes.len() * size_of::<Node>();
            assert!(held < MAX_HELD + 70_000, "{held}");
            count
        };
        let link = refused(&mut |names, n| names.set_link(ROOT, &n.to_le_bytes(), 1, &[b't'; 4095]));
        let same = refused(&mut |names, _| names.set_link(ROOT, b"same", 1, &[b't'; 4095]));
        let dirs = refused(&mut |names, n| {
            let mut directory = Directory::implied(ROOT);
            directory.xattrs.push(b"user.a", &[0; 65_000]).unwrap();
            names.make_dir(ROOT, &n.to_le_bytes(), directory).map(drop)
        });
        assert!((60_000..70_000).contains(&link) && (60_000..70_000).contains(&same), "{link} {same}");
        assert!((4_000..4_200).contains(&dirs), "{dirs}");
    }
}

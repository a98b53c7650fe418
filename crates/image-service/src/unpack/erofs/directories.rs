//! Directories, written when the last entry has passed.
//!
//! A directory's names need the numbers of the directories in it, and those need that of their parent. So the layout is
//! gone through twice: once on a copy, for the numbers, and once in earnest, writing.

use std::collections::BTreeMap;
use std::io;

use super::attributes::Refusal;
use super::image::Image;
use super::layout::{Layout, Shape};
use super::names::{DirId, Names, ROOT, Target};
use super::nodes::Nodes;
use super::root::{self, Root};
use super::unfit::{Unfit, fault};
use crate::erofs::dirent::{self, Block, Dirent, Extent};
use crate::erofs::inode::{self, Data, Inode};
use crate::erofs::xattr::Body;
use crate::erofs::{BLOCK, FileType, SLOT};
use crate::unpack::entry::Time;
use crate::unpack::tree::OPAQUE;
use crate::unpack::{Fault, MAX_IMPLIED, TOO_MANY_IMPLIED, TreePath};

/// What is known of a directory besides its names.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) parent: DirId,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: Body,
    /// It hides what the layers below have in it.
    pub(super) opaque: bool,
    /// No entry describes it.
    pub(super) implied: bool,
    /// Why its attributes can't be set.
    pub(super) refusal: Option<Refusal>,
}

impl Directory {
    /// One that a path needs and no entry has described yet. It belongs to root and is of no time, so that the image
    /// doesn't depend on when it is made.
    pub(super) fn implied(parent: DirId) -> Directory {
        Directory {
            parent,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Body::default(),
            opaque: false,
            implied: true,
            refusal: None,
        }
    }

    /// Its attributes with overlay's mark.
    fn all_xattrs(&self) -> io::Result<Body> {
        let mut xattrs = self.xattrs.clone();
        if self.opaque {
            xattrs.push(OPAQUE.as_bytes(), b"y").map_err(Unfit)?;
        }
        Ok(xattrs)
    }

    fn inode(&self, contained: &Contained, xattrs: &Body, number: u32) -> Inode {
        let Extent { blocks, tail } = contained.extent;
        Inode {
            mode: FileType::Directory.mode() | self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: (self.mtime.seconds, self.mtime.nanoseconds),
            size: blocks * BLOCK as u64 + tail as u64,
            links: contained.directories.saturating_add(2),
            xattrs: xattrs.size(),
            data: Data::None,
            number,
        }
    }
}

/// What writing found out.
pub(super) struct Finished {
    pub(super) implied_dirs: Vec<String>,
    pub(super) checksums: Vec<u32>,
}

/// Writes all directories, the links of files that have several names, and the first block.
pub(super) fn finish(names: &Names, nodes: &mut Nodes) -> Result<Finished, Fault> {
    let tree = Sorted::of(names);
    if let Some((path, refusal)) = tree.refused(names) {
        return Err(refusal.fault(path.as_bytes()));
    }
    if tree.implied_bytes(names) > MAX_IMPLIED {
        return Err(TOO_MANY_IMPLIED);
    }
    write(&tree, names, nodes).map_err(|cause| fault(b"", cause))
}

fn write(tree: &Sorted, names: &Names, nodes: &mut Nodes) -> io::Result<Finished> {
    let (image, chunked) = (&mut nodes.image, nodes.chunked);
    let numbers = tree.number(names, image.layout.clone())?;
    let writer = Writer { names, tree, numbers: &numbers };
    let mut root = None;
    for id in &tree.order {
        if *id == ROOT {
            root = Some(writer.root(image)?);
        } else {
            writer.directory(*id, image)?;
        }
    }
    let root = root.ok_or(rustix::io::Errno::INVAL)?;
    let counted = tree.nodes(names);
    for (number, links) in &counted.links {
        if *links != 1 {
            image.set_links(*number, *links)?;
        }
    }
    let inodes = counted.single + counted.links.len() as u64 + tree.order.len() as u64;
    let checksums = image.finish(|layout| root.first_block(inodes, layout, chunked))?;
    Ok(Finished { implied_dirs: tree.implied(names), checksums })
}

/// The tree as it is at the end.
struct Sorted {
    starts: Vec<u32>,
    /// Positions of names, those of one directory in the order of their bytes.
    sorted: Vec<u32>,
    /// The directories that can be reached, each before those in it.
    order: Vec<DirId>,
    /// By directory, the position of its name.
    called: Vec<u32>,
}

/// Nodes other than directories.
struct Counted {
    /// How many have one name and never had more.
    single: u64,
    /// The others by number, and how many names they have.
    links: BTreeMap<u64, u32>,
}

/// What a directory contains.
struct Contained {
    extent: Extent,
    directories: u32,
}

impl Sorted {
    fn of(names: &Names) -> Sorted {
        let (starts, sorted) = names.by_parent();
        let called = vec![0; names.directories.len()];
        let mut tree = Sorted { starts, sorted, order: Vec::new(), called };
        let mut pending = vec![ROOT];
        while let Some(id) = pending.pop() {
            tree.order.push(id);
            let range = tree.range(id);
            tree.sorted[range.clone()].sort_unstable_by_key(|position| names.at(*position).0);
            for position in tree.sorted[range].iter().rev() {
                if let (_, Target::Directory(child)) = names.at(*position) {
                    tree.called[child as usize] = *position;
                    pending.push(child);
                }
            }
        }
        tree
    }

    fn range(&self, id: DirId) -> std::ops::Range<usize> {
        self.starts[id as usize] as usize..self.starts[id as usize + 1] as usize
    }

    /// The names in a directory, sorted; `.` and `..` are not among them.
    fn children<'n>(&self, names: &'n Names, id: DirId) -> impl Iterator<Item = (&'n [u8], Target)> {
        self.sorted[self.range(id)].iter().map(|position| names.at(*position))
    }

    fn contained(&self, names: &Names, id: DirId) -> Contained {
        let mut directories = 0;
        let children = self.children(names, id).inspect(|(_, target)| {
            directories += u32::from(target.is_directory());
        });
        let extent = dirent::measure(
            with_dots(children, Target::Directory(id), Target::Directory(id)).map(|(name, _)| name.len()),
        );
        Contained { extent, directories }
    }

    /// The number of each directory's inode, by directory.
    fn number(&self, names: &Names, mut layout: Layout) -> io::Result<Vec<u64>> {
        let mut numbers = vec![0; names.directories.len()];
        for id in &self.order {
            let extent = self.contained(names, *id).extent;
            let xattrs = names.directories[*id as usize].all_xattrs()?.size();
            numbers[*id as usize] = if *id == ROOT {
                root::reserve(xattrs, extent, &mut layout)?;
                root::NUMBER
            } else {
                layout.place(&shape(xattrs, extent))?.number()
            };
        }
        Ok(numbers)
    }

    fn nodes(&self, names: &Names) -> Counted {
        let mut counted = Counted { single: 0, links: BTreeMap::new() };
        for id in &self.order {
            for (_, target) in self.children(names, *id) {
                match target {
                    Target::Directory(_) => {}
                    Target::Node { linked: false, .. } => counted.single += 1,
                    Target::Node { inode, .. } => *counted.links.entry(inode).or_default() += 1,
                }
            }
        }
        counted
    }

    /// The last directory by its path whose attributes can't be set: plain directories get theirs from below.
    fn refused(&self, names: &Names) -> Option<(TreePath, Refusal)> {
        let refused = |id: &DirId| Some((*id, names.directories[*id as usize].refusal?));
        let refused = self.order.iter().filter_map(refused);
        refused.map(|(id, refusal)| (self.path(names, id), refusal)).max_by(|a, b| a.0.cmp(&b.0))
    }

    /// Bytes of the paths of directories that no entry describes, which are not made for it.
    fn implied_bytes(&self, names: &Names) -> usize {
        let mut lengths = vec![0; names.directories.len()];
        let length = |id: &DirId| {
            let directory = &names.directories[*id as usize];
            if *id != ROOT {
                let above: usize = lengths[directory.parent as usize];
                let name = names.at(self.called[*id as usize]).0;
                lengths[*id as usize] = above + usize::from(above > 0) + name.len();
            }
            if directory.implied { lengths[*id as usize] } else { 0 }
        };
        self.order.iter().map(length).sum()
    }

    /// Paths of the directories that no entry describes.
    fn implied(&self, names: &Names) -> Vec<String> {
        let implied = |id: &&DirId| names.directories[**id as usize].implied;
        let paths = self.order.iter().filter(implied).map(|id| self.path(names, *id));
        let mut paths: Vec<TreePath> = paths.collect();
        paths.sort();
        let text = |path: &TreePath| String::from_utf8(path.as_bytes().to_vec()).ok();
        paths.iter().filter_map(text).collect()
    }

    fn path(&self, names: &Names, mut id: DirId) -> TreePath {
        let mut path = TreePath::default();
        while id != ROOT {
            path = TreePath::join(names.at(self.called[id as usize]).0, path.as_bytes());
            id = names.directories[id as usize].parent;
        }
        path
    }
}

/// Names with `.` and `..` among them, in the order of their bytes.
fn with_dots<'n>(
    names: impl Iterator<Item = (&'n [u8], Target)>,
    this: Target,
    parent: Target,
) -> impl Iterator<Item = (&'n [u8], Target)> {
    let mut names = names.peekable();
    let mut dots = [(&b"."[..], this), (b"..", parent)].into_iter().peekable();
    std::iter::from_fn(move || match (names.peek(), dots.peek()) {
        (Some(name), Some(dot)) if name.0 < dot.0 => names.next(),
        (_, Some(_)) => dots.next(),
        (_, None) => names.next(),
    })
}

/// What a directory needs in the image.
pub(super) fn shape(xattrs: usize, extent: Extent) -> Shape {
    let head = inode::SIZE + xattrs;
    let blocks = extent.blocks * BLOCK as u64;
    if head + extent.tail <= BLOCK {
        Shape { head, tail: extent.tail, data: blocks }
    } else {
        Shape { head, tail: 0, data: blocks + extent.tail as u64 }
    }
}

/// Writes directories whose numbers are known.
struct Writer<'a> {
    names: &'a Names,
    tree: &'a Sorted,
    numbers: &'a [u64],
}

impl Writer<'_> {
    fn directory(&self, id: DirId, image: &mut Image) -> io::Result<()> {
        let directory = &self.names.directories[id as usize];
        let contained = self.tree.contained(self.names, id);
        let xattrs = directory.all_xattrs()?;
        let shape = shape(xattrs.size(), contained.extent);
        let spot = image.place(&shape)?;
        let number = image.next_number();
        let inode = Inode { data: shape.data_at(&spot), ..directory.inode(&contained, &xattrs, number) };
        image.put_inode(&spot, &inode, &xattrs, &[])?;
        let tail = self.blocks(id, spot.data, image)?;
        if shape.tail > 0 {
            image.inline(spot.inode + shape.head as u64, shape.tail).copy_from_slice(&tail[..shape.tail]);
        } else if contained.extent.tail > 0 {
            image.put(spot.data + contained.extent.blocks * BLOCK as u64, &tail[..contained.extent.tail])?;
        }
        Ok(())
    }

    fn root(&self, image: &mut Image) -> io::Result<Root> {
        let directory = &self.names.directories[ROOT as usize];
        let contained = self.tree.contained(self.names, ROOT);
        let xattrs = directory.all_xattrs()?;
        let number = image.next_number();
        let inode = directory.inode(&contained, &xattrs, number);
        let place = root::reserve(xattrs.size(), contained.extent, &mut image.layout)?;
        let tail = self.blocks(ROOT, place.data, image)?;
        root::Root::new(inode, &xattrs, &place, &tail[..contained.extent.tail], image)
    }

    /// Writes the whole blocks of a directory's names; returns the last one, which isn't whole.
    fn blocks(&self, id: DirId, mut at: u64, image: &mut Image) -> io::Result<Box<[u8; BLOCK]>> {
        let parent = self.names.directories[id as usize].parent;
        let children = self.tree.children(self.names, id);
        let mut block = Block::default();
        let mut bytes = Box::new([0; BLOCK]);
        for (name, target) in with_dots(children, Target::Directory(id), Target::Directory(parent)) {
            let (kind, inode) = match target {
                Target::Directory(id) => (FileType::Directory, self.numbers[id as usize]),
                Target::Node { kind, inode, .. } => (kind, inode),
            };
            if let Err(entry) = block.add(Dirent { name, inode, kind }) {
                block.write(&mut bytes[..]);
                image.put(at, &bytes[..])?;
                at += BLOCK as u64;
                bytes.fill(0);
                // An empty block has room for any name.
                let _ = block.add(entry);
            }
        }
        let whole = block.is_whole();
        block.write(&mut bytes[..]);
        if whole {
            image.put(at, &bytes[..])?;
            bytes.fill(0);
        }
        Ok(bytes)
    }
}

const _: () = assert!(root::OFFSET.is_multiple_of(SLOT));

//! Layers as EROFS images: one file, written front to back while the archive goes by.
//!
//! ```text
//! entry ─► attributes ─► layout: where? ─► image: inode, content      names: what is called what
//!                                                                       └─ at the end ─► directories, first block
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `names`, `memory` | the tree of names, in memory; the bound of that |
//! | `attributes`, `acl` | what of an entry's attributes is kept |
//! | `nodes` | inodes and content of all but directories |
//! | `layout` | where things go in the image |
//! | `image` | the file, its buffers and checksums |
//! | `sparse` | files with holes |
//! | `directories`, `root` | what is written at the end |
//! | `unfit` | what no image can hold |
//!
//! An image is the same for the same archive, whoever makes it: it has no time but those of the archive, and nothing of
//! the host. What a later entry replaces stays in it, unreachable: the archive can't be told again without it.
//! Memory is bounded whatever comes: buffers of 512 KiB, and the names.
//! What an entry means is the same as for plain directories (`directory`), down to what is refused and in which words.
//! Not here: bytes of structures (`crate::erofs`), where images live and how they are mounted (`layers`).

mod acl;
mod attributes;
mod directories;
mod image;
mod layout;
mod memory;
mod names;
mod nodes;
mod root;
mod sparse;
#[cfg(test)]
mod tests;
mod unfit;

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::entry::{Entry, Kind};
use super::tree::Missing;
use super::{Content, Fault, Stored, Target, TreePath};
use crate::layers::Unpacked;
use crate::usage::Usage;
use attributes::Attributes;
use directories::Directory;
use image::Image;
pub(crate) use memory::NameMemory;
use names::{DirId, Names, ROOT};
use nodes::{Made, Nodes};
use unfit::fault;

/// An image being filled.
#[derive(Debug)]
pub(crate) struct ErofsTarget {
    names: Names,
    nodes: Nodes,
    opaque_root: bool,
}

impl ErofsTarget {
    /// A target that writes to the empty file `image`, from its start, and holds names in `memory`. It never reads the file.
    pub(crate) fn new(image: File, memory: &Arc<NameMemory>) -> ErofsTarget {
        let names = Names::new(Arc::clone(memory));
        ErofsTarget { names, nodes: Nodes::new(Image::new(image)), opaque_root: false }
    }

    fn hard_link(&mut self, place: DirId, name: &[u8], entry: &Entry, source: &[u8]) -> Result<(), Fault> {
        let refused = |reason| Fault::refused(&entry.name, reason);
        let failed = |cause: io::Error| fault(&entry.name, cause);
        let source =
            TreePath::parse(source).map_err(|_| refused("it is a hard link to a path outside the layer"))?;
        let missing = "it is a hard link to a file that the layer doesn't have";
        let Some((from, from_name)) = source.split() else { return Err(refused(missing)) };
        let from = match self.names.place(from, Missing::Fail) {
            Ok(found) => found,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Err(refused(missing)),
            Err(cause) => return Err(failed(cause)),
        };
        if (from, from_name) == (place, name) {
            return Err(refused("it is a hard link to itself"));
        }
        match self.names.find(from, from_name) {
            None => Err(refused(missing)),
            Some(names::Target::Directory(_)) => Err(refused("it is a hard link to a directory")),
            // The file's attributes are those of its first entry: a link has none of its own.
            Some(names::Target::Node { .. }) => self.names.link(place, name, from, from_name).map_err(failed),
        }
    }

    fn directory(&mut self, place: DirId, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let found = self.names.find(place, name);
        let id = match found {
            Some(names::Target::Directory(id)) => id,
            _ => {
                // What the layers below have at a name that was hidden stays so.
                let opaque = found.is_some_and(|target| target.is_whiteout());
                let directory = Directory { opaque, ..Directory::implied(place) };
                let made = self.names.make_dir(place, name, directory);
                made.map_err(|cause| fault(&entry.name, cause))?
            }
        };
        self.describe(id, entry)
    }

    /// Gives a directory the attributes of its entry. Those that can't be set fail the layer at its end, as with plain
    /// directories: unless another entry describes the directory again, or replaces it.
    fn describe(&mut self, id: DirId, entry: &Entry) -> Result<(), Fault> {
        let (attributes, refusal) = match attributes::of(entry) {
            Ok(found) if id == ROOT && !root::holds(&found.xattrs) => {
                let reason = "the layer's root has too many extended attributes";
                return Err(Fault::refused(&entry.name, reason));
            }
            Ok(found) => (found, None),
            Err(refusal) => (Attributes::default(), Some(refusal)),
        };
        let held = self.names.hold(attributes.xattrs.size());
        held.map_err(|cause| fault(&entry.name, cause))?;
        let directory = &mut self.names.directories[id as usize];
        directory.mode = attributes.mode;
        (directory.uid, directory.gid, directory.mtime) = (entry.uid, entry.gid, entry.mtime);
        directory.xattrs = attributes.xattrs;
        directory.refusal = refusal;
        directory.implied = false;
        Ok(())
    }
}

impl Target for ErofsTarget {
    fn add(&mut self, path: &TreePath, entry: &Entry, content: &mut Content<'_>) -> Result<Stored, Fault> {
        let failed = |cause: io::Error| fault(&entry.name, cause);
        let Some((parent, name)) = path.split() else {
            return match entry.kind {
                Kind::Directory => self.describe(ROOT, entry).map(|()| Stored::Nothing),
                _ => Err(Fault::refused(&entry.name, "the layer's root must be a directory")),
            };
        };
        let place = self.names.place(parent, Missing::Create).map_err(failed)?;
        match &entry.kind {
            Kind::Directory => return self.directory(place, name, entry).map(|()| Stored::Nothing),
            Kind::HardLink(source) => {
                return self.hard_link(place, name, entry, source).map(|()| Stored::Nothing);
            }
            _ => {}
        }
        let (Made { kind, inode }, stored) = self.nodes.make(entry, content)?;
        let named = if let Kind::Symlink(target) = &entry.kind {
            self.names.set_link(place, name, inode, target)
        } else {
            let whiteout = matches!(entry.kind, Kind::CharDevice { major: 0, minor: 0 });
            self.names.set(place, name, names::Target::Node { kind, inode, whiteout, linked: false })
        };
        named.map_err(failed)?;
        Ok(stored)
    }

    fn whiteout(&mut self, path: &TreePath) -> Result<(), Fault> {
        let failed = |cause: io::Error| fault(path.as_bytes(), cause);
        let Some((parent, name)) = path.split() else { return Err(failed(Errno::INVAL.into())) };
        let place = self.names.place(parent, Missing::Create).map_err(failed)?;
        match self.names.find(place, name) {
            None => {
                let inode = self.nodes.whiteout().map_err(failed)?;
                self.names.set(place, name, names::Target::whiteout(inode)).map_err(failed)
            }
            // It is there in this layer too, and hides what is below: wholly if it is a directory.
            Some(names::Target::Directory(id)) => {
                self.names.directories[id as usize].opaque = true;
                Ok(())
            }
            Some(names::Target::Node { .. }) => Ok(()),
        }
    }

    fn opaque(&mut self, path: &TreePath) -> Result<(), Fault> {
        if path.is_root() {
            // Overlay doesn't look at this mark on a layer's root; who mounts it leaves out the layers below.
            self.opaque_root = true;
            return Ok(());
        }
        let place = self.names.place(path.as_bytes(), Missing::Create);
        let place = place.map_err(|cause| fault(path.as_bytes(), cause))?;
        self.names.directories[place as usize].opaque = true;
        Ok(())
    }

    fn finish(&mut self) -> Result<Unpacked, Fault> {
        let finished = directories::finish(&self.names, &mut self.nodes)?;
        let layout = &self.nodes.image.layout;
        Ok(Unpacked {
            usage: Usage { bytes: layout.end - layout.holes, inodes: 1 },
            opaque_root: self.opaque_root,
            implied_dirs: finished.implied_dirs,
            checksums: finished.checksums,
        })
    }
}

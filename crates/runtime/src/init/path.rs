//! Paths inside a container's root. Each is resolved by the kernel with the root as its end (openat2(2),
//! RESOLVE_IN_ROOT) and used by descriptor from then on, so that no link in an image and no rename in a
//! shared volume leads out (CVE-2021-30465, CVE-2024-45310).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// As many as the kernel follows (linux/namei.h, MAXSYMLINKS).
const MOST_LINKS: u32 = 40;

/// A container's root directory.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
}

/// What a mount's target has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Root {
    /// The root of the calling process.
    pub(crate) fn own() -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: openat(CWD, "/", flags, Mode::empty())? })
    }

    /// A mount's root, wherever it is attached.
    pub(crate) fn of(mount: BorrowedFd<'_>) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: openat(mount, ".", flags, Mode::empty())? })
    }

    /// The thing at a path, links followed inside the root.
    pub(crate) fn find(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH, ResolveFlags::empty())
    }

    /// The thing at a path that has no link in it.
    pub(crate) fn find_plain(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)
    }

    /// Opens what is at a path. Magic links are never followed: they are no paths.
    pub(crate) fn open(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..128 {
            match openat2(&self.directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Something was renamed meanwhile, and the kernel cannot tell whether `..` still leads
                // inside.
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A mount's target, made when it is missing.
    pub(crate) fn target(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
        match kind {
            Kind::Directory => self.directory(path),
            Kind::File => self.file(path),
        }
    }

    /// A mount's target whose path must not have a link in it.
    pub(crate) fn plain_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.find_plain(path) {
            Err(Errno::NOENT) => {
                self.directory(path)?;
                self.find_plain(path)
            }
            other => other,
        }
    }

    /// A directory, made with those above it when it is missing.
    pub(crate) fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.find(path) {
            Err(Errno::NOENT) => self.make_directories(path, 0),
            other => other,
        }
    }

    /// The directory that `path` is or would be in, and its name there.
    pub(crate) fn parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("/")))?, name))
    }

    fn make_directories(&self, path: &Path, links: u32) -> Result<OwnedFd, Errno> {
        let mut current = self.find(Path::new("/"))?;
        let mut walked = PathBuf::from("/");
        let mut components = path.components();
        while let Some(component) = components.next() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::new(".."),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            walked.push(name);
            match self.find(&walked) {
                Ok(found) => {
                    current = found;
                    continue;
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            match mkdirat(&current, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => current = self.find(&walked)?,
                Err(Errno::EXIST) => {
                    let target = follow(&current, &walked, name, links)?;
                    return self.make_directories(&target.join(components.as_path()), links + 1);
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(current)
    }

    fn file(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let mut path = path.to_owned();
        for links in 0..=MOST_LINKS {
            match self.find(&path) {
                Err(Errno::NOENT) => {}
                other => return other,
            }
            let (parent, name) = self.parent(&path)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
                Ok(_) => return self.find(&path),
                Err(Errno::EXIST) => path = follow(&parent, &path, name, links)?,
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::LOOP)
    }
}

/// Where a link leads that leads nowhere yet, such as /var/run in an image without /run. The answer is a path
/// again, to be resolved inside the root like any other.
fn follow(directory: &OwnedFd, path: &Path, name: &OsStr, links: u32) -> Result<PathBuf, Errno> {
    if links >= MOST_LINKS {
        return Err(Errno::LOOP);
    }
    let target = readlinkat(directory, name, Vec::new())?;
    let target = Path::new(OsStr::from_bytes(target.as_bytes()));
    Ok(path.parent().unwrap_or(Path::new("/")).join(target))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root { directory: std::fs::File::open(directory.path()).unwrap().into() };
        (directory, root)
    }

    #[test]
    fn what_is_missing_is_made_inside() {
        let (place, root) = root();
        symlink("/run", place.path().join("var-run")).unwrap();
        symlink("../../../../outside", place.path().join("climb")).unwrap();
        root.directory(Path::new("/var-run/secrets/x")).unwrap();
        assert!(place.path().join("run/secrets/x").is_dir(), "a dangling link is followed inside");
        root.target(Path::new("/climb/file"), Kind::File).unwrap();
        assert!(place.path().join("outside/file").is_file(), "a climbing link ends at the root");
        symlink("/etc/made", place.path().join("link")).unwrap();
        root.target(Path::new("/link"), Kind::File).unwrap();
        assert!(place.path().join("etc/made").is_file());
    }

    #[test]
    fn loops_and_links_where_none_may_be_are_refused() {
        let (place, root) = root();
        symlink("loop", place.path().join("loop")).unwrap();
        assert_eq!(root.directory(Path::new("/loop/x")).unwrap_err(), Errno::LOOP);
        symlink("/elsewhere", place.path().join("proc")).unwrap();
        assert_eq!(root.plain_directory(Path::new("/proc")).unwrap_err(), Errno::LOOP);
        assert!(root.plain_directory(Path::new("/sys")).is_ok());
    }
}

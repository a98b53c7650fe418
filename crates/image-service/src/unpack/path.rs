//! Names of entries: parsed into paths that can't leave the layer, and what their last part means.

/// Longest path of an entry in bytes (PATH_MAX less its end; limits.h).
const MAX_PATH: usize = 4095;
/// Longest part of a path in bytes (NAME_MAX).
const MAX_NAME: usize = 255;

/// A path from the layer's root: parts that are neither empty nor `.` nor `..`, with `/` between them and at neither
/// end. The root itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct TreePath(Vec<u8>);

/// What an entry is there for, by its name (OCI image-spec, "Image Layer Filesystem Changeset", section "Whiteouts").
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A file, directory, link or node.
    Node,
    /// Hides the path in the layers below.
    Whiteout(TreePath),
    /// Hides what the layers below have in the directory.
    Opaque(TreePath),
    /// AUFS's own book-keeping, which some old images still carry.
    Ignored,
}

impl TreePath {
    /// Parses a name as tar has it: an absolute one starts at the layer's root, and `..` goes up by name alone.
    ///
    /// # Errors
    /// The reason why there's no such path in a layer.
    pub(crate) fn parse(name: &[u8]) -> Result<TreePath, &'static str> {
        let mut path = Vec::with_capacity(name.len());
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    if path.is_empty() {
                        return Err("its path climbs out of the layer");
                    }
                    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    path.truncate(end);
                }
                part if part.contains(&0) => return Err("its path has a null byte"),
                part if part.len() > MAX_NAME => return Err("a part of its path is longer than 255 bytes"),
                part => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(part);
                }
            }
        }
        if path.len() > MAX_PATH {
            return Err("its path is longer than 4095 bytes");
        }
        Ok(TreePath(path))
    }

    /// The bytes, without a slash at either end.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the layer's root.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The parent's path and the last part; none for the root.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => Some((&self.0[..slash], &self.0[slash + 1..])),
            None => Some((b"", &self.0)),
        }
    }

    /// The path of `name` in the directory `parent`, both as [`TreePath::split`] gives them.
    pub(crate) fn join(parent: &[u8], name: &[u8]) -> TreePath {
        let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
        path.extend_from_slice(parent);
        if !path.is_empty() && !name.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        TreePath(path)
    }

    /// What an entry of this name is there for.
    ///
    /// # Errors
    /// The reason why such a whiteout is refused.
    pub(crate) fn role(&self) -> Result<Role, &'static str> {
        let Some((parent, name)) = self.split() else { return Ok(Role::Node) };
        let parts = || parent.split(|byte| *byte == b'/');
        if parts().any(|part| part.starts_with(b".wh..wh.")) {
            return Ok(Role::Ignored);
        }
        if parts().any(|part| part.starts_with(b".wh.")) {
            return Err("a whiteout can't be a directory");
        }
        let Some(hidden) = name.strip_prefix(b".wh.") else { return Ok(Role::Node) };
        match hidden {
            b".wh..opq" => Ok(Role::Opaque(TreePath(parent.to_owned()))),
            b"" | b"." | b".." => Err("it is a whiteout of no file"),
            hidden if hidden.starts_with(b".wh.") => Ok(Role::Ignored),
            hidden => Ok(Role::Whiteout(TreePath::join(parent, hidden))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> TreePath {
        TreePath::parse(name.as_bytes()).unwrap()
    }

    #[test]
    fn names_become_paths_below_the_root() {
        for (name, expected) in [
            ("a", "a"),
            ("./a/b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("//a//./b", "a/b"),
            ("a/../b", "b"),
            ("a/b/..", "a"),
            ("a/..", ""),
            ("./", ""),
            ("", ""),
        ] {
            assert_eq!(path(name).as_bytes(), expected.as_bytes(), "{name:?}");
        }
    }

    #[test]
    fn names_that_leave_the_layer_are_refused() {
        for name in ["..", "../a", "a/../../b", "/../etc/passwd", "./../a", "a\0b"] {
            assert!(TreePath::parse(name.as_bytes()).is_err(), "{name:?}");
        }
        assert!(TreePath::parse(&[b'a'; 256]).is_err());
        assert!(TreePath::parse("a/".repeat(2100).as_bytes()).is_err());
    }

    #[test]
    fn whiteouts_are_known_by_name() {
        assert_eq!(path("a/.wh.b").role(), Ok(Role::Whiteout(path("a/b"))));
        assert_eq!(path(".wh.b").role(), Ok(Role::Whiteout(path("b"))));
        assert_eq!(path("a/.wh..wh..opq").role(), Ok(Role::Opaque(path("a"))));
        assert_eq!(path(".wh..wh..opq").role(), Ok(Role::Opaque(path(""))));
        assert_eq!(path(".wh..wh.plnk").role(), Ok(Role::Ignored));
        assert_eq!(path(".wh..wh.plnk/12.34").role(), Ok(Role::Ignored));
        assert_eq!(path("a/x.wh.b").role(), Ok(Role::Node));
        for name in ["a/.wh.", "a/.wh..", "a/.wh...", ".wh.a/b"] {
            assert!(path(name).role().is_err(), "{name:?}");
        }
    }
}

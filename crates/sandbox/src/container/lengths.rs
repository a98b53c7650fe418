//! How long and how many: what the kernel would refuse at the start, told when the container is made.
//!
//! | what | bound | source |
//! |---|---|---|
//! | a word of the command, a variable with its name | 131071 bytes | execve(2): MAX_ARG_STRLEN with the zero byte |
//! | a component of a path | 255 bytes | NAME_MAX, linux/limits.h |
//! | supplemental groups | 65536 | NGROUPS_MAX, there |
//!
//! Not here: what the words mean (see `spec`).

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::container::config::ContainerConfig;
use crate::error::Error;

/// With the zero byte at its end a word has 32 pages.
const LONGEST_WORD: usize = (32 << 12) - 1;

const LONGEST_NAME: usize = 255;

const MOST_GROUPS: usize = 65_536;

/// Checks what the request brings.
///
/// # Errors
/// [`Error::Refused`].
pub(crate) fn check(container: &ContainerConfig) -> Result<(), Error> {
    for (field, words) in [("command", &container.command), ("args", &container.args)] {
        for (at, text) in words.iter().enumerate() {
            word(text.len(), || format!("{field}[{at}]"))?;
        }
    }
    for (at, (name, value)) in container.envs.iter().enumerate() {
        word(name.len() + value.len() + 1, || format!("envs[{at}]"))?;
    }
    let places = container.mounts.iter().map(|mount| &mount.container_path);
    for (at, path) in places.enumerate() {
        names(Path::new(path), || format!("mounts[{at}].container_path"))?;
    }
    let groups = container.security.supplemental_groups.len();
    if groups > MOST_GROUPS {
        let why = format!("{groups} are more than the {MOST_GROUPS} that a process can have");
        return Err(Error::refused("linux.security_context.supplemental_groups", why));
    }
    Ok(())
}

fn word(length: usize, field: impl Fn() -> String) -> Result<(), Error> {
    if length <= LONGEST_WORD {
        return Ok(());
    }
    Err(Error::refused(
        field(),
        format!("has {length} bytes, more than the {LONGEST_WORD} that the kernel takes"),
    ))
}

/// Checks that every component of a path can be a name.
///
/// # Errors
/// [`Error::Refused`].
pub(crate) fn names(path: &Path, field: impl Fn() -> String) -> Result<(), Error> {
    let longest = path.components().map(|part| part.as_os_str().as_bytes().len()).max().unwrap_or(0);
    if longest <= LONGEST_NAME {
        return Ok(());
    }
    Err(Error::refused(field(), format!("has a name of {longest} bytes in it, more than {LONGEST_NAME}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(change: impl Fn(&mut ContainerConfig)) -> Option<String> {
        let mut config = ContainerConfig::default();
        change(&mut config);
        match check(&config) {
            Ok(()) => None,
            Err(Error::Refused { field, .. }) => Some(field),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_kernel_would_not_take_is_refused() {
        let text = |length: usize| "x".repeat(length);
        assert_eq!(field(|c| c.command = vec![text(131_071)]), None);
        assert_eq!(field(|c| c.command = vec![text(131_072)]).as_deref(), Some("command[0]"));
        assert_eq!(field(|c| c.args = vec![text(1), text(131_072)]).as_deref(), Some("args[1]"));
        assert_eq!(field(|c| c.envs = vec![("A".to_owned(), text(131_069))]), None);
        assert_eq!(field(|c| c.envs = vec![("A".to_owned(), text(131_070))]).as_deref(), Some("envs[0]"));
        assert_eq!(field(|c| c.security.supplemental_groups = vec![7; 65_536]), None);
        let groups = field(|c| c.security.supplemental_groups = vec![7; 65_537]);
        assert_eq!(groups.as_deref(), Some("linux.security_context.supplemental_groups"));
        let place = |length: usize| Path::new("/data").join("x".repeat(length));
        assert!(names(&place(255), String::new).is_ok());
        assert!(
            names(&place(256), || "f".to_owned()).is_err_and(|error| error.to_string().starts_with("f: "))
        );
    }
}

//! Who a process runs as: numbers from the request and from the image's own user and group databases.
//!
//! The databases are a stranger's files: opened inside the root without following it out, read only when
//! regular and of bearable size (CVE-2026-47262), and parsed without trust (CVE-2024-40635).

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::Error;
use crate::init::Root;

/// Who is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRequest {
    /// The user.
    pub user: UserName,
    /// The primary group; without it the user's own, or 0.
    pub group: Option<GroupName>,
    /// Further groups.
    pub additional_gids: Vec<u32>,
    /// Whether the groups that the image's database gives the user are added.
    pub image_groups: ImageGroups,
}

/// How a user is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum UserName {
    /// Nobody said: the superuser.
    #[default]
    Unset,
    /// By number.
    Id(u32),
    /// As an image or a user writes it: a name, or a number that the database need not know.
    Text(String),
}

/// How a group is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupName {
    /// By number.
    Id(u32),
    /// A name, or a number that the database need not know.
    Text(String),
}

/// CRI's SupplementalGroupsPolicy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageGroups {
    /// The groups of the image's database are added.
    #[default]
    Merge,
    /// They are not.
    Strict,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User number.
    pub uid: u32,
    /// Primary group number.
    pub gid: u32,
    /// Supplementary group numbers, sorted, each once, the primary one among them.
    pub additional_gids: Vec<u32>,
    /// The home directory that the database names.
    pub home: Option<String>,
    /// The name that the database gives the user.
    pub username: Option<String>,
}

impl UserRequest {
    /// Reads an image's `User`: `user`, `user:group`, each a name or a number, or nothing.
    pub fn parse(text: &str) -> Self {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Self {
            user: if user.is_empty() { UserName::Unset } else { UserName::Text(user.to_owned()) },
            group: group.filter(|group| !group.is_empty()).map(|group| GroupName::Text(group.to_owned())),
            ..Self::default()
        }
    }
}

/// Finds the numbers for `user` in the databases below `root`, a directory or a detached mount.
///
/// # Errors
/// [`Error::NoSuchIdentity`] for a name that the image lacks, [`Error::IdentityRange`] for a number outside
/// of 0 to 2147483647, [`Error::IdentityFile`] and [`Error::IdentityRead`] for a database that cannot be
/// used.
pub fn resolve(root: BorrowedFd<'_>, user: &UserRequest) -> Result<Identity, Error> {
    let needs = Needs::of(user);
    let passwd = if needs.passwd { database(root, "etc/passwd")? } else { String::new() };
    let entry = find_user(&passwd, &user.user)?;
    let groups = if needs.groups(&entry) { database(root, "etc/group")? } else { String::new() };
    let gid = match &user.group {
        Some(group) => find_group(&groups, group)?,
        None => entry.gid.unwrap_or(0),
    };
    let mut additional_gids = user.additional_gids.clone();
    if user.image_groups == ImageGroups::Merge
        && let Some(name) = &entry.name
    {
        additional_gids.extend(memberships(&groups, name)?);
    }
    additional_gids.push(gid);
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(Identity { uid: entry.uid, gid, additional_gids, home: entry.home, username: entry.name })
}

struct Needs {
    passwd: bool,
    group_name: bool,
    memberships: bool,
}

impl Needs {
    fn of(user: &UserRequest) -> Self {
        Self {
            passwd: true,
            group_name: matches!(user.group, Some(GroupName::Text(_))),
            memberships: user.image_groups == ImageGroups::Merge,
        }
    }

    fn groups(&self, entry: &User) -> bool {
        self.group_name || (self.memberships && entry.name.is_some())
    }
}

struct User {
    uid: u32,
    gid: Option<u32>,
    name: Option<String>,
    home: Option<String>,
}

fn find_user(passwd: &str, wanted: &UserName) -> Result<User, Error> {
    let number = match wanted {
        UserName::Unset => Some(0),
        UserName::Id(uid) => Some(checked("user", &uid.to_string())?),
        UserName::Text(text) if is_number(text) => Some(checked("user", text)?),
        UserName::Text(_) => None,
    };
    for line in passwd.lines() {
        // name:password:uid:gid:comment:home:shell, as in passwd(5)
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, rest @ ..] = fields.as_slice() else { continue };
        let found = match (number, wanted) {
            (Some(number), _) => uid.parse() == Ok(number),
            (None, UserName::Text(text)) => name == text,
            (None, _) => false,
        };
        if found && !name.is_empty() {
            return Ok(User {
                uid: checked("user", uid)?,
                gid: Some(checked("group", gid)?),
                name: Some((*name).to_owned()),
                home: rest.get(1).filter(|home| home.starts_with('/')).map(|home| (*home).to_owned()),
            });
        }
    }
    match (number, wanted) {
        (Some(uid), _) => Ok(User { uid, gid: None, name: None, home: None }),
        (None, UserName::Text(text)) => Err(Error::NoSuchIdentity { kind: "user", name: text.clone() }),
        (None, _) => Ok(User { uid: 0, gid: None, name: None, home: None }),
    }
}

fn find_group(groups: &str, wanted: &GroupName) -> Result<u32, Error> {
    let text = match wanted {
        GroupName::Id(gid) => return checked("group", &gid.to_string()),
        GroupName::Text(text) if is_number(text) => return checked("group", text),
        GroupName::Text(text) => text,
    };
    for line in groups.lines() {
        // name:password:gid:members, as in group(5)
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, gid, ..] = fields.as_slice()
            && name == text
        {
            return checked("group", gid);
        }
    }
    Err(Error::NoSuchIdentity { kind: "group", name: text.clone() })
}

fn memberships(groups: &str, user: &str) -> Result<Vec<u32>, Error> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, gid, members, ..] = fields.as_slice()
            && members.split(',').any(|member| member == user)
        {
            found.push(checked("group", gid)?);
        }
    }
    Ok(found)
}

/// A name made of digits alone, perhaps with a sign in front, is meant as a number: it is never looked up as
/// a name.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn checked(kind: &'static str, value: &str) -> Result<u32, Error> {
    let range = || Error::IdentityRange { kind, value: value.to_owned() };
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(range());
    }
    value.parse::<i32>().map_err(|_| range())?.try_into().map_err(|_| range())
}

/// containerd's bound for these files, and far above any that serves a purpose.
const LARGEST_DATABASE: u64 = 10 << 20;

/// The text of a database; empty when the image has none.
fn database(root: BorrowedFd<'_>, path: &'static str) -> Result<String, Error> {
    use rustix::fs::{FileType, OFlags, ResolveFlags};
    use rustix::io::Errno;
    use std::io::Read;

    let unusable = |why| Error::IdentityFile { path, why };
    let read = |errno: Errno| Error::IdentityRead { path, source: errno.into() };
    let root = Root::of(root).map_err(read)?;
    // First by O_PATH: opening a device or a fifo for reading can already have effects.
    let found = match root.find(Path::new(path)) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        found => found.map_err(read)?,
    };
    let stat = rustix::fs::fstat(&found).map_err(read)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(unusable("it is not a regular file"));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = root.open(Path::new(path), flags, ResolveFlags::empty()).map_err(read)?;
    let opened = rustix::fs::fstat(&file).map_err(read)?;
    if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(unusable("it changed while it was opened"));
    }
    let mut bytes = Vec::new();
    let mut reader = std::fs::File::from(file).take(LARGEST_DATABASE + 1);
    reader.read_to_end(&mut bytes).map_err(|source| Error::IdentityRead { path, source })?;
    if bytes.len() as u64 > LARGEST_DATABASE {
        return Err(unusable("it is larger than 10 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv/web:/bin/false\n\
                          4294967296:x:5:5::/:/bin/sh\nbig:x:4294967295:1::/:/x\nshort:x\nodd:x:7:8::relative:/x\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:50:web,odd\nadm:x:4:root,web\nbroken:x:x:odd2\n";

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), PASSWD).unwrap();
        std::fs::write(root.path().join("etc/group"), GROUP).unwrap();
        root
    }

    fn ask(request: &UserRequest) -> Result<Identity, Error> {
        let root = root();
        resolve(std::fs::File::open(root.path()).unwrap().as_fd(), request)
    }

    #[test]
    fn an_image_user_gets_its_groups_and_home() {
        let found = ask(&UserRequest::parse("web")).unwrap();
        assert_eq!((found.uid, found.gid), (33, 34));
        assert_eq!(found.additional_gids, [4, 34, 50]);
        assert_eq!(found.home.as_deref(), Some("/srv/web"));
        assert_eq!(ask(&UserRequest::parse("33")).unwrap(), found, "by number it is the same user");
    }

    #[test]
    fn strict_groups_leave_the_database_out() {
        let request = UserRequest {
            additional_gids: vec![99],
            image_groups: ImageGroups::Strict,
            ..UserRequest::parse("web:logs")
        };
        let found = ask(&request).unwrap();
        assert_eq!((found.gid, found.additional_gids), (50, vec![50, 99]));
    }

    #[test]
    fn a_number_that_the_image_lacks_is_used_as_it_is() {
        let found = ask(&UserRequest::parse("1234:5678")).unwrap();
        assert_eq!((found.uid, found.gid, found.home), (1234, 5678, None));
        assert_eq!(ask(&UserRequest::parse("1234")).unwrap().gid, 0);
    }

    #[test]
    fn odd_users_are_refused() {
        for odd in ["nobody", "1000x", "0x10", "web:nogroup"] {
            assert!(matches!(ask(&UserRequest::parse(odd)), Err(Error::NoSuchIdentity { .. })), "{odd}");
        }
        for odd in ["2147483648", "4294967296", "-1", "+0", "big", "0:-1"] {
            assert!(matches!(ask(&UserRequest::parse(odd)), Err(Error::IdentityRange { .. })), "{odd}");
        }
    }

    #[test]
    fn hostile_databases_are_not_read() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let open = || std::fs::File::open(root.path()).unwrap();
        assert_eq!(resolve(open().as_fd(), &UserRequest::default()).unwrap().uid, 0, "no database at all");

        std::os::unix::fs::symlink("/etc/passwd", etc.join("group")).unwrap();
        nix::unistd::mkfifo(&etc.join("passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = resolve(open().as_fd(), &UserRequest::parse("web"));
        assert!(matches!(refused, Err(Error::IdentityFile { path: "etc/passwd", .. })), "{refused:?}");

        std::fs::remove_file(etc.join("passwd")).unwrap();
        let sparse = std::fs::File::create(etc.join("passwd")).unwrap();
        sparse.set_len(LARGEST_DATABASE + 1).unwrap();
        let refused = resolve(open().as_fd(), &UserRequest::parse("web"));
        assert!(matches!(refused, Err(Error::IdentityFile { .. })), "{refused:?}");
    }
}

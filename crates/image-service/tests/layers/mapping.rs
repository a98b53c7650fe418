//! A user namespace to map ids by, for tests of layers from outside and of mounts from within.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::process::{Child, Command};

/// A process in a user namespace whose root is 5000 outside; killed when it goes.
pub(crate) struct Users(Child);

impl Drop for Users {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Such a process, and what maps the ids of a mount as its namespace has them.
pub(crate) fn users() -> (Users, impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static) {
    let child = Command::new("unshare").args(["--user", "sleep", "100"]).spawn().unwrap();
    let path = format!("/proc/{}", child.id());
    let users = Users(child);
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    while fs::read_link(format!("{path}/ns/user")).unwrap() == own {
        std::thread::yield_now();
    }
    for map in ["gid_map", "uid_map"] {
        fs::write(format!("{path}/{map}"), "0 5000 1000").unwrap();
    }
    let namespace = File::open(format!("{path}/ns/user")).unwrap();
    (users, move |mount: BorrowedFd<'_>| map_ids(mount, &namespace))
}

#[allow(unsafe_code, reason = "a test; what is shipped is handed this call by its caller")]
fn map_ids(mount: BorrowedFd<'_>, namespace: &File) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_raw_fd()).unwrap(),
    };
    let size = size_of::<libc::mount_attr>();
    let (call, flags) = (libc::SYS_mount_setattr, libc::AT_EMPTY_PATH);
    // SAFETY: both pointers live through the call, which reads a C string and as many bytes as it is told.
    let returned =
        unsafe { libc::syscall(call, mount.as_raw_fd(), c"".as_ptr(), flags, &raw const attributes, size) };
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

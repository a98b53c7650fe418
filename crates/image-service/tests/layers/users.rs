//! Root filesystems of containers in user namespaces.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command};

use image_service::Digest;
use image_service::rootfs::{IdMap, MountAs};

use crate::archive::{Tar, dir, file};
use crate::store::{Form, Mounted, Store};

/// A process in a user namespace whose root is 5000 outside; killed when it goes.
struct Users(Child);

impl Drop for Users {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn users() -> (Users, IdMap) {
    let child = Command::new("unshare").args(["--user", "sleep", "100"]).spawn().unwrap();
    let path = format!("/proc/{}", child.id());
    let users = Users(child);
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    while std::fs::read_link(format!("{path}/ns/user")).unwrap() == own {
        std::thread::yield_now();
    }
    for map in ["gid_map", "uid_map"] {
        std::fs::write(format!("{path}/{map}"), "0 5000 1000").unwrap();
    }
    let namespace = File::open(format!("{path}/ns/user")).unwrap();
    (users, IdMap::new(move |mount| map_ids(mount, &namespace)))
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

/// Users see files of a layer as theirs whom their owners are mapped to, on top and in image volumes; others share the
/// same layer unmapped.
pub(crate) fn users_see_their_ids(form: Form) {
    let (_users, map) = users();
    let store = Store::new(form);
    if let Err(error) = store.roots.try_mapping(&map) {
        println!("skipped: {error:?}");
        return;
    }
    let tar = Tar::new().with(dir("d").owner(33, 34).mode(0o750)).with(file("d/f", "x").owner(7, 8));
    let upper = Tar::new().with(file("d/new", "").owner(0, 0));
    let layers = [store.unpack(&tar).unwrap(), store.unpack(&upper).unwrap()];
    let to = MountAs { ids: Some(&map), label: None };
    store.roots.prepare_as("users", &layers, Some(&map)).unwrap();
    let root = Mounted::from(store.roots.mount_as("users", &to).unwrap());
    let owner = |root: &Mounted, path: &str| (root.metadata(path).uid(), root.metadata(path).gid());
    assert_eq!(owner(&root, "."), (5000, 5000));
    assert_eq!((owner(&root, "d"), owner(&root, "d/f")), ((5033, 5034), (5007, 5008)));
    assert_eq!(owner(&root, "d/new"), (5000, 5000));
    std::fs::write(root.at("d/f"), "changed").unwrap();
    assert_eq!((owner(&root, "d/f"), root.read("d/f")), ((5007, 5008), "changed".to_owned()));
    let image = Digest::of(b"image");
    store.roots.hold_images("users", &[(image.clone(), layers.to_vec())]).unwrap();
    let view = store.roots.mount_image("users", (&image, Path::new("d")), (Some(&map), None)).unwrap();
    assert_eq!(owner(&Mounted::from(view), "f"), (5007, 5008));
    let host = store.mount("host", &layers);
    assert_eq!((owner(&host, "d/f"), host.read("d/f")), ((7, 8), "x".to_owned()));
}

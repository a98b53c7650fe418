//! A user as an image names it, in databases that the image has: whoever is found is nobody beyond the range of users, and a number
//! is that number.
#![no_main]

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use runtime::identity::{UserRequest, resolve};

/// The largest number of a user or group.
const MOST: u32 = i32::MAX as u32;

fuzz_target!(|input: &[u8]| {
    static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let root = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        fs::create_dir(root.path().join("etc")).expect("a directory");
        root
    });
    // The name, passwd and group, each behind a zero.
    let mut parts = input.splitn(3, |byte| *byte == 0);
    let Ok(user) = str::from_utf8(parts.next().unwrap_or_default()) else { return };
    for name in ["etc/passwd", "etc/group"] {
        fs::write(root.path().join(name), parts.next().unwrap_or_default()).expect("a file");
    }
    let opened = File::open(root.path()).expect("the root");
    let Ok(found) = resolve(opened.as_fd(), &UserRequest::parse(user)) else { return };
    assert!(found.uid <= MOST && found.gid <= MOST && found.additional_gids.iter().all(|gid| *gid <= MOST));
    assert!(found.additional_gids.is_sorted() && found.additional_gids.contains(&found.gid));
    let name = user.split(':').next().unwrap_or_default();
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        assert_eq!(name.parse(), Ok(found.uid), "{user:?}");
    }
    if let Some(home) = &found.home {
        assert!(home.starts_with('/') && !home.contains('\n'), "{home:?}");
    }
});

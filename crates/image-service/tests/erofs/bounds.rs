//! What is refused, and that little is held in memory for it.

use crate::archive::{Tar, dir, file, symlink};
use crate::generated::{content, sparse};
use crate::image::Image;

fn refusal(tar: &Tar) -> String {
    let error = Image::of(&tar.bytes()).err().unwrap();
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    cause.unwrap_or(error.to_string())
}

#[test]
fn attributes_beyond_the_format_are_refused() {
    let one = Tar::new().with(file("f", "").pax("SCHILY.xattr.user.a", content(65_536)));
    assert!(refusal(&one).ends_with("one of its extended attributes is longer than 65,535 bytes"));
    let many =
        (0..5).fold(file("f", ""), |item, n| item.pax(&format!("SCHILY.xattr.user.{n}"), content(60_000)));
    assert!(refusal(&Tar::new().with(many)).ends_with("its extended attributes take more than 256 KiB"));
    let root = (0..129).fold(dir("./"), |item, n| item.pax(&format!("SCHILY.xattr.user.{n}"), content(100)));
    assert!(refusal(&Tar::new().with(root)).ends_with("the layer's root has too many extended attributes"));
}

#[test]
fn holes_that_would_cost_much_are_refused() {
    let reason = "its holes are larger than an image can tell";
    // Parts so far apart and so many that no size of chunks is right for them.
    let parts: Vec<(u64, usize)> = (0..10_000).map(|n| (n << 49, 1)).collect();
    let tar = Tar::new().with(sparse(u64::try_from(i64::MAX).unwrap(), &parts).pax("GNU.sparse.name", "f"));
    assert!(refusal(&tar).ends_with(reason), "{}", refusal(&tar));
    let beyond = Tar::new().with(sparse(u64::MAX, &[]).pax("GNU.sparse.name", "f"));
    assert!(refusal(&beyond).ends_with(reason));
    // Each is cheap, but not all together.
    let tar = (0..200).fold(Tar::new(), |tar, n| {
        tar.with(sparse(1 << 50, &[(0, 1), (1 << 49, 1)]).pax("GNU.sparse.name", n.to_string()))
    });
    assert!(refusal(&tar).ends_with(reason));
}

#[test]
fn links_longer_than_a_path_are_refused() {
    let link = |length| Tar::new().with(symlink("l", "").pax("linkpath", "t".repeat(length)));
    assert!(Image::of(&link(4095).bytes()).is_ok());
    assert!(refusal(&link(4096)).starts_with("File name too long"));
    // Longer than a name may be: it leads nowhere.
    let through = link(300).with(file("l/x", ""));
    assert!(refusal(&through).starts_with("File name too long"));
}

/// Refused by its header alone, before anything is set aside for it.
#[test]
fn files_beyond_the_format_are_refused() {
    for size in [1u64 << 44, 1 << 62, u64::MAX / 2] {
        let field = [&[0x80][..], &[0; 3], &size.to_be_bytes()].concat();
        let tar = Tar::new().with(file("f", "").patch(124, field));
        assert!(refusal(&tar).ends_with("it is larger than an image can be"), "{}", refusal(&tar));
    }
}

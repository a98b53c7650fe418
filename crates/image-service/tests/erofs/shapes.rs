//! Trees whose form tests the format: large directories, deep ones, the root's own attributes, holes, many links.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use crate::archive::{Item, Tar, dir, file, hard_link, symlink};
use crate::generated::{content, sparse};
use crate::image::{Image, directory};
use crate::needs;
use crate::tree::{assert_same, snapshot, xattrs};

fn names(image: &crate::image::Mounted, path: &str) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(image.at(path)).unwrap().map(name).collect();
    names.sort();
    names
}

fn digit(n: usize) -> u8 {
    b'0' + (n % 10).to_le_bytes()[0]
}

#[test]
fn an_empty_layer_is_one_block() {
    needs!(mounting);
    for archive in [vec![], Tar::new().bytes()] {
        let image = Image::of(&archive).unwrap();
        assert_eq!((image.length(), image.written.size_bytes), (4096, 4096));
        assert_eq!(image.written.implied_dirs, [""]);
        let mount = image.mount();
        assert_eq!(names(&mount, "."), [""; 0]);
        let root = std::fs::metadata(mount.at(".")).unwrap();
        assert_eq!((root.mode(), root.uid(), root.mtime(), root.nlink()), (0o040_755, 0, 0, 2));
    }
}

/// Every length of names around the end of a block of entries, found and listed.
#[test]
fn directories_of_many_blocks() {
    needs!(mounting);
    let mut tar = Tar::new();
    let name = |n: usize| format!("{n:05}{}", "x".repeat(n * 7 % 240));
    for n in 0..10_000 {
        tar.add(file("x", [digit(n)]).pax("path", format!("d/{}", name(n))));
    }
    // Before, between and behind "." and "..".
    for odd in ["!", "-", ".a", "..", "...", "..a", "~", "\u{10ffff}"] {
        if odd != ".." {
            tar.add(file("x", odd).pax("path", format!("d/{odd}")));
        }
    }
    let image = Image::tar(&tar);
    let mount = image.mount();
    assert_eq!(names(&mount, "d").len(), 10_007);
    for n in 0..10_000 {
        let byte = std::fs::read(mount.at("d").join(name(n))).unwrap();
        assert_eq!(byte, [digit(n)], "{n}");
    }
    for odd in ["!", "-", ".a", "...", "..a", "~", "\u{10ffff}"] {
        assert_eq!(std::fs::read_to_string(mount.at("d").join(odd)).unwrap(), odd);
    }
    assert!(!mount.at("d/nothing").exists());
}

/// Directories whose names fill their blocks to the byte or miss it by one.
#[test]
fn directories_at_the_edge_of_a_block() {
    needs!(mounting);
    let mut tar = Tar::new();
    // "." and ".." take 27 bytes, a name of 243 bytes 255.
    for (dir, lengths) in [("a", [243; 15]), ("b", [243; 15]), ("c", [243; 15])] {
        let last = match dir {
            "a" => 4096 - 27 - 15 * 255 - 12,
            "b" => 4096 - 27 - 15 * 255 - 13,
            _ => 4096 - 27 - 15 * 255 - 11,
        };
        for (n, length) in lengths.into_iter().chain([last]).enumerate() {
            tar.add(file("x", "").pax("path", format!("{dir}/{n:02}{}", "y".repeat(length - 2))));
        }
    }
    let image = Image::tar(&tar);
    let mount = image.mount();
    for (dir, size) in [("a", 4096), ("b", 4095), ("c", 4096 + 12 + 232)] {
        assert_eq!(names(&mount, dir).len(), 16);
        let found = std::fs::metadata(mount.at(dir)).unwrap().len();
        assert!(found == size || dir == "c" && found > 4096, "{dir}: {found}");
    }
}

#[test]
fn deep_directories() {
    needs!(mounting);
    let mut tar = Tar::new();
    let mut path = String::new();
    for depth in 0..1500 {
        path.push_str("d/");
        tar.add(dir("x/").pax("path", path.clone()).mode(0o700 + depth % 8));
    }
    tar.add(file("x", "at the bottom").pax("path", format!("{path}f")));
    let image = Image::unchecked(&tar.bytes()).unwrap();
    let mount = image.mount();
    assert_eq!(std::fs::read_to_string(mount.at(&path).join("f")).unwrap(), "at the bottom");
    assert_eq!(std::fs::metadata(mount.at("d/d/d")).unwrap().mode() & 0o777, 0o702);
}

#[test]
fn the_root_has_attributes_of_its_own() {
    needs!(mounting);
    let root = |value: usize| {
        dir("./")
            .mode(0o2751)
            .owner(5, 6)
            .pax("mtime", "1000000000.5")
            .pax("SCHILY.xattr.user.large", content(value))
            .pax("SCHILY.xattr.user.small", "s")
    };
    // Behind the inode with the names; without them; nowhere in the first block.
    for value in [10, 2700, 2900, 60_000] {
        for entries in [0, 20, 2000] {
            let file = |n| file(&format!("file-{n}"), "");
            let tar = (0..entries).fold(Tar::new().with(root(value)), |tar, n| tar.with(file(n)));
            let image = Image::tar(&tar);
            let mount = image.mount();
            let seen = std::fs::metadata(mount.at(".")).unwrap();
            assert_eq!((seen.mode() & 0o7777, seen.uid(), seen.gid()), (0o2751, 5, 6));
            assert_eq!((seen.mtime(), seen.mtime_nsec(), seen.nlink()), (1_000_000_000, 500_000_000, 2));
            let xattrs = xattrs(&mount.at("."));
            assert_eq!(xattrs.len(), 2);
            assert_eq!(xattrs[&b"user.large"[..]], content(value));
            assert_eq!(names(&mount, ".").len(), entries);
        }
    }
}

#[test]
fn attributes_of_many_kibibytes() {
    needs!(mounting);
    let with = |item: Item, sizes: &[usize]| {
        sizes
            .iter()
            .enumerate()
            .fold(item, |item, (n, size)| item.pax(&format!("SCHILY.xattr.trusted.{n}"), content(*size)))
    };
    let sizes = [65_535, 1, 4000, 30_000];
    let tar = Tar::new()
        .with(with(file("file", content(5000)), &sizes))
        .with(with(file("small", "s"), &[3950]))
        .with(with(dir("dir/"), &sizes))
        .with(file("dir/in", "i"))
        .with(with(symlink("link", "target"), &sizes))
        .with(with(symlink("near", "target"), &[4010]));
    let image = Image::tar(&tar);
    let mount = image.mount();
    for (path, sizes) in
        [("file", &sizes[..]), ("dir", &sizes), ("link", &sizes), ("small", &[3950]), ("near", &[4010])]
    {
        let found = xattrs(&mount.at(path));
        assert_eq!(found.len(), sizes.len(), "{path}");
        for (n, size) in sizes.iter().enumerate() {
            assert!(found[format!("trusted.{n}").as_bytes()] == content(*size), "{path} {n}");
        }
    }
    assert_eq!(std::fs::read(mount.at("file")).unwrap(), content(5000));
    assert_eq!(std::fs::read(mount.at("small")).unwrap(), b"s");
    assert_eq!(names(&mount, "dir"), ["in"]);
    for link in ["link", "near"] {
        assert_eq!(std::fs::read_link(mount.at(link)).unwrap().to_str(), Some("target"));
    }
}

/// More links than two bytes count, over inodes that have long been written.
#[test]
fn a_file_of_many_links() {
    needs!(mounting);
    let mut tar = Tar::new().with(file("first", "shared")).with(file("other", "o"));
    for n in 0..70_000 {
        tar.add(hard_link(&format!("links/{n}"), "first"));
    }
    // One that is replaced again, one in a directory that is.
    tar.add(file("links/7", "mine now"));
    tar.add(hard_link("gone/1", "first"));
    tar.add(hard_link("gone/2", "other"));
    tar.add(file("gone", "a file now"));
    let image = Image::tar(&tar);
    let mount = image.mount();
    let metadata = |path: &str| std::fs::metadata(mount.at(path)).unwrap();
    assert_eq!((metadata("first").nlink(), metadata("links/69999").ino()), (70_000, metadata("first").ino()));
    assert_eq!((metadata("other").nlink(), metadata("links/7").nlink()), (1, 1));
    assert_eq!(std::fs::read_to_string(mount.at("links/7")).unwrap(), "mine now");
}

#[test]
fn times_of_all_centuries() {
    needs!(mounting);
    let times = ["-62135596800", "-1.000000001", "0", "2147483648.5", "4294967296", "253402300799.999999999"];
    let tar = times.iter().enumerate().fold(Tar::new(), |tar, (n, time)| {
        tar.with(file(&n.to_string(), "").pax("mtime", time)).with(dir(&format!("d{n}/")).pax("mtime", time))
    });
    let image = Image::tar(&tar);
    let mount = image.mount();
    let expected = [
        (-62_135_596_800, 0),
        (-2, 999_999_999),
        (0, 0),
        (2_147_483_648, 500_000_000),
        (4_294_967_296, 0),
        (253_402_300_799, 999_999_999),
    ];
    for (n, time) in expected.iter().enumerate() {
        for path in [n.to_string(), format!("d{n}")] {
            let metadata = std::fs::metadata(mount.at(&path)).unwrap();
            assert_eq!((metadata.mtime(), metadata.mtime_nsec()), *time, "{path}");
        }
    }
}

/// A file of 8 EiB less a byte, and others with parts far apart, take little in the image and nothing on the disk.
#[test]
fn files_of_holes() {
    needs!(mounting);
    let tib = 1u64 << 40;
    let huge = u64::try_from(i64::MAX).unwrap();
    let named = |name: &str, size, parts: &[(u64, usize)]| sparse(size, parts).pax("GNU.sparse.name", name);
    let tar = Tar::new()
        .with(named("nothing", huge, &[]))
        .with(named("lastlog", tib + 300, &[(0, 300), (tib - 5, 305)]))
        .with(named("end", 10 * tib, &[(10 * tib - 3, 3)]))
        .with(named("parts", 40_000_000, &[(4096, 4096), (8192, 1), (20_000_000, 100_000)]))
        .with(file("after", "still in step"));
    let image = Image::tar(&tar);
    assert!(image.written.size_bytes < 5_000_000, "{}", image.written.size_bytes);
    assert!(image.length() < 2 << 30, "{}", image.length());
    let on_disk = std::fs::metadata(image.path()).unwrap().blocks() * 512;
    assert!(on_disk <= image.written.size_bytes, "{on_disk}");
    let mount = image.mount();
    let read = |path: &str, offset: u64, length: usize| {
        let mut bytes = vec![0xff; length];
        let file = std::fs::File::open(mount.at(path)).unwrap();
        file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    };
    let size = |path: &str| std::fs::metadata(mount.at(path)).unwrap().len();
    assert_eq!((size("nothing"), size("lastlog"), size("end")), (huge, tib + 300, 10 * tib));
    assert_eq!(read("nothing", huge - 4096, 4096), [0; 4096]);
    assert_eq!((read("lastlog", 0, 300), read("lastlog", tib - 5, 305)), (content(300), content(305)));
    assert_eq!((read("lastlog", 300, 4000), read("lastlog", tib - 100, 95)), (vec![0; 4000], vec![0; 95]));
    assert_eq!(read("end", 10 * tib - 10, 10), [&[0; 7][..], &content(3)].concat());
    let mut parts = vec![0; 40_000_000];
    parts[4096..8192].copy_from_slice(&content(4096));
    parts[8192] = content(1)[0];
    parts[20_000_000..20_100_000].copy_from_slice(&content(100_000));
    assert!(std::fs::read(mount.at("parts")).unwrap() == parts);
    assert_eq!(std::fs::read(mount.at("after")).unwrap(), b"still in step");
}

/// A tree as a distribution's packages make it, from the machine that the test runs on.
#[test]
fn a_tree_of_this_machine() {
    needs!(mounting);
    let tar = std::process::Command::new("tar")
        .args([
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
            "--sort=name",
            "-C",
            "/etc",
            "-cf",
            "-",
            ".",
        ])
        .output()
        .unwrap();
    let image = Image::of(&tar.stdout).unwrap();
    let (_dir, root) = directory(&tar.stdout).unwrap();
    let (ours, theirs) = (snapshot(&image.mount().path(), true), snapshot(&root, false));
    assert!(ours.len() > 100, "{}", ours.len());
    assert_same(&ours, &theirs);
    // Small files share blocks: 4 KiB for each would be more than twice as much.
    let blocks: u64 = ours.values().map(|node| node.size.next_multiple_of(4096)).sum();
    assert!(image.length() < blocks * 3 / 4, "{} for {blocks}", image.length());
}

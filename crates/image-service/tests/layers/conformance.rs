//! What every form of layers must do, seen through mounted root filesystems only. A form joins by a line in `main.rs`.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use image_service::{Digest, Error};

use crate::archive::{Tar, block_device, char_device, dir, fifo, file, gzip, hard_link, item, symlink, zstd};
use crate::store::{Form, Store, xattrs};

pub(crate) fn files_and_their_attributes(form: Form) {
    let store = Store::new(form);
    let root = store.image(&[Tar::new()
        .with(dir("./").mode(0o751).owner(5, 6).mtime(1_000_000_001))
        .with(dir("./d/").mode(0o1777).owner(1, 2).mtime(1_000_000_002))
        .with(file("./d/f", "content").mode(0o640).owner(1000, 1001).pax("mtime", "1000000003.123456789"))
        .with(file("./suid", "s").mode(0o6755).owner(7, 8))
        .with(symlink("./link", "../../etc/passwd").owner(3, 4).mtime(1_000_000_004))
        .with(fifo("./pipe").mode(0o622))
        .with(char_device("./dev/null", 1, 3).mode(0o666))
        .with(block_device("./dev/sda", 8, 0).mode(0o660).owner(0, 6))
        .with(file("./later", "").pax("uid", "4000000000").pax("gid", "3000000000"))]);
    let owner = |path: &str| (root.metadata(path).uid(), root.metadata(path).gid());
    let mode = |path: &str| root.metadata(path).mode() & 0o7777;
    let mtime = |path: &str| (root.metadata(path).mtime(), root.metadata(path).mtime_nsec());
    assert_eq!((mode("."), owner("."), mtime(".")), (0o751, (5, 6), (1_000_000_001, 0)));
    assert_eq!((mode("d"), owner("d"), mtime("d")), (0o1777, (1, 2), (1_000_000_002, 0)));
    assert_eq!((mode("d/f"), owner("d/f")), (0o640, (1000, 1001)));
    assert_eq!(mtime("d/f"), (1_000_000_003, 123_456_789));
    assert_eq!(root.read("d/f"), "content");
    assert_eq!((mode("suid"), owner("suid")), (0o6755, (7, 8)));
    assert_eq!(std::fs::read_link(root.at("link")).unwrap().to_str(), Some("../../etc/passwd"));
    assert_eq!((owner("link"), mtime("link")), ((3, 4), (1_000_000_004, 0)));
    assert_eq!(mode("pipe"), 0o622);
    assert_eq!((mode("dev/null"), root.metadata("dev/null").rdev()), (0o666, rustix::fs::makedev(1, 3)));
    assert_eq!((owner("dev/sda"), root.metadata("dev/sda").rdev()), ((0, 6), rustix::fs::makedev(8, 0)));
    assert_eq!(mode("dev"), 0o755, "a directory that the archive doesn't describe");
    assert_eq!(owner("later"), (4_000_000_000, 3_000_000_000));
}

pub(crate) fn every_compression(form: Form) {
    let store = Store::new(form);
    let big: Vec<u8> =
        (0..1_500_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    let plain = |name: &str| Tar::new().with(file(name, &big)).with(file("after", name)).bytes();
    for (name, compress) in [
        ("plain", (|bytes| bytes.to_vec()) as fn(&[u8]) -> Vec<u8>),
        ("gzip", gzip),
        ("members", |bytes| bytes.chunks(700_001).flat_map(gzip).collect()),
        ("zstd", zstd),
        ("frames", |bytes| bytes.chunks(700_001).flat_map(zstd).collect()),
        ("skippable", |bytes| [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &zstd(bytes)].concat()),
    ] {
        let archive = plain(name);
        let layer =
            store.unpack_bytes(&compress(&archive), &archive).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let root = store.mount(name, &[layer]);
        assert_eq!(Digest::of(&std::fs::read(root.at(name)).unwrap()), Digest::of(&big), "{name}");
        assert_eq!(root.read("after"), name);
    }
}

pub(crate) fn archives_that_hold_nothing(form: Form) {
    let store = Store::new(form);
    let empty = store.unpack(&Tar::new()).unwrap();
    let zero = store.unpack_bytes(&[], &[]).unwrap();
    for (name, layers) in [("none", vec![]), ("empty", vec![empty.clone()]), ("both", vec![zero, empty])] {
        let root = store.mount(name, &layers);
        assert_eq!(root.names("."), [""; 0]);
        assert_eq!(root.metadata(".").mode() & 0o7777, 0o755);
        std::fs::write(root.at("new"), "works").unwrap();
        assert_eq!(root.read("new"), "works");
    }
}

pub(crate) fn whiteouts(form: Form) {
    let store = Store::new(form);
    let lower = Tar::new()
        .with(dir("d/"))
        .with(file("d/gone", "1"))
        .with(file("d/stays", "1"))
        .with(dir("whole/"))
        .with(file("whole/x", "1"))
        .with(dir("again/"))
        .with(file("again/old", "1"))
        .with(dir("before/"))
        .with(file("before/old", "1"))
        .with(dir("implied/"))
        .with(file("implied/old", "1"))
        .with(file("file", "1"));
    let upper = Tar::new()
        .with(file("d/.wh.gone", ""))
        .with(file("d/.wh.never", ""))
        .with(file(".wh.whole", ""))
        // Hidden first, then new; and the other way round, which means the same.
        .with(file(".wh.again", ""))
        .with(dir("again/"))
        .with(file("again/new", "2"))
        .with(dir("before/"))
        .with(file("before/new", "2"))
        .with(file(".wh.before", ""))
        .with(file(".wh.implied", ""))
        .with(file("implied/new", "2"))
        .with(file("file", "2"))
        .with(file(".wh.file", ""));
    let root = store.image(&[lower, upper]);
    assert_eq!(root.names("."), ["again", "before", "d", "file", "implied"]);
    assert_eq!(root.names("d"), ["stays"]);
    assert_eq!(root.names("again"), ["new"]);
    assert_eq!(root.names("before"), ["new"]);
    assert_eq!(root.names("implied"), ["new"]);
    assert_eq!(root.read("file"), "2");
    assert!(!root.has("whole") && !root.has("d/gone"));
}

pub(crate) fn opaque_directories(form: Form) {
    let store = Store::new(form);
    let lower =
        Tar::new().with(dir("a/")).with(file("a/old", "1")).with(dir("a/sub/")).with(file("a/sub/old", "1"));
    let marked_after = Tar::new().with(dir("a/")).with(file("a/new", "2")).with(file("a/.wh..wh..opq", ""));
    let root = store.image(&[lower.clone(), marked_after]);
    assert_eq!(root.names("a"), ["new"]);
    let marked_first =
        Tar::new().with(file("a/.wh..wh..opq", "")).with(dir("a/sub/")).with(file("a/sub/new", "2"));
    let layers = [lower.clone(), marked_first].map(|tar| store.unpack(&tar).unwrap());
    let root = store.mount("first", &layers);
    assert_eq!((root.names("a"), root.names("a/sub")), (vec!["sub".into()], vec!["new".to_owned()]));
    let whole = Tar::new().with(file(".wh..wh..opq", "")).with(file("alone", "3"));
    let layers = [lower, whole].map(|tar| store.unpack(&tar).unwrap());
    assert_eq!(store.mount("root", &layers).names("."), ["alone"]);
}

pub(crate) fn hard_links(form: Form) {
    let store = Store::new(form);
    let root = store.image(&[Tar::new()
        .with(file("a", "shared").mode(0o600))
        .with(hard_link("d/b", "a"))
        .with(hard_link("c", "./d/b"))
        .with(hard_link("e", "/a"))
        .with(symlink("link", "nowhere"))
        .with(hard_link("same-link", "link"))]);
    assert_eq!(root.read("d/b"), "shared");
    assert_eq!(root.metadata("c").nlink(), 4);
    assert_eq!(root.metadata("a").ino(), root.metadata("e").ino());
    assert_eq!(std::fs::read_link(root.at("same-link")).unwrap().to_str(), Some("nowhere"));
}

pub(crate) fn extended_attributes(form: Form) {
    let store = Store::new(form);
    // VFS_CAP_REVISION_2, effective, CAP_NET_BIND_SERVICE: with a new line among its bytes, which naive readers end at.
    let capability = [1, 0, 0, 2, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let root = store.image(&[Tar::new()
        .with(file("f", "x").owner(10, 10).pax("SCHILY.xattr.security.capability", capability))
        .with(file("g", "x").pax("SCHILY.xattr.user.name", "a\nb=c").pax("SCHILY.xattr.user.empty", ""))
        .with(dir("d/").mode(0o700).pax("SCHILY.xattr.user.dir", b"\xff\0\xfe"))
        .with(file("d/inner", ""))
        .with(symlink("l", "f").pax("SCHILY.xattr.trusted.link", "t").pax("SCHILY.xattr.user.no", "n"))
        .with(file("s", "").pax("SCHILY.xattr.security.selinux", "system_u:object_r:usr_t:s0"))
        .with(file("o", "").pax("SCHILY.xattr.trusted.overlay.metacopy", ""))]);
    let of = |path: &str| xattrs(&root.at(path)).into_iter().collect::<Vec<_>>();
    assert_eq!(of("f"), [(b"security.capability".to_vec(), capability.to_vec())]);
    assert_eq!(of("g"), [(b"user.empty".to_vec(), vec![]), (b"user.name".to_vec(), b"a\nb=c".to_vec())]);
    assert_eq!(of("d"), [(b"user.dir".to_vec(), b"\xff\0\xfe".to_vec())]);
    assert_eq!(of("l"), [(b"trusted.link".to_vec(), b"t".to_vec())]);
    assert_eq!((of("s"), of("o")), (vec![], vec![]));
}

/// Attributes by which overlay itself would be steered are not the image's to set.
pub(crate) fn attributes_of_overlay_itself(form: Form) {
    let store = Store::new(form);
    let lower = Tar::new().with(dir("secret/")).with(file("secret/x", "hidden")).with(dir("open/"));
    let upper = Tar::new()
        .with(file("secret/.wh..wh..opq", ""))
        .with(dir("open/").pax("SCHILY.xattr.trusted.overlay.redirect", "/secret"))
        .with(dir("other/").pax("SCHILY.xattr.trusted.overlay.opaque", "y"));
    let root = store.image(&[lower, upper]);
    assert_eq!(root.names("open"), [""; 0]);
    assert_eq!(root.names("secret"), [""; 0]);
}

pub(crate) fn entries_of_one_name(form: Form) {
    let store = Store::new(form);
    let root = store.image(&[Tar::new()
        .with(file("twice", "first and longer"))
        .with(file("twice", "second").mode(0o600))
        .with(file("file-dir", "x"))
        .with(dir("file-dir/").mode(0o711))
        .with(file("file-dir/in", "y"))
        .with(dir("dir-file/"))
        .with(file("dir-file/deep/in", "x"))
        .with(file("dir-file", "now a file"))
        .with(symlink("link-dir", "/nowhere"))
        .with(dir("link-dir/"))
        .with(dir("dir-dir/").mode(0o700))
        .with(file("dir-dir/kept", "k"))
        .with(dir("dir-dir/").mode(0o711).owner(9, 9))
        .with(file("linked", "one"))
        .with(hard_link("link", "linked"))
        .with(file("linked", "two"))
        .with(fifo("dev"))
        .with(char_device("dev", 1, 5))]);
    assert_eq!((root.read("twice"), root.metadata("twice").mode() & 0o777), ("second".into(), 0o600));
    assert_eq!(root.read("file-dir/in"), "y");
    assert_eq!(root.read("dir-file"), "now a file");
    assert!(root.metadata("link-dir").is_dir());
    assert_eq!((root.read("dir-dir/kept"), root.metadata("dir-dir").mode() & 0o777), ("k".into(), 0o711));
    assert_eq!((root.read("link"), root.read("linked")), ("one".into(), "two".into()));
    assert_eq!(root.metadata("dev").rdev(), rustix::fs::makedev(1, 5));
}

pub(crate) fn long_names(form: Form) {
    let store = Store::new(form);
    let long = |letter: &str| vec![letter.repeat(200); 5].join("/");
    let prefixed = file("name", "p").patch(345, "pre/fix");
    let root = store.image(&[Tar::new()
        .with(file("x", "gnu").gnu_name(&long("g")))
        .with(file("x", "pax").pax("path", long("p")))
        .with(symlink("gnu-link", "").gnu_link(&long("t")))
        .with(symlink("pax-link", "").pax("linkpath", long("u")))
        .with(hard_link("hard", "").pax("linkpath", long("p")))
        .with(prefixed)
        .with(file(&"n".repeat(100), "full field"))
        .with(file("ünïcode/ñ", "u"))
        .with(item("old-dir/", 0).old().mode(0o755))
        .with(item("old-file", 0).old())]);
    assert_eq!((root.read(&long("g")), root.read(&long("p"))), ("gnu".into(), "pax".into()));
    assert_eq!(std::fs::read_link(root.at("gnu-link")).unwrap().to_str(), Some(&*long("t")));
    assert_eq!(std::fs::read_link(root.at("pax-link")).unwrap().to_str(), Some(&*long("u")));
    assert_eq!((root.read("hard"), root.read("pre/fix/name")), ("pax".into(), "p".into()));
    assert_eq!((root.read(&"n".repeat(100)), root.read("ünïcode/ñ")), ("full field".into(), "u".into()));
    assert!(root.metadata("old-dir").is_dir() && root.metadata("old-file").is_file());
}

pub(crate) fn sparse_files(form: Form) {
    let store = Store::new(form);
    let pair = |offset: u64, length: u64| format!("{offset:011o}\0{length:011o}\0");
    let old = item("old", b'S').gnu().claims_size(1000).patch(386, pair(512, 500) + &pair(1_048_576, 500));
    let old = old.patch(483, format!("{:011o}\0", 2_000_000));
    let mut tar = Tar::new().with(old);
    tar.padded(&[[b'a'; 500], [b'b'; 500]].concat());
    let v1 = |name: &str, content: &[u8], map: &str| {
        let mut bytes = map.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes.extend_from_slice(content);
        let entry =
            file("GNUSparseFile.0/x", bytes).pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0");
        entry.pax("GNU.sparse.name", name).pax("GNU.sparse.realsize", "2000000")
    };
    tar.add(v1("one", &[[b'a'; 500], [b'b'; 500]].concat(), "2\n512\n500\n1048576\n500\n"));
    tar.add(
        file("zero-one", [[b'a'; 500], [b'b'; 500]].concat())
            .pax("GNU.sparse.size", "2000000")
            .pax("GNU.sparse.numblocks", "2")
            .pax("GNU.sparse.map", "512,500,1048576,500"),
    );
    tar.add(
        file("zero-zero", [[b'a'; 500], [b'b'; 500]].concat())
            .pax("GNU.sparse.size", "2000000")
            .pax("GNU.sparse.offset", "512")
            .pax("GNU.sparse.numbytes", "500")
            .pax("GNU.sparse.offset", "1048576")
            .pax("GNU.sparse.numbytes", "500"),
    );
    tar.add(file("after", "still in step"));
    let layer = store.unpack(&tar).unwrap();
    let stored = store.layers.get(&layer).unwrap().size_bytes;
    assert!(stored < 200_000, "{stored} bytes for {} of content", 4 * 1000);
    let root = store.mount("sparse", &[layer]);
    for name in ["old", "one", "zero-one", "zero-zero"] {
        let file = std::fs::File::open(root.at(name)).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 2_000_000, "{name}");
        // Within an image the kernel states the blocks that a file would have without its holes.
        if form.is_directory() {
            assert!(metadata.blocks() * 512 < 100_000, "{name} has no holes: {} blocks", metadata.blocks());
        }
        let at = |offset| {
            let mut bytes = [0xff; 3];
            file.read_exact_at(&mut bytes, offset).unwrap();
            bytes
        };
        assert_eq!([at(0), at(511), at(1010)], [*b"\0\0\0", *b"\0aa", *b"aa\0"], "{name}");
        assert_eq!([at(1_048_575), at(1_049_075)], [*b"\0bb", *b"b\0\0"], "{name}");
    }
    assert_eq!(root.read("after"), "still in step");
}

/// Images put together from packages do this; the other runtimes follow such a link within the layer too.
pub(crate) fn files_behind_a_link_of_the_same_layer(form: Form) {
    let store = Store::new(form);
    let lower = Tar::new().with(file("usr/lib/hidden", ""));
    let upper = Tar::new()
        .with(dir("usr/lib/"))
        .with(symlink("lib", "usr/lib"))
        .with(symlink("lib64", "/usr/../usr/lib"))
        .with(symlink("dangling", "var/run"))
        .with(file("lib/a", "a"))
        .with(file("lib64/sub/b", "b"))
        .with(file("dangling/c", "c"))
        .with(hard_link("lib/linked", "lib/a"))
        .with(file("lib/.wh.hidden", ""));
    let root = store.image(&[lower, upper]);
    assert_eq!(root.names("usr/lib"), ["a", "linked", "sub"]);
    assert_eq!((root.read("usr/lib/sub/b"), root.read("var/run/c")), ("b".into(), "c".into()));
    assert!(root.metadata("lib").is_symlink());
}

/// `tmp/x` without `tmp/` must not take the mode of the `tmp` below away.
pub(crate) fn directories_that_no_entry_describes(form: Form) {
    let store = Store::new(form);
    let lower = Tar::new()
        .with(dir("./").mode(0o711).owner(1, 1))
        .with(dir("tmp/").mode(0o1777))
        .with(dir("a/").mode(0o700).owner(5, 5))
        .with(dir("a/b/").mode(0o750).owner(6, 6).mtime(1_234_567_890))
        .with(dir("hidden/").mode(0o700));
    let middle = Tar::new().with(file(".wh.hidden", "")).with(dir("a/b/").mode(0o705).owner(7, 7));
    let upper = Tar::new().with(file("tmp/x", "")).with(file("a/b/y", "")).with(file("hidden/z", ""));
    let root = store.image(&[lower, middle, upper]);
    let seen = |path: &str| (root.metadata(path).mode() & 0o7777, root.metadata(path).uid());
    assert_eq!(seen("."), (0o711, 1));
    assert_eq!(seen("tmp"), (0o1777, 0));
    assert_eq!(seen("a"), (0o700, 5));
    assert_eq!(seen("a/b"), (0o705, 7));
    assert_eq!(seen("hidden"), (0o755, 0), "it is another directory than the one that was hidden");
    assert!(root.has("tmp/x") && root.has("a/b/y") && root.has("hidden/z"));
}

pub(crate) fn layers_stack_and_are_shared(form: Form) {
    let store = Store::new(form);
    let base = store.unpack(&Tar::new().with(file("base", "b")).with(file("both", "lower"))).unwrap();
    let top = store.unpack(&Tar::new().with(file("top", "t")).with(file("both", "upper"))).unwrap();
    let root = store.mount("one", &[base.clone(), top.clone()]);
    assert_eq!(
        (root.names("."), root.read("both")),
        (["base", "both", "top"].map(String::from).into(), "upper".into())
    );
    let turned = store.mount("two", &[top.clone(), base.clone()]);
    assert_eq!(turned.read("both"), "lower");
    let repeated = store.mount("three", &[base.clone(), top.clone(), base.clone()]);
    assert_eq!(repeated.read("both"), "lower");
    std::fs::write(root.at("both"), "changed").unwrap();
    std::fs::remove_file(root.at("base")).unwrap();
    assert_eq!((turned.read("both"), turned.read("base")), ("lower".into(), "b".into()));
}

pub(crate) fn many_layers(form: Form) {
    let store = Store::new(form);
    let tar =
        |n: usize| Tar::new().with(file(&format!("f{n}"), n.to_string())).with(file("last", n.to_string()));
    let layers: Vec<Digest> = (0..120).map(|n| store.unpack(&tar(n)).unwrap()).collect();
    let root = store.mount("many", &layers);
    assert_eq!((root.names(".").len(), root.read("last")), (121, "119".into()));
}

pub(crate) fn usage_is_about_right(form: Form) {
    let store = Store::new(form);
    let tar = Tar::new().with(dir("d/")).with(file("d/f", vec![1; 100_000])).with(hard_link("d/g", "d/f"));
    let diff_id = store.unpack(&tar.with(symlink("l", "d"))).unwrap();
    let layer = store.layers.get(&diff_id).unwrap();
    assert!((100_000..150_000).contains(&layer.size_bytes), "{}", layer.size_bytes);
    let inodes = if form.is_directory() { 4 } else { 1 };
    assert_eq!(layer.inodes, inodes, "root, d, d/f and l; or the one image of them all");
    assert_eq!(store.layers.usage().bytes, layer.size_bytes);
}

pub(crate) fn wrong_bytes_are_noticed(form: Form) {
    let store = Store::new(form);
    let tar = Tar::new().with(file("f", "content"));
    let other = Tar::new().with(file("f", "Content"));
    let outcome = store.unpack_bytes(&other.bytes(), &tar.bytes());
    assert!(matches!(outcome, Err(Error::LayerDigest { .. })), "{outcome:?}");
    let zipped = gzip(&tar.bytes());
    let outcome = store.unpack_bytes(&zipped[..zipped.len() - 9], &tar.bytes());
    assert!(matches!(outcome, Err(Error::LayerStream { .. })), "{outcome:?}");
    let mut damaged = zipped.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    assert!(store.unpack_bytes(&damaged, &tar.bytes()).is_err());
    let trailing = [tar.bytes(), b"what follows the end counts too".to_vec()].concat();
    store.unpack_bytes(&gzip(&trailing), &trailing).unwrap();
    assert!(!store.layers.contains(&Digest::of(&tar.bytes())));
    store.wait_until_tidy();
}

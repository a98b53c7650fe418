//! The same archives unpacked by GNU tar: every node must come out alike.

use std::path::Path;
use std::process::Command;

use crate::store::{Form, Store, snapshot};

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// A tree with something of everything.
fn generate(root: &Path) {
    let script = r#"
        set -e
        cd "$1"
        mkdir -p bin usr/lib var/empty deep/$(printf 'd%.0s/' $(seq 60))
        printf binary > bin/tool; chmod 4755 bin/tool
        printf group > bin/group; chmod 2711 bin/group
        ln bin/tool bin/tool-linked; ln bin/tool usr/lib/tool-again
        ln -s ../bin/tool usr/lib/tool; ln -s /nowhere "dangling link"
        mkfifo -m 640 var/pipe; mknod var/null c 1 3; mknod var/loop b 7 9
        seq 1 200000 > var/numbers
        truncate -s 3000000 var/holes; printf middle | dd of=var/holes bs=1 seek=1500000 conv=notrunc status=none
        : > var/nothing
        printf u > 'ünïcode ☃'; printf n > "$(printf 'new\nline')"; printf b > "$(printf 'byte\377')"
        longest=$(printf 'n%.0s' $(seq 200)); mkdir -p "$longest/$longest"; printf long > "$longest/$longest/f"
        ln -s "$longest/$longest/$longest" long-link
        chown 1000:1001 var/numbers; chown -h 12:34 'dangling link'; chown 99999:88888 var/empty
        chmod 1777 var/empty; chmod 000 var/nothing; chmod 3775 deep
        touch -d '2001-02-03 04:05:06.123456789' var/numbers
        touch -h -d '1999-01-01 00:00:00.5' usr/lib/tool
        touch -d '1969-12-31 23:59:58' bin/group
        touch -d '2010-10-10 10:10:10.101010101' var usr/lib deep
    "#;
    run("bash", &["-c", script, "bash", root.to_str().unwrap()]);
    for (path, name, value) in [
        ("var/numbers", "user.note", &b"a\nb"[..]),
        ("var/empty", "user.dir", b"\0\x01\xff"),
        ("bin/tool", "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        rustix::fs::setxattr(root.join(path), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    }
}

pub(crate) fn gnu_tar_unpacks_the_same(form: Form) {
    let store = Store::new(form);
    let source = store.dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    generate(&source);
    for (name, options) in [
        ("posix", &["--format=posix", "--xattrs", "--xattrs-include=*"][..]),
        ("gnu", &["--format=gnu"]),
        ("gnu-sparse", &["--format=gnu", "--sparse"]),
        ("posix-sparse-0.0", &["--format=posix", "--sparse", "--sparse-version=0.0"]),
        ("posix-sparse-0.1", &["--format=posix", "--sparse", "--sparse-version=0.1"]),
        ("posix-sparse-1.0", &["--format=posix", "--sparse", "--sparse-version=1.0"]),
    ] {
        let archive = store.dir.path().join(format!("{name}.tar"));
        let [archive_path, source_path] = [&archive, &source].map(|path| path.to_str().unwrap());
        run("tar", &[options, &["-C", source_path, "-cf", archive_path, "."]].concat());
        let theirs = store.dir.path().join(name);
        std::fs::create_dir(&theirs).unwrap();
        let extract =
            ["-C", theirs.to_str().unwrap(), "--numeric-owner", "--same-owner", "-p", "-xf", archive_path];
        run("tar", &[&["--xattrs", "--xattrs-include=*"], &extract[..]].concat());
        let bytes = std::fs::read(&archive).unwrap();
        let layer = store.unpack_bytes(&bytes, &bytes).unwrap();
        let ours = store.mount(name, &[layer]);
        let (mut ours, mut theirs) = (snapshot(&ours.path()), snapshot(&theirs));
        assert!(ours.len() > 80, "{name}: only {} nodes", ours.len());
        for (path, theirs) in std::mem::take(&mut theirs) {
            let path_text = String::from_utf8_lossy(&path).into_owned();
            assert_eq!(ours.remove(&path), Some(theirs), "{name}: {path_text}");
        }
        assert!(ours.is_empty(), "{name}: only in ours: {:?}", ours.keys());
    }
}

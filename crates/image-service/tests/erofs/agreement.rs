//! The same archives as an image, as a directory tree of ours, and unpacked by GNU tar: every node must come out alike,
//! and what one refuses, the other refuses in the same words.

use std::collections::BTreeSet;
use std::process::Command;

use proptest::test_runner::{Config, TestRunner};

use crate::archive::{Tar, file, symlink};
use crate::generated::{Step, What, steps};
use crate::image::{Image, directory};
use crate::needs;
use crate::tree::{Tree, assert_same, snapshot};

/// Times that unpacking into directories takes from the clock: of directories that no entry describes, and of
/// whiteouts.
fn without_clock(tree: &mut Tree, implied: &[String]) {
    let implied: BTreeSet<&[u8]> = implied.iter().map(String::as_bytes).collect();
    for (path, node) in tree {
        if implied.contains(&path[..]) || (node.kind == "character device" && node.device == 0) {
            node.mtime = (0, 0);
        }
    }
}

/// Runs a check over so many archives made up at random, or over as many as `KNARR_CASES` says.
fn run(cases: u32, check: impl Fn(Vec<Step>)) {
    let cases = std::env::var("KNARR_CASES").map_or(cases, |cases| cases.parse().unwrap());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        check(steps);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Takes the entries that are possible one after the other; both forms must agree which are.
fn possible(steps: Vec<Step>) -> Tar {
    let mut tar = Tar::new();
    for step in steps {
        let longer = tar.clone().with(step.item());
        match Image::of(&longer.bytes()) {
            Ok(_) => tar = longer,
            Err(error) => {
                let theirs = directory(&longer.bytes()).err().map(|theirs| full(&theirs));
                assert_eq!(Some(full(&error)), theirs, "{step:?}");
            }
        }
    }
    tar
}

/// The error with everything that led to it.
fn full(error: &dyn std::error::Error) -> String {
    error.source().map_or(error.to_string(), |cause| format!("{error}: {}", full(cause)))
}

#[test]
fn images_and_directories_are_the_same_tree() {
    needs!(mounting);
    run(60, |steps| {
        let tar = possible(steps);
        let image = Image::tar(&tar);
        let mut ours = snapshot(&image.mount().path(), true);
        let (_dir, root) = directory(&tar.bytes()).unwrap();
        let mut theirs = snapshot(&root, false);
        without_clock(&mut ours, &image.written.implied_dirs);
        without_clock(&mut theirs, &image.written.implied_dirs);
        assert_same(&ours, &theirs);
    });
}

/// A link that led somewhere leads elsewhere once another took its place, also when nothing came between.
#[test]
fn a_link_that_was_replaced_is_not_followed_any_more() {
    needs!(mounting);
    let tar = Tar::new()
        .with(symlink("lib", "first"))
        .with(file("lib/a", "a"))
        .with(symlink("lib", "second"))
        .with(file("lib/b", "b"));
    let (_dir, root) = directory(&tar.bytes()).unwrap();
    let image = Image::tar(&tar).mount();
    for root in [root, image.path()] {
        assert!(root.join("first/a").exists() && root.join("second/b").exists());
        assert!(!root.join("first/b").exists());
    }
}

/// Entries that mean the same to a program that knows nothing of layers: each name once, in directories that are there,
/// links to files that are there.
fn plain(steps: Vec<Step>) -> Tar {
    let mut tar = Tar::new();
    let mut directories = BTreeSet::from([String::new()]);
    let (mut files, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for step in steps {
        let parent = step.path.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
        let known =
            step.xattrs.iter().all(|(name, _)| matches!(*name, "user.note" | "user.empty" | "trusted.t"));
        let fits = match &step.what {
            What::Whiteout | What::Opaque | What::CharDevice(0, 0) => false,
            What::HardLink(source) => files.contains(source),
            What::Symlink(target) => target.len() < 4000,
            // GNU tar reads each part from a new block on, Go from where the last one ended.
            What::Sparse(_, parts) => parts.iter().rev().skip(1).all(|(_, length)| length % 512 == 0),
            _ => true,
        };
        let special = !matches!(step.what, What::File(_) | What::Directory) && !step.xattrs.is_empty();
        if !known || !fits || special || !directories.contains(&parent) || !taken.insert(step.path.clone()) {
            continue;
        }
        match step.what {
            What::Directory => drop(directories.insert(step.path.clone())),
            What::File(_) => drop(files.insert(step.path.clone())),
            _ => {}
        }
        tar.add(step.item());
    }
    tar
}

#[test]
fn images_and_what_gnu_tar_unpacks_are_the_same_tree() {
    needs!(mounting);
    run(60, |steps| {
        let tar = plain(steps);
        let image = Image::tar(&tar);
        let theirs = image.dir.path().join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        let archive = image.dir.path().join("archive.tar");
        std::fs::write(&archive, tar.bytes()).unwrap();
        let output = Command::new("tar")
            .args([
                "--xattrs",
                "--xattrs-include=*",
                "--numeric-owner",
                "--same-owner",
                "-p",
                "--delay-directory-restore",
                "-C",
            ])
            .arg(&theirs)
            .arg("-xf")
            .arg(&archive)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut ours = snapshot(&image.mount().path(), true);
        let mut theirs = snapshot(&theirs, false);
        // No entry describes it.
        let root: &[u8] = b"";
        assert!(ours.remove(root).is_some() && theirs.remove(root).is_some());
        assert_same(&ours, &theirs);
    });
}

#[test]
fn the_same_archive_gives_the_same_bytes() {
    run(40, |steps| {
        let tar = steps.iter().fold(Tar::new(), |tar, step| {
            let longer = tar.clone().with(step.item());
            if Image::of(&longer.bytes()).is_ok() { longer } else { tar }
        });
        let bytes = tar.bytes();
        let (first, second) = (Image::of(&bytes).unwrap(), Image::of(&crate::archive::gzip(&bytes)).unwrap());
        assert!(first.bytes() == second.bytes(), "two images of one archive differ");
        assert_eq!(first.written, second.written);
    });
}

//! Archives that are written again from their layers. That this works for whatever is unpacked in these tests, the store's
//! helper checks; here is what could go wrong.

use std::path::{Path, PathBuf};
use std::time::Instant;

use image_service::{Digest, Error};

use crate::archive::{Tar, char_device, dir, file, gzip, hard_link, item, symlink};
use crate::store::{Form, Store};

fn layer_dir(store: &Store, diff_id: &Digest) -> PathBuf {
    store.dir.path().join("images/layers/sha256").join(diff_id.hex())
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                pending.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

pub(crate) fn replaced_content_is_in_the_archive(form: Form) {
    let store = Store::new(form);
    let large = "x".repeat(300_000);
    let tar = Tar::new()
        .with(file("a", "first"))
        .with(file("a", "second"))
        .with(hard_link("b", "a"))
        .with(file("a", &large))
        .with(dir("d"))
        .with(dir("d/e"))
        .with(file("d/e/f", "below"))
        .with(file("d/e/f", "below again"))
        .with(file("d", "no directory any more"))
        .with(dir("d"))
        .with(dir("d/e"))
        .with(file("d/e/f", "and back"))
        .with(symlink("s", "d"))
        .with(file("s/g", "behind a link"))
        .with(file("s", "instead of the link"))
        .with(symlink("a", "s"));
    // Whatever is unpacked here is written again.
    let mounted = store.image(&[tar]);
    assert_eq!(mounted.read("b"), "second");
    assert_eq!(mounted.read("d/e/f"), "and back");
    assert_eq!(mounted.read("d/g"), "behind a link");
}

pub(crate) fn what_is_in_no_file_is_in_the_archive(form: Form) {
    let store = Store::new(form);
    let mut tar = Tar::new()
        .with(item("pax_global_header", b'g'))
        .with(file(".wh.gone", "a whiteout with content"))
        .with(file(".wh..wh.plnk/1.2", "content that belongs to nobody"))
        .with(char_device("null", 1, 3))
        .with(
            file("sparse", "content")
                .pax("GNU.sparse.major", "0")
                .pax("GNU.sparse.minor", "1")
                .pax("GNU.sparse.map", "5,3,100000,4")
                .pax("GNU.sparse.size", "200000"),
        )
        .with(file("empty", ""));
    tar.padded(&[0; 1024]);
    tar.padded(b"what follows the end");
    store.unpack(&tar).unwrap();
    // Neither the padding nor the end need be zeros, or be there.
    let mut odd = Tar::new().with(file("odd", "content")).unended();
    odd[512 + 7..].fill(0xaa);
    store.unpack_bytes(&gzip(&odd), &odd).unwrap();
}

pub(crate) fn a_damaged_layer_is_noticed(form: Form) {
    let store = Store::new(form);
    let content = "content that is there once. ".repeat(1_000);
    let diff_id = store.unpack(&Tar::new().with(file("a", &content))).unwrap();
    let layer = store.layers.get(&diff_id).unwrap();
    let needle = &content.as_bytes()[..20];
    let holder = files_below(&layer_dir(&store, &diff_id)).into_iter().find(|path| {
        path.is_file() && std::fs::read(path).unwrap().windows(20).any(|window| window == needle)
    });
    let holder = holder.unwrap();
    let mut bytes = std::fs::read(&holder).unwrap();
    let at = bytes.windows(20).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&holder, bytes).unwrap();
    match store.layers.write_archive(&layer, &mut std::io::sink()) {
        Err(Error::LayerDigest { expected, .. }) => assert_eq!(expected, diff_id),
        other => panic!("{other:?}"),
    }
    let recipe = layer_dir(&store, &diff_id).join("archive");
    let mut bytes = std::fs::read(&recipe).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&recipe, bytes).unwrap();
    let error = store.layers.write_archive(&layer, &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("/archive\""), "{error}");
}

pub(crate) fn without_a_recipe_the_layer_is_named(form: Form) {
    let store = Store::new(form);
    let diff_id = store.unpack(&Tar::new().with(file("a", "content"))).unwrap();
    std::fs::remove_file(layer_dir(&store, &diff_id).join("archive")).unwrap();
    let store = store.reopen();
    let layer = store.layers.get(&diff_id).unwrap();
    let error = store.layers.write_archive(&layer, &mut std::io::sink()).unwrap_err();
    assert!(matches!(&error, Error::NoRecipe { .. }) && error.to_string().contains(diff_id.hex()), "{error}");
}

/// What a recipe costs, in bytes: time depends on the machine. `--nocapture` shows both.
pub(crate) fn a_recipe_is_small(form: Form) {
    let store = Store::new(form);
    let mut tar = Tar::new();
    for number in 0..3_000u32 {
        if number % 100 == 0 {
            tar.add(dir(&format!("usr/share/d{}/", number / 100)));
        }
        let name = format!("usr/share/d{}/file-{number}.txt", number / 100);
        let owner = u64::from(number % 3);
        tar.add(
            file(&name, format!("{number} ").repeat(number as usize % 200))
                .owner(owner, owner)
                .mtime(number.into()),
        );
    }
    let diff_id = store.unpack(&tar).unwrap();
    let recipe = std::fs::metadata(layer_dir(&store, &diff_id).join("archive")).unwrap().len();
    let begun = Instant::now();
    let layer = store.layers.get(&diff_id).unwrap();
    store.layers.write_archive(&layer, &mut std::io::sink()).unwrap();
    println!("3,000 files: {recipe} bytes of recipe, written again in {:?}", begun.elapsed());
    assert!(recipe < 150_000, "{recipe} bytes");
}

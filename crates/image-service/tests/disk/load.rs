//! Archives that are loaded are given what room there is, as pulls are.

use std::io::Cursor;

use image_service::{Error, ErrorKind, LoadRequest, LoadedImage};

use crate::breaking::Manner;
use crate::filesystem::Kind;
use crate::full::{free, small_ext4, until};
use crate::image::{ImageBytes, LayerBytes, archive};
use crate::kept::{MIB, break_off, fill_but, kept, registry};
use crate::{Service, chain, in_own_mounts};

/// An archive as `docker save` writes it, of an image of one layer of so many bytes that don't compress.
fn saved(name: &str, size: usize) -> Vec<u8> {
    let ImageBytes { config, layers, .. } = ImageBytes::new(vec![LayerBytes::new(name, size)]);
    let manifest =
        format!(r#"[{{"Config":"config.json","RepoTags":["loaded/{name}:1"],"Layers":["layer.tar.gz"]}}]"#);
    let mut all = Vec::new();
    for (name, content) in [
        ("layer.tar.gz", layers[0].blob.as_slice()),
        ("config.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let one = archive(name, content);
        // Without its end, which is two empty blocks.
        all.extend_from_slice(&one[..one.len() - 1024]);
    }
    all.resize(all.len() + 1024, 0);
    all
}

async fn load(service: &Service, archive: Vec<u8>) -> Result<Vec<LoadedImage>, Error> {
    service.images.load(LoadRequest::default(), Box::new(Cursor::new(archive))).await
}

/// Loads an image of so many bytes where so many are free with those that are kept of a pull.
fn what_is_kept_is_given_up(size: u64, room: u64) {
    if !Kind::Ext4.is_here() {
        return;
    }
    in_own_mounts(move |dir| async move {
        let disk = small_ext4(&dir, 64);
        let one = vec![("one", LayerBytes::new("one", 8 << 20))];
        let mut registry = registry(one, Manner { gives: 5 * MIB, ..Manner::default() }).await;
        let service = Service::at(disk.path(), registry.address.to_string());
        let left = break_off(&service, &mut registry, &disk).await;
        fill_but(disk.path(), room - left);
        let loaded = load(&service, saved("next", size as usize)).await;
        let loaded = loaded.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(loaded[0].names, ["docker.io/loaded/next:1"]);
        assert!(service.images.status("loaded/next:1").unwrap().is_some());
        assert_eq!(kept(&disk), 0);
        // There is no more to be had: it fails, and leaves nothing.
        let before = free(disk.path());
        let error = load(&service, saved("other", 8 << 20)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", chain(&error));
        until("something of the load is left", || free(disk.path()) + (64 << 10) >= before);
        drop(service);
    });
}

#[test]
fn what_failed_pulls_left_makes_room_for_the_files_of_an_archive() {
    // At least 4 MiB are kept, up to 5: that leaves 2.25 to 3.25 of the 3.5.
    what_is_kept_is_given_up(7 * MIB / 2, 29 * MIB / 4);
}

#[test]
fn what_failed_pulls_left_makes_room_for_its_layers() {
    // That leaves 2.25 to 3.25 MiB of twice 2.
    what_is_kept_is_given_up(2 * MIB, 29 * MIB / 4);
}

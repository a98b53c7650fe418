//! Compressed bytes that aren't what they should be: cut, damaged, followed by something, of other digests, or unfolding to more than a
//! disk has. (CVE-2025-58183's kind.)

use std::io::Write as _;

use e2e::archive::{Packed, Raw, digest};
use e2e::image::Packing;

use crate::rig::{Rig, layer};

/// An archive of some size that doesn't compress much.
fn tar() -> Vec<u8> {
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(300_000)
    .collect();
    Raw::new().file("noise", &noise).done()
}

#[tokio::test]
async fn streams_that_are_cut_damaged_or_go_on_are_refused() {
    let rig = Rig::new().await;
    let tar = tar();
    for packing in [Packing::Gzip, Packing::Zstd] {
        let whole = packing.pack(&tar);
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 0xff;
        // The sums at the end.
        let mut sums = whole.clone();
        let last = sums.len() - 5;
        sums[last] ^= 1;
        let garbage = [&whole[..], b"and some garbage behind it"].concat();
        let cases = [
            ("cut in the middle", whole[..whole.len() / 2].to_vec()),
            ("cut before its sums", whole[..whole.len() - 3].to_vec()),
            ("damaged in the middle", damaged),
            ("garbage behind it", garbage),
            ("another archive behind it", [&whole[..], &Packing::Gzip.pack(b"x"), &whole].concat()),
        ];
        for (attack, blob) in cases {
            let layer = Packed::new(&tar, blob);
            let diff_id = layer.diff_id.clone();
            rig.layers_refused(&format!("{packing:?} {attack}"), &[layer], &[&diff_id]).await;
        }
        if packing == Packing::Gzip {
            let layer = Packed::new(&tar, sums);
            let diff_id = layer.diff_id.clone();
            rig.layers_refused("wrong sums", &[layer], &[&diff_id]).await;
        }
    }
    for (attack, bytes) in
        [("no archive", b"{\"not\":\"an archive\"}".repeat(50)), ("a cut archive", tar[..100_000].to_vec())]
    {
        let layer = Packed::gzip(&bytes);
        let diff_id = layer.diff_id.clone();
        rig.layers_refused(attack, &[layer], &["is not a valid archive", &diff_id]).await;
    }
    rig.unharmed().await;
}

#[tokio::test]
async fn digests_that_lie_are_found_out() {
    let rig = Rig::new().await;
    let good = layer("a", b"what is meant");
    // The configuration names another archive than the blob has.
    let other = Packed { diff_id: digest(b"another archive"), ..good.clone() };
    rig.layers_refused("another archive", &[other], &["has the digest", &digest(b"another archive")]).await;
    // The registry gives other bytes under the blob's name, of the same length.
    let mut bytes = good.blob.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    rig.registry.content().image("evil", "latest", std::slice::from_ref(&good));
    let path = format!("/v2/evil/blobs/{}", digest(&good.blob));
    rig.registry.content().put(&path, "application/octet-stream", bytes);
    let (_, manifest) = e2e::archive::documents(std::slice::from_ref(&good));
    let expected = format!("should have the digest \"{}\"", digest(&good.blob));
    rig.manifest_refused("other bytes", manifest.to_string().as_bytes(), &[&expected]).await;
    // More bytes than the manifest says.
    let mut longer = good.clone();
    longer.descriptor["size"] = (good.blob.len() - 1).into();
    rig.layers_refused("longer than stated", &[longer], &[&digest(&good.blob), "is larger than"]).await;
    rig.unharmed().await;
}

/// A GiB and a half in some KiB: more than such a layer may unpack to. Nothing of it stays on the disk.
#[tokio::test]
async fn a_layer_that_unfolds_without_end_is_refused() {
    let rig = Rig::new().await;
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 1536;
    let mut header = e2e::archive::header(b"bomb", b'0', (PIECES * PIECE) as u64);
    header[124..135].copy_from_slice(format!("{:011o}", PIECES * PIECE).as_bytes());
    let start = Raw::new().raw(header, b"").done();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(&start[..512]).unwrap();
    for _ in 0..PIECES {
        encoder.write_all(&[0; PIECE]).unwrap();
    }
    let blob = encoder.finish().unwrap();
    assert!(blob.len() < 1 << 20, "{} bytes", blob.len());
    let diff_id = digest(b"of what is never reached");
    rig.layers_refused("a bomb", &[Packed::of(diff_id.clone(), blob)], &["unpacks to more than", &diff_id])
        .await;
    rig.unharmed().await;
}

//! Sound images, but all at once: what pulls take in memory doesn't grow with their number.

use e2e::archive::{Packed, Raw};

use crate::rig::Rig;

/// Pulls at once, each of an image of its own.
const PULLS: u64 = 50;

/// Bytes that don't compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn one_large_file(seed: u64) -> Vec<u8> {
    Raw::new().file("large", &noise(seed, 3 << 20)).done()
}

fn many_small_files(seed: u64) -> Vec<u8> {
    let files = (0..3000).map(|number| (format!("directory-{seed}/{}/{number}", number % 50), number));
    files.fold(Raw::new(), |tar, (name, number)| tar.file(&name, &noise(number, 100))).done()
}

/// A frame of a window of 8 MiB, as usual levels of zstd have at the most.
fn of_a_wide_window(tar: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(23).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn pulls_of_many_images_stay_within_bounds() {
    let rig = Rig::new().await;
    for number in 0..PULLS {
        let (large, small) = (one_large_file(number), many_small_files(number));
        let other = one_large_file(number + PULLS);
        let layers = [
            Packed::gzip(&large),
            Packed::new(&small, of_a_wide_window(&small)),
            Packed::new(&other, of_a_wide_window(&other)),
        ];
        let layers = &layers[..if number.is_multiple_of(2) { 3 } else { 2 }];
        rig.registry.content().image("many", &format!("t{number}"), layers);
    }
    let mut pulls = tokio::task::JoinSet::new();
    for number in 0..PULLS {
        let (client, reference) = (rig.client.clone(), rig.registry.image(&format!("many:t{number}")));
        pulls.spawn(async move { client.pull(&reference).await });
    }
    while let Some(pulled) = pulls.join_next().await {
        pulled.unwrap().unwrap();
    }
    rig.within_memory("many pulls");
}

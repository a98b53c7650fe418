//! A registry that gives just enough not to be given up, or nothing for as long as that is borne with: who pulls from another one
//! isn't kept waiting.

use std::time::Duration;

use e2e::Scripted;
use e2e::archive::{Packed, Raw};
use e2e::scripted::{Content, Manner};

use crate::rig::{Rig, layer};

/// Layers that are fetched at once, by all pulls together (`at_once` in image-service's configuration): two for each processor, from
/// four to eight.
fn connections() -> usize {
    (2 * std::thread::available_parallelism().map_or(1, usize::from)).clamp(4, 8)
}

/// More layers than there are connections for all pulls together.
const LAYERS: u64 = 20;

/// The byte of each layer at which nothing more comes.
const STOP: usize = 50_000;

/// Far less than a stalled connection is borne with (30 s), and more than a pull of a few bytes takes.
const QUICK: Duration = Duration::from_secs(15);

/// Some hundred kilobytes that don't compress.
fn large(seed: u64) -> Packed {
    let mut state = seed + 1;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(200_000)
    .collect();
    Packed::gzip(&Raw::new().file(&format!("noise-{seed}"), &noise).done())
}

#[tokio::test]
async fn a_registry_that_stops_in_the_middle_keeps_nobody_waiting_for_another() {
    let rig = Rig::new().await;
    let content = Content::default();
    let layers: Vec<Packed> = (0..LAYERS).map(large).collect();
    content.image("slow", "latest", &layers);
    let slow = Scripted::start(content, Manner { stops: Some(STOP), ..Manner::default() }).await;
    let (client, reference) = (rig.client.clone(), slow.image("slow:latest"));
    let pull = tokio::spawn(async move { client.pull(&reference).await });
    e2e::until(e2e::node::PATIENCE, "all connections that there are", || async {
        let given = slow.given().iter().filter(|given| given.bytes == STOP).count();
        if given >= connections() { Ok(()) } else { Err(given) }
    })
    .await;
    let good = &rig.registry;
    // One image has nothing to do with the slow one; the other has a layer of it.
    good.content().image("good", "own", &[layer("own", b"own")]);
    good.content().image(
        "good",
        "shared",
        &[layer("second", b"second"), layers[0].clone(), layers[1].clone()],
    );
    for name in ["good:own", "good:shared"] {
        let pulled = tokio::time::timeout(e2e::patience(QUICK), rig.client.pull(&good.image(name))).await;
        let pulled =
            pulled.unwrap_or_else(|_| panic!("the attack succeeded: {name} waits for a slow registry"));
        pulled.unwrap();
    }
    assert!(!pull.is_finished());
}

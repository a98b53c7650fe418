//! Consumers that are behind, and peers that hold windows.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{plain_rig, rig};
use crate::spdy::client::Seen;
use crate::spdy::frame::{Control, SETTING_INITIAL_WINDOW};
use crate::spdy::{Error, Limits};

/// Long enough that whatever could still move has; the clock is a paused one.
const LONG: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_stops_the_peer_within_bounds() {
    let limits = Limits { buffered: 100_000, floor: 1000, ..Limits::default() };
    let mut rig = rig(limits, 1000);
    let (mut behind, mut other) = (rig.open(1).await, rig.open(3).await);
    let (mut sender, mut receiver) = (rig.client.sender, rig.client.receiver);
    let (told, mut sent) = tokio::sync::watch::channel(0_usize);
    tokio::spawn(async move {
        for round in 1.. {
            sender.data(1, &[7; 1000], false).await.unwrap();
            told.send_replace(round * 1000);
        }
    });
    while timeout(LONG, sent.changed()).await.is_ok() {}
    // What streams may hold, what lies in the pipe, and one read.
    let bound = 100_000 + 1000 + (40 << 10);
    let stopped = *sent.borrow();
    assert!((100_000..bound).contains(&stopped), "{stopped}");
    // The other direction isn't held up, nor are other streams in it.
    other.write_all(b"alive").await.unwrap();
    other.finish();
    assert_eq!(receiver.until_end().await, (3, b"alive".to_vec()));
    // It goes on when somebody reads.
    let mut buffer = vec![0; 300_000];
    behind.read_exact(&mut buffer).await.unwrap();
    assert!(buffer.iter().all(|byte| *byte == 7));
}

#[tokio::test(start_paused = true)]
async fn a_stream_within_its_floor_gets_through_when_another_holds_all() {
    let limits = Limits { buffered: 5000, floor: 1000, ..Limits::default() };
    let mut rig = rig(limits, 1000);
    let (_behind, mut other) = (rig.open(1).await, rig.open(3).await);
    rig.client.data(1, &[7; 5000], false).await;
    for _ in 0..20 {
        rig.client.data(3, &[8; 1000], false).await;
        let mut buffer = [0; 1000];
        timeout(LONG, other.read_exact(&mut buffer)).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_stops_writers_within_bounds() {
    let limits = Limits { buffered: 100_000, floor: 1000, outgoing: 60_000, ..Limits::default() };
    let mut rig = rig(limits, 1000);
    let mut streams = Vec::new();
    for number in 0..10 {
        streams.push(rig.open(number * 2 + 1).await);
    }
    let mut total = 0;
    for stream in &mut streams {
        let own = async {
            loop {
                total += stream.write(&[0; 500]).await.unwrap();
            }
        };
        _ = timeout(LONG, own).await;
    }
    // Streams, a batch and a frame above it, the pipe.
    assert!((100_000..100_000 + 10_000 + (96 << 10) + 2000).contains(&total), "{total}");
    // All goes through when the peer reads.
    streams.iter_mut().for_each(super::super::Stream::finish);
    let mut got = 0;
    for _ in 0..10 {
        got += rig.client.until_end().await.1.len();
    }
    assert_eq!(got, total);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_speaks_of_windows_is_held_to_them() {
    let mut rig = plain_rig();
    rig.client.control(Control::Settings(vec![(SETTING_INITIAL_WINDOW, 10), (4, 100)])).await;
    let mut stream = rig.open(1).await;
    stream.write_all(&[1; 25]).await.unwrap();
    stream.finish();
    let data = |length, fin| Some(Seen::Data { stream: 1, bytes: vec![1; length], fin });
    assert_eq!(rig.client.next().await, Some(Seen::Reply(1)));
    assert_eq!(rig.client.next().await, data(10, false));
    assert!(timeout(LONG, rig.client.next()).await.is_err());
    rig.client.control(Control::WindowUpdate { stream: 1, delta: 5 }).await;
    assert_eq!(rig.client.next().await, data(5, false));
    // The setting changes what is left of streams that are open, too.
    rig.client.control(Control::Settings(vec![(SETTING_INITIAL_WINDOW, 100)])).await;
    assert_eq!(rig.client.next().await, data(10, true));
}

#[tokio::test(start_paused = true)]
async fn the_window_of_the_connection_counts_too() {
    let mut rig = plain_rig();
    rig.client.control(Control::Settings(vec![(SETTING_INITIAL_WINDOW, 1 << 20)])).await;
    let stream = rig.open(1).await;
    let (_reader, mut writer) = stream.split();
    tokio::spawn(async move {
        writer.write_all(&[1; 70_000]).await.unwrap();
        // Dropped it would be reset.
        std::future::pending::<()>().await;
    });
    let mut got = 0;
    while let Ok(Some(seen)) = timeout(LONG, rig.client.next()).await {
        if let Seen::Data { bytes, .. } = seen {
            got += bytes.len();
        }
    }
    assert_eq!(got, 64 << 10);
    rig.client.control(Control::WindowUpdate { stream: 0, delta: 1 }).await;
    assert_eq!(rig.client.next().await, Some(Seen::Data { stream: 1, bytes: vec![1], fin: false }));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_gives_room_back_in_small_parts_is_no_flood() {
    const BYTES: usize = 300_000;
    let mut rig = plain_rig();
    let mut stream = rig.open(1).await;
    tokio::spawn(async move {
        stream.write_all(&[1; BYTES]).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let mut got = 0;
    loop {
        let Some(Seen::Data { bytes, fin, .. }) = rig.client.next().await else { continue };
        got += bytes.len();
        if fin {
            break;
        }
        for part in bytes.chunks(100) {
            let delta = u32::try_from(part.len()).unwrap();
            rig.client.control(Control::WindowUpdate { stream: 1, delta }).await;
            rig.client.control(Control::WindowUpdate { stream: 0, delta }).await;
        }
    }
    assert_eq!(got, BYTES);
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_told_of_room_only_if_it_speaks_of_windows() {
    let mut rig = plain_rig();
    let mut stream = rig.open(1).await;
    let mut buffer = vec![0; 40_000];
    rig.client.data(1, &buffer, false).await;
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(rig.client.next().await, Some(Seen::Reply(1)));
    assert!(timeout(LONG, rig.client.next()).await.is_err());
    rig.client.control(Control::WindowUpdate { stream: 0, delta: 1 }).await;
    rig.client.data(1, &buffer[..1], false).await;
    stream.read_u8().await.unwrap();
    let update = |stream| Some(Seen::Control(Control::WindowUpdate { stream, delta: 40_001 }));
    assert_eq!(rig.client.next().await, update(1));
    assert_eq!(rig.client.next().await, update(0));
}

#[tokio::test]
async fn windows_that_overflow_end_the_stream_or_the_connection() {
    let mut rig = plain_rig();
    let _stream = rig.open(1).await;
    assert_eq!(rig.client.next().await, Some(Seen::Reply(1)));
    rig.client.control(Control::WindowUpdate { stream: 1, delta: 0x7fff_ffff }).await;
    let reset = Seen::Control(Control::RstStream { stream: 1, status: 7 });
    assert_eq!(rig.client.next().await, Some(reset));
    rig.client.control(Control::WindowUpdate { stream: 0, delta: 0x7fff_ffff }).await;
    assert_eq!(rig.client.receiver.rest().await, [Control::GoAway { last: 1, status: 1 }]);
    assert!(matches!(rig.server.await.unwrap(), Err(Error::Window)));
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_can_move_is_idle() {
    // Both sides wait for each other; the pings that we send then are no sign of life.
    let limits =
        Limits { buffered: 1000, floor: 100, idle: Some(Duration::from_secs(60)), ..Limits::default() };
    let mut rig = rig(limits, 1000);
    let _stream = rig.open(1).await;
    let (mut sender, mut receiver) = (rig.client.sender, rig.client.receiver);
    tokio::spawn(async move { sender.data(1, &[0; 9000], false).await });
    receiver.rest().await;
    assert!(matches!(rig.server.await.unwrap(), Err(Error::Idle(_))));
}

//! Clients that mean harm: each is stopped, is told so, and costs no more than its limit.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::timeout;

use super::{Rig, plain_rig, rig};
use crate::spdy::client::Seen;
use crate::spdy::frame::Control;
use crate::spdy::headers::HeaderError;
use crate::spdy::limits::Rate;
use crate::spdy::{Connection, Error, Limits};

/// What the server made of it, having said GOAWAY. For paused clocks: the time is up when nothing moves any more.
async fn outcome(mut rig: Rig) -> Error {
    let rest = timeout(Duration::from_secs(10), rig.client.receiver.rest()).await.unwrap();
    assert!(matches!(rest.last(), Some(Control::GoAway { status: 1, .. })), "{rest:?}");
    rig.server.await.unwrap().unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_control_frame_above_the_limit_is_refused_when_it_is_announced() {
    let mut rig = plain_rig();
    // SYN_STREAM with 16 MiB to come, of which nothing comes.
    rig.client.sender.raw(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).await;
    assert!(matches!(outcome(rig).await, Error::TooLong { kind: 1, length: 0xff_ffff, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_header_block_that_unfolds_without_end_is_refused() {
    let mut rig = plain_rig();
    let mut bomb = vec![0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0xff, 0xff, 0xff];
    bomb.resize(10 << 20, 0);
    let block = rig.client.sender.block(&bomb);
    assert!(block.len() < 16 << 10, "{}", block.len());
    rig.client.control(Control::SynStream { stream: 1, fin: false, unidirectional: false, block }).await;
    let error = outcome(rig).await;
    assert!(matches!(error, Error::Headers { stream: 1, cause: HeaderError::TooLarge(_) }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_twice_in_a_header_block_is_refused() {
    let mut rig = plain_rig();
    rig.client.syn(1, &[("port", "1"), ("port", "2")]).await;
    assert!(matches!(outcome(rig).await, Error::Headers { cause: HeaderError::Duplicate, .. }));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_spdy_is_refused() {
    let mut rig = plain_rig();
    rig.client.sender.raw(&[0x80, 2, 0, 1, 0, 0, 0, 10]).await;
    assert!(matches!(outcome(rig).await, Error::Version(2)));
}

#[tokio::test(start_paused = true)]
async fn stream_numbers_only_rise_and_are_odd() {
    for (first, second) in [(3, 1), (3, 3), (1, 2), (1, 0)] {
        let mut rig = plain_rig();
        rig.client.syn(first, &[]).await;
        rig.client.syn(second, &[]).await;
        let error = outcome(rig).await;
        assert!(
            matches!(error, Error::StreamId { stream, last } if stream == second && last == first),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_ended_ones_make_room() {
    let mut rig = rig(Limits { streams: 2, ..Limits::default() }, 4096);
    let (first, _second) = (rig.open(1).await, rig.open(3).await);
    for stream in [1, 3] {
        assert_eq!(rig.client.next().await, Some(Seen::Reply(stream)));
    }
    rig.client.syn(5, &[]).await;
    let reset = |stream, status| Some(Seen::Control(Control::RstStream { stream, status }));
    assert_eq!(rig.client.next().await, reset(5, 3));
    drop(first);
    assert_eq!(rig.client.next().await, reset(1, 5));
    drop(rig.open(7).await);
    assert_eq!(rig.client.next().await, Some(Seen::Reply(7)));
}

#[tokio::test]
async fn streams_that_are_reset_at_once_count_until_they_were_looked_at() {
    // The attack on HTTP/2 called rapid reset (CVE-2023-44487): its streams cost the server, not the client.
    let mut rig = rig(Limits { streams: 10, ..Limits::default() }, 1 << 20);
    for stream in (1..200).step_by(2) {
        rig.client.syn(stream, &[]).await;
        rig.client.control(Control::RstStream { stream, status: 5 }).await;
    }
    rig.client.control(Control::Ping(1)).await;
    let mut refused = 0;
    loop {
        match rig.client.next().await.unwrap() {
            Seen::Control(Control::RstStream { status: 3, .. }) => refused += 1,
            Seen::Control(Control::Ping(1)) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 90);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_streams_ends_the_connection() {
    let mut rig = rig(Limits { opened: Rate { per_second: 10, burst: 100 }, ..Limits::default() }, 1 << 20);
    for stream in (1..1000).step_by(2) {
        rig.client.syn(stream, &[]).await;
    }
    assert!(matches!(outcome(rig).await, Error::Flood("streams")));
}

#[tokio::test(start_paused = true)]
async fn floods_of_frames_that_move_nothing_end_the_connection() {
    let frames = [
        Control::Ping(1),
        Control::Ping(2),
        Control::Settings(Vec::new()),
        Control::Unknown(10),
        Control::Headers { stream: 3, fin: false, block: Bytes::new() },
        Control::WindowUpdate { stream: 0, delta: 1 },
        Control::WindowUpdate { stream: 1, delta: 1 },
        Control::WindowUpdate { stream: 9, delta: 1 },
    ];
    for frame in frames {
        let mut rig = rig(Limits::default(), 1 << 20);
        let _stream = rig.open(1).await;
        for _ in 0..1000 {
            rig.client.control(frame.clone()).await;
        }
        let error = outcome(rig).await;
        assert!(matches!(error, Error::Flood(_) | Error::Headers { .. }), "{frame:?}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_empty_data_ends_the_connection() {
    let mut rig = rig(Limits::default(), 1 << 20);
    let _stream = rig.open(1).await;
    for _ in 0..1000 {
        _ = rig.client.sender.data(1, b"", false).await;
    }
    assert!(matches!(outcome(rig).await, Error::Flood("empty data frames")));
}

#[tokio::test(start_paused = true)]
async fn data_for_a_stream_that_never_was_is_refused_and_not_for_ever() {
    let mut rig = rig(Limits::default(), 1 << 20);
    rig.client.data(9, b"x", false).await;
    assert_eq!(rig.client.next().await, Some(Seen::Control(Control::RstStream { stream: 9, status: 2 })));
    for _ in 0..1000 {
        _ = rig.client.sender.data(9, b"x", false).await;
    }
    assert!(matches!(outcome(rig).await, Error::Flood(_)));
}

#[tokio::test]
async fn data_that_comes_late_is_passed_over() {
    let mut rig = plain_rig();
    drop(rig.open(1).await);
    for _ in 0..1000 {
        rig.client.data(1, b"late", false).await;
    }
    let mut stream = rig.open(3).await;
    rig.client.data(3, b"in time", true).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "in time");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_and_never_reads_is_not_read_from() {
    let limits =
        Limits { answers: 200, idle_frames: Rate { per_second: 0, burst: 10_000 }, ..Limits::default() };
    let mut rig = rig(limits, 1000);
    let (mut sender, mut receiver) = (rig.client.sender, rig.client.receiver);
    let asking = tokio::spawn(async move {
        for _ in 0..9_999 {
            sender.control(Control::Ping(1)).await;
        }
        sender
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!asking.is_finished());
    for _ in 0..9_999 {
        while receiver.next().await != Some(Seen::Control(Control::Ping(1))) {}
    }
    asking.await.unwrap();
    assert!(!rig.server.is_finished());
    drop(receiver);
    rig.streams.next().await;
}

#[tokio::test]
async fn a_data_frame_of_any_length_is_passed_on_in_parts() {
    let mut rig = plain_rig();
    let mut stream = rig.open(1).await;
    // 16 MiB announced, 5 bytes sent.
    rig.client.sender.raw(&[0, 0, 0, 1, 1, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5]).await;
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(buffer, [1, 2, 3, 4, 5]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_bytes_end_in_order(
        head in prop::sample::select(vec![1_u8, 2, 3, 4, 6, 7, 8, 9, 10]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        chunk in 1_usize..40,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = duplex(64);
            let (connection, mut streams, _closer) = Connection::new(ours, Limits::default());
            let (mut from, mut to) = tokio::io::split(theirs);
            let server = tokio::spawn(connection.run());
            let taking = tokio::spawn(async move {
                while let Some(incoming) = streams.next().await {
                    tokio::spawn(async move {
                        let Some(mut stream) = incoming.accept() else { return };
                        let mut text = Vec::new();
                        _ = stream.read_to_end(&mut text).await;
                        _ = stream.write_all(&text).await;
                    });
                }
            });
            let reading = tokio::spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
            let frame = [&[0x80, 3, 0, head, 0, 0, 0, bytes.len().min(255) as u8], &bytes[..]].concat();
            for part in frame.chunks(chunk) {
                if to.write_all(part).await.is_err() {
                    break;
                }
            }
            _ = to.shutdown().await;
            _ = server.await.unwrap();
            taking.await.unwrap();
            _ = reading.await.unwrap();
        });
    }
}

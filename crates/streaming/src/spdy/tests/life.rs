//! Streams that do what they should.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{echo, plain_rig, rig};
use crate::spdy::client::Seen;
use crate::spdy::frame::Control;
use crate::spdy::headers::{Headers, plain};
use crate::spdy::{Error, KEEP_ALIVE, LINGER, Limits};

#[tokio::test]
async fn headers_arrive_and_a_reply_comes_before_data() {
    let mut rig = plain_rig();
    rig.client.syn(1, &[("streamtype", "stdin"), ("port", "80")]).await;
    let incoming = rig.streams.next().await.unwrap();
    assert_eq!(incoming.headers().get("streamtype"), Some("stdin"));
    assert_eq!(incoming.headers().get("port"), Some("80"));
    let mut stream = incoming.accept().unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(rig.client.next().await, Some(Seen::Reply(1)));
    assert_eq!(rig.client.next().await, Some(Seen::Data { stream: 1, bytes: b"x".to_vec(), fin: false }));
}

#[tokio::test]
async fn either_side_may_end_its_direction_first() {
    let mut rig = plain_rig();
    // Ours first: the client goes on sending.
    let mut stream = rig.open(1).await;
    stream.write_all(b"all").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rig.client.until_end().await, (1, b"all".to_vec()));
    assert_eq!(stream.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    rig.client.data(1, b"and ", false).await;
    rig.client.data(1, b"theirs", true).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "and theirs");
    // Theirs first: we go on sending.
    let mut stream = rig.open(3).await;
    rig.client.data(3, b"", true).await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    stream.write_all(b"late").await.unwrap();
    stream.finish();
    assert_eq!(rig.client.until_end().await, (3, b"late".to_vec()));
}

#[tokio::test]
async fn a_hundred_mebibytes_pass_while_fifty_others_work() {
    const BIG: usize = 100 << 20;
    let mut rig = plain_rig();
    for number in 0..51 {
        tokio::spawn(echo(rig.open(number * 2 + 1).await));
    }
    let (mut sender, mut receiver) = (rig.client.sender, rig.client.receiver);
    let sending = tokio::spawn(async move {
        let block: Vec<u8> = (0..32 << 10).map(|at: u32| (at % 251) as u8).collect();
        for round in 0..BIG / block.len() {
            sender.data(1, &block, false).await.unwrap();
            let other = (round % 50) as u32 * 2 + 3;
            sender.data(other, &round.to_be_bytes(), false).await.unwrap();
        }
        for number in 0..51 {
            sender.data(number * 2 + 1, b"", true).await.unwrap();
        }
        sender
    });
    let mut got = vec![0_usize; 51];
    let mut ends = 0;
    while ends < 51 {
        let Some(Seen::Data { stream, bytes, fin }) = receiver.next().await else { continue };
        let at = (stream / 2) as usize;
        if at == 0 {
            let right =
                bytes.iter().zip(got[0]..).all(|(byte, at)| usize::from(*byte) == at % (32 << 10) % 251);
            assert!(right, "after {} bytes", got[0]);
        }
        got[at] += bytes.len();
        ends += u32::from(fin);
    }
    assert_eq!(got[0], BIG);
    assert!(got[1..].iter().all(|length| *length == BIG / (32 << 10) / 50 * 8));
    sending.await.unwrap();
}

#[tokio::test]
async fn what_is_dropped_unfinished_is_reset_and_what_is_finished_is_not() {
    let mut rig = plain_rig();
    let mut stream = rig.open(1).await;
    stream.write_all(b"half").await.unwrap();
    drop(stream);
    let mut stream = rig.open(3).await;
    stream.write_all(b"whole").await.unwrap();
    stream.finish();
    drop(stream);
    assert_eq!(rig.client.until_end().await, (3, b"whole".to_vec()));
    rig.closer.close();
    rig.client.control(Control::Ping(1)).await;
    let mut resets = Vec::new();
    drop(rig.client.sender);
    for frame in rig.client.receiver.rest().await {
        if let Control::RstStream { stream, status } = frame {
            resets.push((stream, status));
        }
    }
    assert!(resets.is_empty() || resets == [(1, 5)], "{resets:?}");
}

#[tokio::test]
async fn a_reset_is_seen_by_reader_and_writer_after_what_came_before() {
    let mut rig = plain_rig();
    let mut stream = rig.open(1).await;
    rig.client.data(1, b"before", false).await;
    rig.client.control(Control::RstStream { stream: 1, status: 5 }).await;
    let mut text = Vec::new();
    assert_eq!(stream.read_to_end(&mut text).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(text, b"before");
    assert_eq!(stream.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn the_end_of_the_connection_is_no_end_of_file() {
    let mut rig = plain_rig();
    let (mut stream, mut ended) = (rig.open(1).await, rig.open(3).await);
    rig.client.data(1, b"half", false).await;
    rig.client.data(3, b"whole", true).await;
    drop(rig.client);
    rig.server.await.unwrap().unwrap();
    let mut text = Vec::new();
    assert_eq!(stream.read_to_end(&mut text).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(text, b"half");
    text.clear();
    ended.read_to_end(&mut text).await.unwrap();
    assert_eq!(text, b"whole");
    assert_eq!(stream.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert!(rig.streams.next().await.is_none());
}

#[tokio::test]
async fn a_cancelled_connection_ends_its_streams() {
    let mut rig = plain_rig();
    let mut stream = rig.open(1).await;
    rig.server.abort();
    assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test(start_paused = true)]
async fn closing_sends_what_is_written_refuses_streams_and_waits_for_the_peer_to_go() {
    let mut rig = rig(Limits::default(), 1000);
    let mut stream = rig.open(1).await;
    let text = vec![7; 50_000];
    stream.write_all(&text).await.unwrap();
    stream.finish();
    rig.closer.close();
    let began = Instant::now();
    assert_eq!(rig.client.until_end().await, (1, text));
    rig.client.syn(3, &[]).await;
    let rest = rig.client.receiver.rest().await;
    let expected = [Control::RstStream { stream: 3, status: 3 }, Control::GoAway { last: 3, status: 0 }];
    assert_eq!(rest, expected);
    assert!(began.elapsed() >= LINGER && began.elapsed() < LINGER * 2, "{:?}", began.elapsed());
    rig.server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_goaway_may_end_its_streams() {
    let mut rig = plain_rig();
    let mut stream = rig.open(1).await;
    rig.client.control(Control::GoAway { last: 0, status: 0 }).await;
    rig.client.data(1, b"last", true).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "last");
    rig.server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_and_what_moves_nothing_does_not_keep_it() {
    let limits = Limits { idle: Some(Duration::from_secs(60)), ..Limits::default() };
    let mut rig = rig(limits, 1000);
    let began = Instant::now();
    let mut stream = rig.open(1).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    rig.client.data(1, b"x", false).await;
    stream.read_u8().await.unwrap();
    let pings = async {
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let block = rig.client.sender.block(&plain(&Headers::default()));
            for frame in [
                Control::Ping(1),
                Control::Headers { stream: 1, fin: false, block },
                Control::WindowUpdate { stream: 1, delta: 1 },
                Control::RstStream { stream: 9, status: 5 },
            ] {
                rig.client.sender.control(frame).await;
            }
            _ = rig.client.sender.data(1, b"", false).await;
        }
    };
    let rest =
        tokio::select! { () = pings => panic!("it goes on"), rest = rig.client.receiver.rest() => rest };
    assert_eq!(began.elapsed().as_secs(), 100);
    assert_eq!(rest.last(), Some(&Control::GoAway { last: 1, status: 0 }));
    assert!(matches!(rig.server.await.unwrap(), Err(Error::Idle(_))));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_while_it_is_not_read_from_is_noticed() {
    let limits = Limits { buffered: 1000, floor: 100, ..Limits::default() };
    let mut rig = rig(limits, 4000);
    let _stream = rig.open(1).await;
    assert_eq!(rig.client.next().await, Some(Seen::Reply(1)));
    rig.client.data(1, &[0; 4000], false).await;
    let began = Instant::now();
    assert_eq!(rig.client.next().await, Some(Seen::Control(Control::Ping(2))));
    assert_eq!(began.elapsed(), KEEP_ALIVE);
    drop(rig.client);
    assert!(matches!(rig.server.await.unwrap(), Err(Error::Write(_))));
}

//! Commands and attachments over every sub-protocol.

use futures::{SinkExt, StreamExt};
use sha2::{Digest, Sha256};
use streaming::{Size, Streams};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::client::{PROTOCOLS, connect, next};
use crate::patience::{patience, until};
use crate::processes::{ALL, node};

const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

/// What the error stream has for an exit code.
fn expected(protocol: &str, code: i32) -> String {
    let has_status = protocol.starts_with("v4") || protocol.starts_with("v5");
    let words = format!("command terminated with non-zero exit code: {code}");
    match (has_status, code) {
        (true, 0) => SUCCESS.to_owned(),
        (false, 0) => String::new(),
        (false, _) => words,
        (true, _) => format!(
            r#"{{"metadata":{{}},"status":"Failure","message":"{words}","reason":"NonZeroExitCode","details":{{"causes":[{{"reason":"ExitCode","message":"{code}"}}]}}}}"#
        ),
    }
}

#[tokio::test]
async fn output_and_exit_codes_come_over_every_protocol() {
    let node = node();
    for protocol in PROTOCOLS {
        for (tty, stdin, code) in [(false, false, 0), (false, true, 7), (true, true, 0), (true, false, 137)] {
            let streams = Streams { stdin, stdout: true, stderr: !tty, tty };
            let url = node.exec(&format!("say hello {code}"), streams);
            let heard = connect(&url, protocol).await.unwrap().heard().await;
            assert_eq!(heard.channels[1], b"hello", "{protocol}");
            assert_eq!(heard.channels[2], if tty { &b""[..] } else { b"hello" }, "{protocol}");
            assert_eq!(heard.error(), expected(protocol, code), "{protocol}");
            assert_eq!(heard.close.unwrap().code, CloseCode::Normal, "{protocol}");
        }
    }
    node.processes.live(0).await;
}

#[tokio::test]
async fn only_what_was_asked_for_comes() {
    let node = node();
    for wanted in [1, 2] {
        let streams = Streams { stdin: false, stdout: wanted == 1, stderr: wanted == 2, tty: false };
        let url = node.exec("say hello 0", streams);
        let mut client = connect(&url, "v4.channel.k8s.io").await.unwrap();
        assert_eq!(client.next().await.unwrap(), (wanted, vec![]), "the first message is empty");
        client.send(0, b"nobody wants it").await;
        let heard = client.heard().await;
        assert_eq!(heard.channels[wanted], b"hello");
        assert_eq!(heard.channels[3 - wanted], b"");
        assert_eq!(heard.error(), SUCCESS);
    }
}

#[tokio::test]
async fn input_gets_there_over_every_protocol() {
    let node = node();
    for protocol in PROTOCOLS {
        let url = node.exec("head 8", ALL);
        let mut client = connect(&url, protocol).await.unwrap();
        client.send(0, b"1234").await;
        client.send(0, b"").await;
        client.send(9, b"a channel that is not there").await;
        client.send(0, b"5678, and what nobody reads").await;
        let heard = client.heard().await;
        assert_eq!(heard.channels[1], b"12345678", "{protocol}");
        assert_eq!(heard.error(), expected(protocol, 3), "{protocol}");
    }
    node.processes.live(0).await;
}

#[tokio::test]
async fn version_5_ends_the_input_and_the_output_goes_on() {
    let node = node();
    let mut client = connect(&node.exec("cat", ALL), "v5.channel.k8s.io").await.unwrap();
    client.send(0, b"last words").await;
    client.socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    client.socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    client.send(0, b"too late").await;
    let heard = client.heard().await;
    assert_eq!((&heard.channels[1][..], heard.error()), (&b"last words"[..], SUCCESS));
}

#[tokio::test]
async fn what_cannot_be_ends_the_connection() {
    let node = node();
    let bad = [
        ("v5.channel.k8s.io", Message::Binary(vec![255].into()), CloseCode::Invalid),
        ("v4.base64.channel.k8s.io", Message::Text("0***".into()), CloseCode::Invalid),
        ("v4.channel.k8s.io", Message::Binary(vec![0; (32 << 20) + 1].into()), CloseCode::Size),
    ];
    for (protocol, message, code) in bad {
        let mut client = connect(&node.exec("sleep", ALL), protocol).await.unwrap();
        let _cut_off = client.socket.send(message).await;
        let close = client.heard().await.close;
        assert!(close.as_ref().is_none_or(|frame| frame.code == code), "{protocol}: {close:?}");
        node.processes.live(0).await;
    }
}

/// What a long message gives back, or how the session ended.
async fn echo(url: &str, bytes: usize) -> Result<usize, Option<CloseFrame>> {
    let mut client = connect(url, "v4.channel.k8s.io").await.unwrap();
    let _cut_off = client.socket.send(Message::Binary(vec![0; 1 + bytes].into())).await;
    let mut got = 0;
    while got < bytes {
        let (channel, bytes) = client.next().await?;
        assert!(channel == 1 || bytes.is_empty(), "{channel}");
        got += bytes.len();
    }
    Ok(got)
}

#[tokio::test]
async fn long_messages_share_what_there_is_for_them() {
    const LONG: usize = 20 << 20;
    let node = node();
    assert_eq!(echo(&node.exec("cat", ALL), LONG).await.unwrap(), LONG);
    // Four that announce 32 MiB and send nothing of it take nothing from anybody, but do when they send nearly all of it.
    let mut holders = Vec::new();
    for _ in 0..4 {
        let mut client = connect(&node.exec("sleep", ALL), "v4.channel.k8s.io").await.unwrap();
        let header = [&[0x82, 0xff][..], &(32_u64 << 20).to_be_bytes(), b"key!"].concat();
        client.socket.get_mut().write_all(&header).await.unwrap();
        holders.push(client);
    }
    assert_eq!(echo(&node.exec("cat", ALL), LONG).await.unwrap(), LONG);
    for client in &mut holders {
        client.socket.get_mut().write_all(&vec![0; 31 << 20]).await.unwrap();
    }
    let refused = async {
        while !matches!(echo(&node.exec("cat", ALL), LONG).await, Err(Some(frame)) if frame.code == CloseCode::Again)
        {
        }
    };
    tokio::time::timeout(patience(), refused).await.expect("others have the room");
    assert_eq!(echo(&node.exec("cat", ALL), 100 << 10).await.unwrap(), 100 << 10);
    holders.clear();
    let again = async { while echo(&node.exec("cat", ALL), LONG).await.is_err() {} };
    tokio::time::timeout(patience(), again).await.expect("there is room again");
    node.processes.live(0).await;
}

#[tokio::test]
async fn a_flood_of_what_carries_nothing_ends_the_connection() {
    let node = node();
    let floods = [
        Message::Ping(vec![0; 125].into()),
        Message::Pong(vec![].into()),
        Message::Binary(vec![].into()),
        Message::Binary(vec![0].into()),
        Message::Binary(b"\x09a channel that is not there".to_vec().into()),
        Message::Binary(vec![255, 9].into()),
    ];
    for message in floods {
        let mut client = connect(&node.exec("sleep", ALL), "v5.channel.k8s.io").await.unwrap();
        node.processes.live(1).await;
        // It isn't read from meanwhile: answers wait within bounds. Nor is it the end of sending that tells the end of the session,
        // behind which what still comes is thrown away for a while.
        let mut sent = 0;
        while sent < 1_000_000
            && node.processes.count() > 0
            && client.socket.send(message.clone()).await.is_ok()
        {
            sent += 1;
        }
        assert!((200..1_000_000).contains(&sent), "{message:?}: {sent}");
        node.processes.live(0).await;
    }
}

#[tokio::test]
async fn a_flood_of_frames_that_carry_nothing_ends_the_connection() {
    let node = node();
    let tunnelled = "SPDY/3.1+portforward.k8s.io";
    for (url, protocol) in [(node.exec("sleep", ALL), "v5.channel.k8s.io"), (node.forward(&[]), tunnelled)] {
        let mut client = connect(&url, protocol).await.unwrap();
        // A message is begun, and never ended (RFC 6455, section 5.4).
        client.socket.get_mut().write_all(b"\x02\x81\0\0\0\0\0").await.unwrap();
        let frames = b"\x00\x80\0\0\0\0".repeat(1_000);
        let mut sent = 0;
        while sent < 5_000 && client.socket.get_mut().write_all(&frames).await.is_ok() {
            sent += 1;
        }
        assert!(sent < 5_000, "{protocol}: nobody minds five million");
        node.processes.live(0).await;
    }
}

#[tokio::test]
async fn a_message_of_many_frames_arrives() {
    let node = node();
    let mut client = connect(&node.exec("head 3000", ALL), "v5.channel.k8s.io").await.unwrap();
    for _ in 0..1_000 {
        // As Go's clients cut: the last frame may carry nothing.
        let frames = b"\x02\x82\0\0\0\0\0x\x00\x82\0\0\0\0yz\x80\x80\0\0\0\0";
        client.socket.get_mut().write_all(frames).await.unwrap();
    }
    assert_eq!(client.heard().await.channels[1], b"xyz".repeat(1_000));
}

#[tokio::test]
async fn what_is_no_frame_of_a_client_s_ends_the_connection() {
    let node = node();
    // RFC 6455, 5.1, 5.2 and 5.5: a client masks, RSV1 means an extension that nobody has agreed to, and a ping has 125 bytes at most.
    let long_ping = [&b"\x89\xfe\x00\x7e\x00\x00\x00\x00"[..], &[0; 126]].concat();
    for wrong in [&b"\x82\x01\x00"[..], b"\xc2\x81\x00\x00\x00\x00\x00", &long_ping] {
        let mut client = connect(&node.exec("sleep", ALL), "v5.channel.k8s.io").await.unwrap();
        node.processes.live(1).await;
        client.socket.get_mut().write_all(wrong).await.unwrap();
        let close = client.heard().await.close;
        assert!(close.as_ref().is_none_or(|frame| frame.code == CloseCode::Protocol), "{wrong:?}: {close:?}");
        node.processes.live(0).await;
    }
}

#[tokio::test]
async fn a_terminal_has_the_size_of_the_client_s() {
    let node = node();
    let streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
    for protocol in PROTOCOLS {
        let mut client = connect(&node.exec("head 1", streams), protocol).await.unwrap();
        client.send(4, br#"{"Width":80,"Hei"#).await;
        client.send(4, br#"ght":24}{"Width":132,"Height":43}"#).await;
        let expected = [Size { columns: 80, rows: 24 }, Size { columns: 132, rows: 43 }];
        until("the sizes", || {
            let sizes = node.processes.sizes.lock().unwrap();
            if *sizes == expected { Ok(()) } else { Err(sizes.clone()) }
        })
        .await;
        node.processes.sizes.lock().unwrap().clear();
        client.send(0, b"x").await;
        assert_eq!(client.heard().await.channels[1], b"x");
    }
}

#[tokio::test]
async fn who_cannot_be_started_or_is_cut_off_is_told_why() {
    let node = node();
    let heard = connect(&node.exec("missing", ALL), "v4.channel.k8s.io").await.unwrap().heard().await;
    let status: serde_json::Value = serde_json::from_str(heard.error()).unwrap();
    assert_eq!((&status["status"], &status["code"]), (&"Failure".into(), &500.into()));
    assert_eq!(
        status["message"],
        "Internal error occurred: error executing command in container: \"missing\" is not there"
    );
    let heard = connect(&node.attach("detach slow", ALL), "v4.channel.k8s.io").await.unwrap().heard().await;
    assert!(heard.error().contains("error attaching to container: slow"), "{}", heard.error());
}

/// As the issue has it: 100 MiB through `cat` come back as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mebibytes_come_back_as_they_were() {
    const BYTES: usize = 100 << 20;
    let node = node();
    let chunk: Vec<u8> =
        (0..32u32 << 10).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut sent = Sha256::new();
    (0..BYTES / chunk.len()).for_each(|_| sent.update(&chunk));
    let sent = sent.finalize();
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        let client = connect(&node.exec("cat", ALL), protocol).await.unwrap();
        let (message, is_text) = (client.message(0, &chunk), client.is_text);
        let (mut sink, mut stream) = client.socket.split();
        let sending = tokio::spawn(async move {
            for _ in 0..BYTES >> 15 {
                sink.send(message.clone()).await.unwrap();
            }
            sink
        });
        let (mut got, mut count) = (Sha256::new(), 0);
        while count < BYTES {
            let (channel, bytes) = next(&mut stream, is_text).await.unwrap();
            assert_eq!(channel, 1);
            got.update(&bytes);
            count += bytes.len();
        }
        assert_eq!(got.finalize(), sent, "{protocol}");
        drop((sending.await.unwrap(), stream));
        node.processes.live(0).await;
    }
}

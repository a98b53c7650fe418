use proptest::prelude::*;

use super::*;

fn frames() -> impl Strategy<Value = Control> {
    let number = || 0..=STREAM_MASK;
    let block = || prop::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    prop_oneof![
        (number(), any::<bool>(), any::<bool>(), block()).prop_map(|(stream, fin, unidirectional, block)| {
            Control::SynStream { stream, fin, unidirectional, block }
        }),
        (number(), any::<bool>(), block()).prop_map(|(stream, fin, block)| Control::SynReply {
            stream,
            fin,
            block
        }),
        (number(), any::<bool>(), block()).prop_map(|(stream, fin, block)| Control::Headers {
            stream,
            fin,
            block
        }),
        (number(), any::<u32>()).prop_map(|(stream, status)| Control::RstStream { stream, status }),
        prop::collection::vec((0..=LENGTH_MASK, any::<u32>()), 0..5).prop_map(Control::Settings),
        any::<u32>().prop_map(Control::Ping),
        (number(), any::<u32>()).prop_map(|(last, status)| Control::GoAway { last, status }),
        (number(), number()).prop_map(|(stream, delta)| Control::WindowUpdate { stream, delta }),
    ]
}

#[derive(Debug, Clone)]
enum Sent {
    Control(Control),
    Data(u32, Vec<u8>, bool),
}

fn sent() -> impl Strategy<Value = Sent> {
    let data = (0..=STREAM_MASK, prop::collection::vec(any::<u8>(), 0..300), any::<bool>());
    prop_oneof![
        frames().prop_map(Sent::Control),
        data.prop_map(|(stream, data, fin)| Sent::Data(stream, data, fin))
    ]
}

proptest! {
    #[test]
    fn any_frames_come_back_however_they_are_cut(sent in prop::collection::vec(sent(), 0..20), chunk in 1_usize..64) {
        let mut bytes = BytesMut::new();
        for frame in &sent {
            match frame {
                Sent::Control(frame) => frame.encode(&mut bytes),
                Sent::Data(stream, data, fin) => {
                    encode_data_head(*stream, data.len(), *fin, &mut bytes);
                    bytes.extend_from_slice(data);
                }
            }
        }
        let (mut decoder, mut buffer) = (Decoder::new(1000), BytesMut::new());
        let mut expected = sent.into_iter();
        let mut data = Vec::new();
        for part in bytes.chunks(chunk) {
            buffer.extend_from_slice(part);
            while let Some(event) = decoder.next(&mut buffer).unwrap() {
                match event {
                    Event::Control(frame) => match expected.next() {
                        Some(Sent::Control(sent)) => prop_assert_eq!(frame, sent),
                        other => prop_assert!(false, "{frame:?} for {other:?}"),
                    },
                    Event::Data { stream, bytes, fin } => {
                        data.extend_from_slice(&bytes);
                        let Some(Sent::Data(to, sent, ends)) = expected.as_slice().first() else {
                            return Err(TestCaseError::fail("data instead of a control frame"));
                        };
                        prop_assert_eq!(stream, *to);
                        if data.len() == sent.len() {
                            prop_assert_eq!(&data, sent);
                            prop_assert_eq!(fin, *ends);
                            data.clear();
                            expected.next();
                        } else {
                            prop_assert!(!fin);
                        }
                    }
                }
            }
        }
        prop_assert_eq!(expected.len(), 0);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_kept_beyond_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let (mut decoder, mut buffer) = (Decoder::new(50), BytesMut::new());
        'all: for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            loop {
                match decoder.next(&mut buffer) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
            prop_assert!(buffer.len() < HEAD + 50);
        }
    }
}

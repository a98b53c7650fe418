//! Whatever happens in whatever order: what is counted is what is there, and it is bounded.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Syn { fin: bool },
    Data { stream: u32, length: usize, fin: bool },
    Reset(u32),
    Window { stream: u32, delta: u32 },
    Setting(u32),
    Read { stream: u32, length: usize },
    Write { stream: u32, length: usize },
    Finish(u32),
    Cancel(u32),
    Discard(u32),
    Release(u32),
    Collect,
    End,
}

fn steps() -> impl Strategy<Value = Step> {
    let stream = || (0_u32..6).prop_map(|number| number * 2 + 1);
    prop_oneof![
        3 => any::<bool>().prop_map(|fin| Step::Syn { fin }),
        6 => (stream(), 0_usize..300, prop::bool::weighted(0.1))
            .prop_map(|(stream, length, fin)| Step::Data { stream, length, fin }),
        1 => stream().prop_map(Step::Reset),
        1 => (stream(), 0_u32..100).prop_map(|(stream, delta)| Step::Window { stream: stream - 1, delta }),
        1 => (0_u32..200).prop_map(Step::Setting),
        4 => (stream(), 0_usize..300).prop_map(|(stream, length)| Step::Read { stream, length }),
        6 => (stream(), 0_usize..300).prop_map(|(stream, length)| Step::Write { stream, length }),
        1 => stream().prop_map(Step::Finish),
        1 => stream().prop_map(Step::Cancel),
        1 => stream().prop_map(Step::Discard),
        1 => stream().prop_map(Step::Release),
        2 => Just(Step::Collect),
        1 => prop::bool::weighted(0.02).prop_map(|end| if end { Step::End } else { Step::Collect }),
    ]
}

fn carry_out(state: &mut State, step: Step) {
    match step {
        Step::Syn { fin } => _ = state.on_syn_stream(state.last + 2 - (state.last + 1) % 2, fin, false),
        Step::Data { stream, length, fin } => _ = state.on_data(stream, &mut BytesMut::zeroed(length), fin),
        Step::Reset(stream) => state.on_rst_stream(stream),
        Step::Window { stream, delta } => _ = state.on_window_update(stream, delta),
        Step::Setting(value) => _ = state.on_settings(&[(frame::SETTING_INITIAL_WINDOW, value)]),
        Step::Read { stream, length } => {
            let Some(entry) = state.streams.get_mut(&stream) else { return };
            let length = length.min(entry.incoming.len());
            entry.incoming.advance(length);
            state.took(stream, length);
        }
        Step::Write { stream, length } => {
            if state.streams.get(&stream).is_some_and(|entry| entry.ours == Ours::Open) {
                state.offer(stream, &vec![0; length]);
            }
        }
        Step::Finish(stream) => state.finish(stream),
        Step::Cancel(stream) => state.reset(stream, Reset::Cancel),
        Step::Discard(stream) => state.discard(stream),
        Step::Release(stream) => {
            // As handles do: who lets go has finished or resets.
            state.discard(stream);
            if state.streams.get(&stream).is_some_and(|entry| entry.ours == Ours::Open) {
                state.reset(stream, Reset::Cancel);
            }
            state.release(stream);
        }
        Step::Collect => state.collect(&mut BytesMut::new()),
        Step::End => state.end(),
    }
}

proptest! {
    #[test]
    fn what_is_counted_is_there_and_bounded(steps in prop::collection::vec(steps(), 0..200)) {
        let limits = Limits { streams: 4, buffered: 500, floor: 50, outgoing: 200, ..Limits::default() };
        let bound = limits.buffered + limits.streams * limits.floor;
        let mut state = State::new(limits);
        for step in steps {
            carry_out(&mut state, step);
            let sum = |of: fn(&Entry) -> usize| state.streams.values().map(of).sum::<usize>();
            prop_assert_eq!(state.incoming, sum(|entry| entry.incoming.len()));
            prop_assert_eq!(state.outgoing, sum(|entry| entry.outgoing.len()));
            prop_assert!(state.incoming <= bound && state.outgoing <= bound);
            prop_assert!(state.streams.len() <= 4);
            for (stream, entry) in &state.streams {
                let queued = state.ready.iter().filter(|ready| *ready == stream).count();
                prop_assert_eq!(queued, usize::from(entry.queued));
                // Nobody who has something to send is forgotten, but for one who waits for a window.
                let sends = !entry.outgoing.is_empty() || entry.ours == Ours::Finishing;
                prop_assert!(entry.queued || !sends || state.speaks);
                let gone = entry.handles == 0 && entry.ours == Ours::Ended && entry.outgoing.is_empty();
                prop_assert!(!gone || state.ended);
            }
        }
    }
}

//! Makes scripts up: something that works most of the time, then anything.
//!
//! Few names, so that calls meet; weights, so that most of what is asked about is there.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::script::{
    Act, CONTAINERS, Call, ContainerName, Containers, Kind, Move, PODS, Phase, PodName, Script, Variant,
};

/// Milliseconds after which a call is made, a client goes away or the daemon is killed: what a start takes, and a bit.
const DELAYS: std::ops::Range<u8> = 0..40;

/// Scripts of moderate length.
pub fn scripts() -> impl Strategy<Value = Script> {
    (vec(beginning(), 1..4), vec(phase(), 1..10))
        .prop_map(|(first, then)| Script(first.into_iter().flatten().chain(then).collect()))
}

fn pod() -> impl Strategy<Value = PodName> {
    prop_oneof![
        6 => Just(PodName { name: 'a', attempt: 0 }),
        2 => Just(PodName { name: 'b', attempt: 0 }),
        1 => Just(PodName { name: 'a', attempt: 1 }),
    ]
}

fn container() -> impl Strategy<Value = ContainerName> {
    let own = prop_oneof![6 => Just(('x', 0)), 2 => Just(('y', 0)), 1 => Just(('x', 1))];
    (pod(), own).prop_map(|(pod, (name, attempt))| ContainerName { pod, name, attempt })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![3 => Just(Kind::Polite), 3 => Just(Kind::Deaf), 2 => Just(Kind::Brief), 1 => Just(Kind::Missing)]
}

/// A container on its way: made, started.
fn beginning() -> impl Strategy<Value = Vec<Phase>> {
    let length = prop_oneof![1 => Just(1), 1 => Just(2), 4 => Just(3_usize)];
    (container(), kind(), length).prop_map(|(container, kind, length)| {
        let calls =
            [Call::Run(container.pod, Variant::Usual), Call::Create(container, kind), Call::Start(container)];
        calls[..length].iter().map(|call| vec![Move { act: Act::Ask(*call, None), after: 0 }]).collect()
    })
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => prop_oneof![
            4 => pod().prop_map(|pod| Call::Run(pod, Variant::Usual)),
            1 => pod().prop_map(|pod| Call::Run(pod, Variant::Other)),
        ],
        10 => (container(), kind()).prop_map(|(container, kind)| Call::Create(container, kind)),
        12 => container().prop_map(Call::Start),
        8 => (container(), prop_oneof![6 => Just(0), 1 => Just(1)])
            .prop_map(|(container, grace)| Call::Stop(container, grace)),
        6 => container().prop_map(Call::Remove),
        4 => pod().prop_map(Call::StopPod),
        3 => pod().prop_map(Call::RemovePod),
        4 => container().prop_map(Call::Exec),
        4 => (container(), 1_u8..5).prop_map(|(container, shares)| Call::Update(container, shares)),
        6 => container().prop_map(Call::End),
        4 => looks(),
        2 => prop_oneof![Just(Call::Pull), Just(Call::Unpull), Just(Call::Image)],
    ]
}

fn looks() -> impl Strategy<Value = Call> {
    prop_oneof![
        pod().prop_map(Call::PodStatus),
        container().prop_map(Call::Status),
        proptest::sample::select(PODS.map(|(_, filter)| Call::Pods(filter)).to_vec()),
        proptest::sample::select(CONTAINERS.map(|(_, filter)| Call::Containers(filter)).to_vec()),
        pod().prop_map(|pod| Call::Containers(Containers::Of(pod))),
    ]
}

fn after() -> impl Strategy<Value = u8> {
    prop_oneof![2 => Just(0), 1 => DELAYS]
}

fn asked() -> impl Strategy<Value = Move> {
    (call(), option::weighted(0.1, DELAYS), after())
        .prop_map(|(call, patience, after)| Move { act: Act::Ask(call, patience), after })
}

/// A call alone, twice the same, a few at once; now and then the daemon is ended meanwhile.
fn phase() -> impl Strategy<Value = Phase> {
    let calls = prop_oneof![
        4 => asked().prop_map(|one| vec![one]),
        2 => asked().prop_map(|one| vec![one, one]),
        3 => vec(asked(), 2..4),
    ];
    let end = (prop_oneof![3 => Just(Act::Kill), 1 => Just(Act::Restart)], DELAYS)
        .prop_map(|(act, after)| Move { act, after });
    (calls, option::weighted(0.15, end)).prop_map(|(calls, end)| calls.into_iter().chain(end).collect())
}

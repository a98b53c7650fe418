//! bridge with ipMasq, judged by whom others see. Not here: host ports.

use serde_json::json;

use super::bridge::{dual, merged, option};
use crate::case::{Case, Names, Previous, Step, add, check, del, story};
use crate::compare::hold;
use crate::probe::{By, Question};
use crate::scratch::Place;

/// From every place that may ask to every place that may be asked, by both families.
fn everybody() -> Step {
    let targets = [
        "192.0.2.2",
        "[2001:db8::2]",
        "192.0.2.1",
        "[2001:db8::1]",
        "10.77.0.1",
        "[fd77::1]",
        "10.77.0.2",
        "[fd77::2]",
        "10.77.0.3",
        "[fd77::3]",
    ];
    let from = [Place::Pod(1), Place::Pod(2), Place::World, Place::Host];
    let questions = from.into_iter().flat_map(|from| {
        let question = move |to: &str, by| Question { from, to: format!("{to}:7000"), by };
        targets.into_iter().flat_map(move |to| [question(to, By::Tcp), question(to, By::Udp)])
    });
    Step::Ask(questions.collect())
}

/// Two pods and a world, all with servers.
fn scene() -> Vec<Step> {
    let places = [Place::Host, Place::World, Place::Pod(1), Place::Pod(2)];
    let mut steps = story![add(1).outcome(), add(2).outcome()];
    steps.extend(places.map(|place| Step::Serve(place, 7000)));
    steps
}

fn masqueraded(name: &str, steps: Vec<Step>) -> Case {
    let config = merged(dual(), json!({"isGateway": true, "ipMasq": true}));
    option(&format!("masquerade: {name}"), config).steps([scene(), steps].concat())
}

fn cases() -> Vec<Case> {
    let plain = merged(dual(), json!({"isGateway": true}));
    vec![
        option("masquerade: none", plain).steps([scene(), story![everybody()]].concat()),
        masqueraded("both families", story![everybody()]),
        masqueraded("one pod has gone", story![del(1).outcome(), everybody(), del(2).outcome(), Step::Rules]),
        masqueraded("checked", story![check(1), check(2)]),
        masqueraded(
            "multicast stays among the pods",
            story![
                Step::Multicast(Place::Pod(1), Place::Pod(2), "239.7.7.7:7001"),
                Step::Multicast(Place::Pod(2), Place::Pod(1), "[ff05::77]:7001"),
            ],
        ),
        masqueraded(
            "deleted without a result",
            story![
                del(1).previous(Previous::Nothing).outcome(),
                del(2).previous(Previous::Nothing).outcome(),
                Step::Rules,
            ],
        ),
        // Debian's knows whose rules are whose by the addresses in the pod alone, and leaves them behind.
        masqueraded(
            "the namespaces are gone",
            story![
                Step::End(Place::Pod(1)),
                Step::End(Place::Pod(2)),
                del(1).netns(Names::NothingThere).outcome(),
                del(2).netns(Names::Nothing).outcome(),
                Step::Rules,
            ],
        )
        .differs("11 rules", "Debian's leaves its rules when it finds no addresses in the pod"),
        masqueraded(
            "deleted twice",
            story![del(1).outcome(), del(1).outcome(), del(2).outcome(), del(2).outcome(), Step::Rules,],
        ),
    ]
}

#[test]
fn masquerade_is_like_the_reference() {
    hold(&cases());
}

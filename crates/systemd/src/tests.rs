//! What the manager says and does, against a stand-in.

mod real;
pub(crate) mod sent;
mod stand_in;

use std::time::Duration;

use stand_in::{Bus, Does};

use crate::{Error, Manager, Scope};

fn scope() -> Scope {
    Scope { name: "x.scope".into(), slice: "s.slice".into(), description: "d".into(), pid: 1 }
}

const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_scope_is_started_when_its_job_is_done() {
    let bus = Bus::new(LATE, &[("StartTransientUnit", Does::Job("done")), ("StopUnit", Does::Job("done"))]);
    bus.manager.start_scope(&scope()).await.unwrap();
    bus.manager.end_scope("x.scope").await.unwrap();
    assert_eq!(
        bus.calls(),
        [
            "Hello",
            "AddMatch",
            "AddMatch",
            "GetNameOwner",
            "Subscribe",
            "StartTransientUnit",
            "KillUnit",
            "StopUnit",
            "ResetFailedUnit"
        ],
        "one connection, and a call for a scope"
    );
}

#[tokio::test]
async fn what_systemd_says_is_told() {
    let exists = "org.freedesktop.systemd1.UnitExists";
    let gone = Does::Refuses("org.freedesktop.systemd1.NoSuchUnit");
    let bus = Bus::new(
        LATE,
        &[
            ("StartTransientUnit", Does::Job("failed")),
            ("StartTransientUnit", Does::Refuses(exists)),
            ("KillUnit", gone),
            ("StopUnit", gone),
            ("StopUnit", Does::Job("done")),
            ("ResetFailedUnit", gone),
            ("StopUnit", Does::Refuses("org.freedesktop.DBus.Error.AccessDenied")),
            ("ListUnitsByPatterns", Does::Lists),
        ],
    );
    let error = bus.manager.start_scope(&scope()).await.unwrap_err();
    assert_eq!(error.to_string(), "the job for \"x.scope\" ended with \"failed\"");
    let error = bus.manager.start_scope(&scope()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("StartTransientUnit is refused: so it is ({exists})"));
    bus.manager.end_scope("x.scope").await.unwrap();
    bus.manager.end_scope("x.scope").await.unwrap();
    assert!(matches!(bus.manager.end_scope("x.scope").await, Err(Error::Call { method: "StopUnit", .. })));
    let units = bus.manager.list("*").await.unwrap();
    assert_eq!(units.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>(), ["a.scope", "b.scope"]);
    assert_eq!((units[1].description.as_str(), units[1].state.as_str()), ("of us", "active"));
}

#[tokio::test]
async fn silence_ends_with_the_deadline_and_the_connection() {
    for member in ["Hello", "AddMatch", "GetNameOwner", "Subscribe", "StartTransientUnit"] {
        let bus = Bus::new(SOON, &[(member, Does::Hangs), ("StartTransientUnit", Does::Job("done"))]);
        let begun = std::time::Instant::now();
        let scope = scope();
        let both = tokio::join!(bus.manager.start_scope(&scope), bus.manager.list("*"));
        assert!(matches!(both.0, Err(Error::Deadline { after: SOON, .. })), "{member}: {both:?}");
        assert!(begun.elapsed() < LATE / 2, "{:?}", begun.elapsed());
        bus.manager.start_scope(&scope).await.unwrap();
        // The list, which is repeated, may have begun one more in the moment before its own deadline, and ended it by that.
        let connections = bus.times("Hello");
        assert!((2..=3).contains(&connections), "{member}: a new connection, not {connections}");
    }
}

#[tokio::test]
async fn a_connection_that_broke_is_made_again() {
    let bus =
        Bus::new(LATE, &[("StartTransientUnit", Does::HangsUp), ("StartTransientUnit", Does::Job("done"))]);
    assert!(matches!(bus.manager.start_scope(&scope()).await, Err(Error::Closed)));
    bus.manager.start_scope(&scope()).await.unwrap();
    let nobody = Manager::at("unix:path=/not/there".into(), LATE);
    assert!(matches!(nobody.list("*").await, Err(Error::Connect { .. })));
}

#[tokio::test]
async fn what_strangers_send_is_passed_over() {
    let result = "failed";
    let bus = Bus::new(LATE, &[("StartTransientUnit", Does::JobAmongStrangers(result))]);
    let error = bus.manager.start_scope(&scope()).await.unwrap_err();
    assert_eq!(error.to_string(), "the job for \"x.scope\" ended with \"failed\"");
    bus.manager.set_cpu_weight("x.scope", 1).await.unwrap();
    assert_eq!(bus.times("Hello"), 1, "the connection is the same");
}

#[tokio::test]
async fn the_bus_answers_for_whom_it_does_not_let_through() {
    let denied = "org.freedesktop.DBus.Error.AccessDenied";
    let bus = Bus::new(LATE, &[("StartTransientUnit", Does::BusRefuses(denied))]);
    let error = bus.manager.start_scope(&scope()).await.unwrap_err();
    assert!(matches!(&error, Error::Call { name, .. } if name == denied), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_an_error_and_no_end() {
    let list = "ListUnitsByPatterns";
    let bus = Bus::new(LATE, &[(list, Does::ListsTooLong), (list, Does::Lists)]);
    let error = bus.manager.list("*").await.unwrap_err();
    assert_eq!(error.to_string(), "the bus sent a broken message: it is too long");
    assert_eq!(bus.manager.list("*").await.unwrap().len(), 2);
    assert_eq!(bus.times("Hello"), 1, "the connection is the same");
}

#[tokio::test]
async fn another_systemd_is_another_connection() {
    let bus =
        Bus::new(LATE, &[("StartTransientUnit", Does::NewOwner), ("StartTransientUnit", Does::Job("done"))]);
    // Whom was asked is no more; nobody will answer.
    assert!(matches!(bus.manager.start_scope(&scope()).await, Err(Error::Closed)));
    bus.manager.start_scope(&scope()).await.unwrap();
    assert_eq!(bus.times("GetNameOwner"), 2);
}

#[tokio::test]
async fn two_may_wait_for_one_unit() {
    // As systemd has it: who wants what a job already does is given that job.
    let bus = Bus::new(LATE, &[("StopUnit", Does::JobWithoutEnd("/j/7")), ("StopUnit", Does::Job("done"))]);
    let both = tokio::join!(bus.manager.end_scope("x.scope"), bus.manager.end_scope("x.scope"));
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    assert_eq!((bus.times("Hello"), bus.times("StopUnit")), (1, 2));
}

const START: &str = "StartTransientUnit";
const LIST: &str = "ListUnitsByPatterns";

#[tokio::test]
async fn a_late_job_takes_nothing_from_others() {
    let script = [
        (START, Does::JobWithoutEnd("/j/2")),
        (START, Does::JobWithoutEnd("/j/5")),
        // Ends the first job, too.
        ("StopUnit", Does::Job("done")),
    ];
    let bus = Bus::new(LATE, &script);
    let (other, late) = (Scope { name: "y.scope".into(), ..scope() }, scope());
    let late = async {
        let late = tokio::time::timeout(SOON, bus.manager.start_scope(&late)).await;
        (late.is_err(), bus.manager.end_scope("x.scope").await)
    };
    let (other, (was_late, ended)) = tokio::join!(bus.manager.start_scope(&other), late);
    assert!(was_late && other.is_ok() && ended.is_ok(), "{was_late} {other:?} {ended:?}");
    assert_eq!(bus.times("Hello"), 1, "the connection is the same");
}

#[tokio::test]
async fn what_can_be_repeated_is_when_anothers_silence_ends_the_connection() {
    let bus = Bus::new(LATE, &[(START, Does::Hangs), (LIST, Does::Hangs), (LIST, Does::Lists)]);
    let scope = scope();
    let late = tokio::time::timeout(SOON, bus.manager.start_scope(&scope));
    let (late, listed) = tokio::join!(late, bus.manager.list("*"));
    assert_eq!((late.is_err(), listed.unwrap().len()), (true, 2));
    assert_eq!((bus.times("Hello"), bus.times(LIST)), (2, 2));
}

#[tokio::test]
async fn a_start_is_never_repeated() {
    let bus = Bus::new(LATE, &[(START, Does::Hangs), (START, Does::Hangs)]);
    let scope = scope();
    let late = tokio::time::timeout(SOON, bus.manager.start_scope(&scope));
    let (late, other) = tokio::join!(late, bus.manager.start_scope(&scope));
    assert!(late.is_err() && matches!(other, Err(Error::Closed)), "{other:?}");
    assert_eq!(bus.times(START), 2, "one each");
}

#[tokio::test]
async fn who_gives_up_gives_up_the_connection_that_was_used() {
    let bus = Bus::new(LATE, &[(START, Does::Hangs), (LIST, Does::HangsUp), (LIST, Does::Lists)]);
    let scope = scope();
    let mut late = Box::pin(bus.manager.start_scope(&scope));
    tokio::select! {
        _ = &mut late => panic!("it is not answered"),
        () = bus.heard(START) => {}
    }
    assert_eq!(bus.manager.list("*").await.unwrap().len(), 2, "over another connection");
    drop(late);
    bus.manager.set_cpu_weight("x.scope", 1).await.unwrap();
    assert_eq!(bus.times("Hello"), 2, "the second connection is kept");
}

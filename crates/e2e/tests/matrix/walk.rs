//! One pair of step and fault.

use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Status;

use super::faults::{FAULTS, Fault, Kind};
use super::lane::{Lane, settles};
use super::procedures::{Act, PROCEDURES, Procedure, Subject};
use super::{Pair, judge};

/// What became of a pair.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// The fault struck, and all that is to hold did.
    Held,
    /// There was nobody to kill at this step.
    Nobody,
    /// Something didn't hold.
    Failed(String),
}

/// How long whoever asks waits for a step that hangs.
const GIVES_UP: Duration = Duration::from_secs(1);
/// How long any other call may take.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a step that is behind the answer may take to be reached.
const BLOW: Duration = Duration::from_secs(5);

/// The steps that a procedure passes when nothing fails.
pub(super) async fn steps(lane: &mut Lane, name: &str) -> Vec<String> {
    let Procedure { before, act, .. } = procedure(name);
    let mut subject = Subject::prepared(lane, *before).await.expect("a subject");
    lane.armoury.forget_passed();
    subject.call(lane, *act).await.expect("a clean run");
    settles("the result", async || subject.has(lane, *act).await).await.expect("the result");
    let steps = lane.armoury.passed().expect("steps");
    lane.clear().await.expect("a clean end");
    // Looking at the result is an exec in itself.
    steps.into_iter().filter(|step| *act == Act::Exec || step != "sandbox.exec").collect()
}

fn procedure(name: &str) -> &'static Procedure {
    PROCEDURES.iter().find(|procedure| procedure.name == name).expect("a procedure of the table")
}

pub(super) async fn pair(lane: &mut Lane, pair: &Pair) -> Outcome {
    let fault = FAULTS.iter().find(|fault| fault.name == pair.fault).expect("a fault of the table");
    let outcome = walked(lane, procedure(pair.procedure), (&pair.step, fault)).await;
    lane.armoury.disarm();
    outcome.unwrap_or_else(Outcome::Failed)
}

async fn walked(lane: &mut Lane, procedure: &Procedure, step: (&str, &Fault)) -> Result<Outcome, String> {
    let Procedure { before, act, .. } = procedure;
    let mut subject = Subject::prepared(lane, *before).await?;
    let (answer, has_killed) = struck(lane, (&mut subject, *act), step).await?;
    let (_, fault) = step;
    if let Some(answer) = &answer {
        judge::answer(fault, answer)?;
    }
    if has_killed && matches!(fault.kind, Kind::Supervisor | Kind::Workload) {
        // Kubelet makes the pod anew.
        lane.clear().await?;
        subject = Subject::prepared(lane, *before).await?;
        again(lane, &mut subject, *act).await?;
    } else if !matches!(answer, Some(Ok(()))) {
        // What was answered with ok has to be there without being asked for again.
        again(lane, &mut subject, *act).await?;
    }
    settles("what was asked for", async || subject.has(lane, *act).await).await?;
    lane.bystander_is_untouched().await?;
    lane.clear().await?;
    Ok(if has_killed { Outcome::Held } else { Outcome::Nobody })
}

/// Asks while a fault is armed, until it has struck and nothing fails any more: the answer, and whether there was somebody to kill.
async fn struck(
    lane: &mut Lane,
    (subject, act): (&mut Subject, Act),
    (step, fault): (&str, &Fault),
) -> Result<(Option<Result<(), Status>>, bool), String> {
    lane.armoury.arm(step, fault);
    let killer = killer(lane, (fault.kind, act));
    let answer = called(lane, subject, (fault, act)).await;
    if !lane.armoury.waits_for_the_blow(BLOW) {
        return Err(format!("the fault did not strike; the answer was {answer:?}"));
    }
    let has_killed = killer.is_none_or(|killer| killer.join().unwrap_or_default());
    if fault.kind == Kind::Daemon {
        lane.daemon_has_ended().await?;
        lane.restart()?;
    }
    lane.armoury.disarm();
    Ok((answer, has_killed))
}

/// One answer to what is asked again, when nothing fails any more: it has to be ok.
async fn again(lane: &mut Lane, subject: &mut Subject, act: Act) -> Result<(), String> {
    let answer = tokio::time::timeout(LONGEST, subject.call_again(lane, act)).await;
    match answer {
        Ok(answer) => answer.map_err(|status| format!("the retry: {status}")),
        Err(_) => Err("the retry hangs".to_owned()),
    }
}

/// The answer; `None` when whoever asked has given up.
async fn called(
    lane: &mut Lane,
    subject: &mut Subject,
    (fault, act): (&Fault, Act),
) -> Option<Result<(), Status>> {
    let patience = if fault.kind == Kind::Hang && act != Act::Adopt { GIVES_UP } else { LONGEST };
    let mut answer = tokio::time::timeout(patience, subject.call(lane, act)).await;
    if fault.times == "always" && matches!(answer, Ok(Err(_))) {
        answer = tokio::time::timeout(patience, subject.call_again(lane, act)).await;
    }
    if fault.kind == Kind::Hang {
        // Nobody else waits for it.
        let others = lane.bystander_is_untouched().await;
        lane.armoury.release();
        if let Err(why) = others {
            return Some(Err(Status::aborted(why)));
        }
    }
    match answer {
        Ok(answer) => Some(answer),
        Err(_) if fault.kind == Kind::Hang => None,
        Err(_) => Some(Err(Status::aborted("there is no answer"))),
    }
}

/// Waits for a step to be held, does what the fault is, and lets it go; says whether there was somebody to kill.
fn killer(lane: &Lane, (kind, act): (Kind, Act)) -> Option<JoinHandle<bool>> {
    let (armoury, traces) = (lane.armoury.clone(), lane.node().traces());
    let bystander = lane.bystander().to_owned();
    let is_held =
        matches!(kind, Kind::Supervisor | Kind::Workload) || (kind, act) == (Kind::Hang, Act::Adopt);
    is_held.then(|| {
        std::thread::spawn(move || {
            let has_struck = armoury.waits_for_the_blow(LONGEST);
            let (supervisors, workloads) = Lane::others(&traces, &bystander);
            let victims = match kind {
                Kind::Supervisor => supervisors,
                Kind::Workload => workloads,
                _ => Vec::new(),
            };
            for pid in &victims {
                let _gone = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            if kind == Kind::Hang {
                armoury.lingers();
            }
            armoury.release();
            has_struck && (kind == Kind::Hang || !victims.is_empty())
        })
    })
}

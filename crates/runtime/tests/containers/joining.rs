//! Processes that join a running container.

use std::fs::File;
use std::os::fd::AsFd;

use runtime::container::{ExecRequest, Streams, exec};
use runtime::plan::{Plan, ProcessPlan, process as plan_process};
use runtime::thread::SingleThread;
use runtime::{FailedStep, FailureKind};
use rustix::process::{Signal, pidfd_send_signal};

use crate::Test;
use crate::rig::{Rig, handshake, line, planned, process, shell, wait};

pub const TESTS: &[Test] = &[
    ("a_joining_process_is_inside_and_unprivileged", inside),
    ("a_joining_process_can_have_a_terminal", terminal),
    ("joining_what_has_ended_fails", ended),
    ("joining_failures_are_named", failures),
];

fn joining(args: &[&str]) -> ProcessPlan {
    plan_process(&process(args), None).unwrap()
}

fn running(rig: &Rig) -> (runtime::container::Launched, File) {
    let plan: Plan = planned(&shell("echo up; exec sleep 1000"));
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut launched = rig.start(&plan, &write).unwrap();
    handshake(&mut launched.handshake).1.unwrap();
    let mut output = File::from(read);
    assert_eq!(line(&mut output), "up");
    (launched, output)
}

fn stop(launched: &runtime::container::Launched) {
    pidfd_send_signal(&launched.pidfd, Signal::KILL).unwrap();
    assert_eq!(wait(&launched.pidfd).1, 9);
}

fn inside() {
    let rig = Rig::new();
    let (container, _output) = running(&rig);
    let outcome = rig.exec(&container, &joining(&["sh", "-c", "hostname; cat /proc/1/comm; ls /proc/$$/fd; cat /proc/self/cgroup; cat /proc/self/status; for p in self 1; do readlink /proc/$p/ns/pid; done; exit 3"]));
    assert_eq!(outcome.code, 3, "{outcome:?}");
    let lines = outcome.lines();
    assert_eq!(lines[..5], ["boat", "sleep", "0", "1", "2"], "{lines:?}");
    let cgroups: Vec<_> = lines.iter().filter(|line| line.matches(':').count() == 2).collect();
    assert!(cgroups.iter().all(|line| line.ends_with(":/")), "in the container's cgroups: {cgroups:?}");
    assert!(lines.contains(&"CapInh:\t0000000000000000") && lines.contains(&"CapBnd:\t00000000a80425fb"));
    let own: Vec<_> = lines.iter().filter(|line| line.starts_with("pid:[")).collect();
    assert!(own.len() == 2 && own[0] == own[1], "{own:?}");
    assert!(rig.cgroup.procs().unwrap().contains(&container.pid));
    let bad = rig.exec(&container, &ProcessPlan { cwd: "/proc/self/fd/5".into(), ..joining(&["sh"]) });
    assert_eq!(bad.failed().step, FailedStep::WorkingDirectory, "{bad:?}");
    stop(&container);
}

fn terminal() {
    let rig = Rig::new();
    let (container, _output) = running(&rig);
    let mut wanted = process(&["sh", "-c", "tty; stty size"]);
    wanted.set_terminal(Some(true));
    wanted.set_console_size(Some(
        runtime::spec::oci::BoxBuilder::default().height(5u64).width(6u64).build().unwrap(),
    ));
    let plan = plan_process(&wanted, None).unwrap();
    let mut launched = exec(
        &SingleThread::prove().unwrap(),
        &ExecRequest {
            process: &plan,
            container: container.pidfd.as_fd(),
            user: None,
            cgroup: &rig.cgroup,
            streams: Streams::default(),
        },
    )
    .and_then(|birth| birth.wait(crate::patience::patience()))
    .unwrap();
    let (master, result) = handshake(&mut launched.handshake);
    result.unwrap();
    let mut master = File::from(master.unwrap());
    assert_eq!([line(&mut master), line(&mut master)], ["/dev/pts/0", "5 6"]);
    assert_eq!(wait(&launched.pidfd), (0, 0));
    stop(&container);
}

fn ended() {
    let rig = Rig::new();
    let (container, _output) = running(&rig);
    stop(&container);
    let outcome = rig.exec(&container, &joining(&["true"]));
    assert_eq!(outcome.failed().kind, FailureKind::Gone, "{outcome:?}");
    assert!(SingleThread::prove().is_ok());
    // The caller's children are born in its own pid namespace again.
    assert_eq!(rig.run(&shell("exit 4")).code, 4);
}

fn failures() {
    let rig = Rig::new();
    let (container, _output) = running(&rig);
    let outcome = rig.exec(&container, &joining(&["missing"]));
    assert_eq!((outcome.failed().step, outcome.failed().kind), (FailedStep::Exec, FailureKind::NotFound));
    let outcome = rig.exec(&container, &joining(&["/proc/self/exe"]));
    assert_eq!(outcome.failed().kind, FailureKind::Unsafe, "{outcome:?}");
    stop(&container);
}

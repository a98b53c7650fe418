//! Output and ends: of containers, of execs, and of the supervisor itself.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::container::{Container, Stage, State};
use super::event_loop::{Key, Supervisor};
use super::exec::Exec;
use super::kin::{self, Reach};
use super::lines::Source;
use super::log::LogNews;
use super::process::{self, Process};
use super::streams::Output;
use crate::record;
use crate::wire::{Event, ExecExit};

/// How long the end of it all waits for clients that are behind, when nothing else is left.
const FAREWELL: Duration = Duration::from_secs(1);

/// The end that was asked for.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// The requests that wait for it.
    pub(super) waiting: Vec<u64>,
    /// Until when clients have time for what is kept for them, once nothing else is left.
    pub(super) until: Option<Instant>,
}

impl Supervisor {
    pub(super) fn exited(&mut self, key: Key) {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else { return };
        let Some(ended) = container.process().and_then(Process::reap) else { return };
        if let Some(container) = self.take(key) {
            self.containers.push((key, container.ended(ended)));
            self.finish_if_drained(key);
        }
    }

    pub(super) fn output(&mut self, key: Key, source: Source) {
        let Some((_, container)) = self.containers.iter_mut().find(|(other, _)| *other == key) else {
            return;
        };
        let id = container.id.clone();
        let news = container
            .output()
            .map(|output| output.collect(source, &mut self.buffer, self.attachments.of(key)));
        self.report(&id, news.into_iter().flatten());
        self.finish_if_drained(key);
    }

    /// Logs whose time has come to say what was lost, or to be tried again.
    pub(super) fn catch_up_logs(&mut self, now: Instant) {
        let is_due = |container: &Container| container.log_due().is_some_and(|due| due <= now);
        let due = self.containers.iter().filter(|(_, container)| is_due(container)).map(|(key, _)| *key);
        for key in due.collect::<Vec<_>>() {
            self.for_log(key, Output::catch_up);
        }
    }

    /// journald takes more of a container's output.
    pub(super) fn flush_journal(&mut self, key: Key) {
        self.for_log(key, Output::flush_journal);
        self.has_spare_memory();
    }

    fn for_log(&mut self, key: Key, act: impl FnOnce(&mut Output) -> Option<LogNews>) {
        let Some((_, container)) = self.containers.iter_mut().find(|(other, _)| *other == key) else {
            return;
        };
        let id = container.id.clone();
        let news = container.output().and_then(act);
        self.report(&id, news);
    }

    pub(super) fn report(&mut self, container: &str, news: impl IntoIterator<Item = LogNews>) {
        for told in news {
            let container = container.to_owned();
            self.tell(match told {
                LogNews::Failed { path, errno } => {
                    Event::LogWriteFailed { container, path, errno: errno.raw_os_error() }
                }
                LogNews::Lost { path, lines, bytes } => Event::LogLost { container, path, lines, bytes },
            });
        }
    }

    pub(super) fn finish_if_drained(&mut self, key: Key) {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else { return };
        if matches!(&container.state, State::Draining { output, .. } if output.ended()) {
            self.finish(key);
        }
    }

    /// The log is complete.
    pub(super) fn finish(&mut self, key: Key) {
        let Some(container) = self.take(key) else { return };
        let id = container.id.clone();
        let (container, news) = container.drained(&mut self.buffer, self.attachments.of(key));
        self.report(&id, news);
        self.attachments.ended(key);
        let is_cleared = matches!(container.state, State::Exited(_));
        self.containers.push((key, container));
        if is_cleared {
            self.tell_end(key)
        } else {
            self.clear(key)
        }
        self.has_spare_memory();
    }

    /// It is over: that is recorded, then told.
    pub(super) fn tell_end(&mut self, key: Key) {
        let Some((_, container)) = self.containers.iter().find(|(other, _)| *other == key) else { return };
        if let State::Exited(exit) = &container.state {
            let exit = exit.clone();
            let directory = self.place.container(&exit.container);
            if let Err(error) = record::write_exit(&directory, &exit) {
                complain(&format!("writing the exit record of container \"{}\": {error}", exit.container));
            }
            let hooks = container.hooks.clone();
            self.tell(Event::ContainerExited(exit));
            self.run_poststop(hooks.as_deref());
        }
    }

    /// Attachments that are over.
    pub(super) fn end_attachments(&mut self) {
        for gone in self.attachments.over() {
            // What was kept for it is free.
            self.has_spare_memory();
            gone.event.into_iter().for_each(|event| self.tell(event));
            gone.input_of.into_iter().for_each(|container| self.input_gone(container));
        }
    }

    /// Somebody who wrote to a container's input has gone.
    pub(super) fn input_gone(&mut self, container: Key) {
        if let Some((_, container)) = self.containers.iter_mut().find(|(key, _)| *key == container) {
            container.input_gone();
        }
    }

    /// Kills an exec with what it has started. It is still to be waited for.
    pub(super) fn kill_exec(&self, exec: &Exec, reach: Reach) {
        match self.containers.iter().find(|(key, _)| *key == exec.container) {
            Some((_, container)) => kin::kill(&exec.process, &container.cgroup, reach),
            None => exec.kill(),
        }
    }

    pub(super) fn exec_exited(&mut self, key: Key) {
        let Some(at) = self.execs.iter().position(|(other, _)| *other == key) else { return };
        if let Some(ended) = self.execs[at].1.process.reap() {
            let (_, exec) = self.execs.swap_remove(at);
            self.tell(Event::ExecExited(ExecExit {
                exec: exec.name,
                exit_code: ended.code,
                signal: ended.signal,
            }));
        }
    }

    /// The pod's first process only ends when it is killed; the kernel has ended everything else in the
    /// namespace then.
    pub(super) fn reap_pod_init(&mut self) {
        if let Some(pod) = &mut self.pod
            && pod.pid.as_ref().is_some_and(|pid| process::reap(pid.init_pidfd.as_fd()).is_some())
        {
            pod.pid = None;
        }
    }

    /// Kills everything; the loop ends when all of it has been waited for.
    pub(super) fn shut_down(&mut self, sequence: u64) {
        self.ending.get_or_insert_default().waiting.push(sequence);
        for (key, container) in &self.containers {
            if let State::Making { .. } = container.state {
                self.abort(*key);
            }
            if let State::Expected { .. } = container.state {
                let _ = container.cgroup.kill();
            }
            if let Some(process) = container.process() {
                let _ = container.cgroup.kill();
                process.kill();
            }
        }
        self.births.iter().for_each(|(_, expected)| expected.birth.kill());
        let executed = |(key, container): &(Key, Container)| {
            matches!(container.state, State::Starting { stage: Stage::Executed(_), .. }).then_some(*key)
        };
        for key in self.containers.iter().filter_map(executed).collect::<Vec<_>>() {
            self.start_failed(key, super::container::given_up("poststart", "the pod was ended"));
        }
        self.execs.iter().for_each(|(_, exec)| exec.kill());
        self.abandon_execs(None);
        if let Some(pid) = self.pod.as_ref().and_then(|pod| pod.pid.as_ref()) {
            let _ = rustix::process::pidfd_send_signal(&pid.init_pidfd, rustix::process::Signal::KILL);
        }
    }

    /// Whether it was asked to end.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether it has come to the end that it was asked for: the requests that wait for that.
    pub(super) fn over(&mut self, now: Instant) -> Option<Vec<u64>> {
        if !self.is_empty() {
            return None;
        }
        let ending = self.ending.as_mut()?;
        if !self.attachments.is_empty() {
            if now < *ending.until.get_or_insert(now + FAREWELL) {
                return None;
            }
            self.attachments.cut_off();
            self.end_attachments();
        }
        self.ending.take().map(|ending| ending.waiting)
    }

    /// Whether no process of the pod's is left to wait for.
    fn is_empty(&self) -> bool {
        let over = |container: &Container| matches!(container.state, State::Exited(_));
        self.containers.iter().all(|(_, container)| over(container))
            && self.execs.is_empty()
            && self.births.is_empty()
            && self.leaving.is_empty()
            && self.work.is_empty()
            && self.poststops.is_empty()
            && self.pod.as_ref().is_none_or(|pod| pod.pid.is_none())
    }
}

/// Standard error is the pod's supervisor.log.
pub(super) fn complain(what: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "{what}");
}

//! A daemon's end of the connection, that waits: one request at a time, events kept until somebody asks for
//! them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use runtime::wire::{Event, Exit, Message, Received, Reply, Request, Snapshot, Socket, VERSION, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::patience::patience;

pub struct Client {
    pub socket: Socket,
    next: u64,
    events: VecDeque<Event>,
}

impl Client {
    /// Connects and says hello.
    pub fn connect(directory: &Path) -> Self {
        let mut client = Self::silent(directory);
        match client.call(Request::Hello { version: VERSION }) {
            Reply::Welcome { version: VERSION, .. } => client,
            other => panic!("{other:?}"),
        }
    }

    /// Connects.
    pub fn silent(directory: &Path) -> Self {
        let socket = Socket::connect(directory, "supervisor.sock").unwrap();
        Self { socket, next: 1, events: VecDeque::new() }
    }

    pub fn call(&mut self, request: Request) -> Reply {
        self.call_with(request, &[])
    }

    pub fn call_with(&mut self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Reply {
        self.call_for_descriptors(request, descriptors).0
    }

    pub fn call_for_descriptors(
        &mut self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> (Reply, Vec<OwnedFd>) {
        let sequence = self.send(request, descriptors);
        self.reply(sequence)
    }

    /// Sends a request without waiting for its reply.
    pub fn send(&mut self, request: Request, descriptors: &[BorrowedFd<'_>]) -> u64 {
        let sequence = self.next;
        self.next += 1;
        let message = Message::Request(request);
        loop {
            match self.socket.send(sequence, &message, descriptors) {
                Ok(()) => return sequence,
                Err(WireError::Full) => wait(&self.socket, PollFlags::OUT, Instant::now() + patience()),
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn reply(&mut self, wanted: u64) -> (Reply, Vec<OwnedFd>) {
        let until = Instant::now() + patience();
        loop {
            let (sequence, message, descriptors) = self.next_message(until);
            match message {
                Message::Reply(reply) => {
                    assert_eq!(sequence, wanted, "{reply:?}");
                    return (reply, descriptors);
                }
                Message::Event(event) => self.events.push_back(event),
                Message::Request(request) => panic!("a supervisor asked {request:?}"),
            }
        }
    }

    /// Waits for the next reply, whatever it is to.
    pub fn any_reply(&mut self) {
        let until = Instant::now() + patience();
        loop {
            match self.next_message(until) {
                (_, Message::Reply(_), _) => return,
                (_, Message::Event(event), _) => self.events.push_back(event),
                (_, Message::Request(request), _) => panic!("a supervisor asked {request:?}"),
            }
        }
    }

    /// The next event that `wanted` takes; others stay.
    pub fn event<T>(&mut self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let until = Instant::now() + patience();
        loop {
            if let Some(at) = self.events.iter().position(|event| wanted(event).is_some()) {
                return wanted(&self.events.remove(at).unwrap()).unwrap();
            }
            assert!(Instant::now() < until, "no {what}, but {:?}", self.events);
            match self.next_message(until) {
                (0, Message::Event(event), _) => self.events.push_back(event),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Whether such an event has come and not been asked for.
    pub fn has_event(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(wanted)
    }

    pub fn exit(&mut self, container: &str) -> Exit {
        self.event("exit", |event| match event {
            Event::ContainerExited(exit) if exit.container == container => Some(exit.clone()),
            _ => None,
        })
    }

    pub fn exec_exit(&mut self, exec: &str) -> i32 {
        self.event("exit of an exec", |event| match event {
            Event::ExecExited(exit) if exit.exec == exec => Some(exit.exit_code),
            _ => None,
        })
    }

    pub fn snapshot(&mut self) -> Snapshot {
        match self.call(Request::Snapshot) {
            Reply::Snapshot(snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the supervisor has closed the connection.
    pub fn expect_closed(&mut self) {
        let until = Instant::now() + patience();
        loop {
            match self.socket.receive() {
                Ok(Received::Closed) => return,
                Ok(Received::Pending) => wait(&self.socket, PollFlags::IN, until),
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn next_message(&mut self, until: Instant) -> (u64, Message, Vec<OwnedFd>) {
        loop {
            match self.socket.receive().unwrap() {
                Received::Pending => wait(&self.socket, PollFlags::IN, until),
                Received::Message { sequence, message, descriptors, .. } => {
                    return (sequence, *message, descriptors);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn wait(socket: &Socket, flags: PollFlags, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).unwrap();
    let ready = poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), flags)], Some(&timeout)).unwrap();
    assert!(ready > 0, "the supervisor has not answered for {:?}", patience());
}

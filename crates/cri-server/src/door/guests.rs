//! Places for connections: who has one, since when nothing was heard of whom, and who makes room for the next.
//!
//! A connection without a call under way loses nothing by being closed: gRPC's clients make another one for their next call. One that
//! has a call is never closed for somebody else's sake.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How many there may be beyond the limit, so that their calls can be told why they are refused.
pub(super) const SPARE: usize = 16;

/// How long a place is its connection's however silent it is: kubelet calls every second.
const GRACE: Duration = Duration::from_secs(1);

/// The same before it has said its first word, which a client does at once: so a crowd that says nothing passes by quickly.
const FIRST_WORD: Duration = Duration::from_millis(200);

/// All who are here.
#[derive(Debug)]
pub(super) struct Guests {
    most: usize,
    seats: Mutex<Vec<Taken>>,
    /// Told when a seat is given back.
    left: Notify,
}

#[derive(Debug)]
struct Taken {
    seat: Weak<Seat>,
    /// Taken when it is asked to leave.
    leave: Option<oneshot::Sender<()>>,
}

/// The place of a connection; its calls know it by it.
#[derive(Debug)]
pub(crate) struct Seat {
    guests: Arc<Guests>,
    calls: AtomicUsize,
    /// How long it may be silent.
    silent_until: Mutex<Instant>,
}

/// Comes true when the place is wanted for somebody else.
#[derive(Debug)]
pub(super) struct Leave(oneshot::Receiver<()>);

impl Future for Leave {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context).map(drop)
    }
}

/// What the next one finds.
enum Room {
    /// A place.
    Free(Arc<Seat>, Leave),
    /// Somebody has been asked to leave.
    Soon,
    /// Nobody has been silent for long enough before that.
    Later(Instant),
    /// Everybody is busy.
    None,
}

impl Guests {
    pub(super) fn new(most: usize) -> Self {
        Self { most, seats: Mutex::default(), left: Notify::new() }
    }

    /// A place for the next one, which may cost another its own. Safe to cancel.
    pub(super) async fn seat(self: &Arc<Self>) -> (Arc<Seat>, Leave) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // Before the look: who leaves after it is not missed.
            left.as_mut().enable();
            match self.look() {
                Room::Free(seat, leave) => return (seat, leave),
                Room::Soon => left.await,
                Room::Later(when) => {
                    let _left = tokio::time::timeout_at(when, left).await;
                }
                // A call may end without anybody leaving.
                Room::None => {
                    let _left = tokio::time::timeout(GRACE, left).await;
                }
            }
        }
    }

    fn look(self: &Arc<Self>) -> Room {
        let mut seats = lock(&self.seats);
        if seats.len() < self.most {
            return self.take(&mut seats);
        }
        if seats.iter().any(|taken| taken.leave.is_none()) {
            return Room::Soon;
        }
        let idle = seats.iter().enumerate();
        let idle = idle.filter_map(|(at, taken)| Some((taken.seat.upgrade()?.idle_until()?, at)));
        match idle.min() {
            Some((until, at)) if until <= Instant::now() => {
                // Whoever has gone by itself meanwhile doesn't hear it.
                let _told = seats[at].leave.take().map(|leave| leave.send(()));
                Room::Soon
            }
            Some((until, _)) => Room::Later(until),
            None if seats.len() < self.most + SPARE => self.take(&mut seats),
            None => Room::None,
        }
    }

    fn take(self: &Arc<Self>, seats: &mut Vec<Taken>) -> Room {
        let (leave, wanted) = oneshot::channel();
        let seat = Arc::new(Seat {
            guests: Arc::clone(self),
            calls: AtomicUsize::new(0),
            silent_until: Mutex::new(Instant::now() + FIRST_WORD),
        });
        seats.push(Taken { seat: Arc::downgrade(&seat), leave: Some(leave) });
        Room::Free(seat, Leave(wanted))
    }
}

impl Seat {
    /// The limit, if this one is beyond it: the last to come.
    pub(super) fn is_beyond(&self) -> Option<usize> {
        let seats = lock(&self.guests.seats);
        let at = seats.iter().position(|taken| std::ptr::eq(taken.seat.as_ptr(), self));
        at.filter(|at| *at >= self.guests.most).map(|_| self.guests.most)
    }

    /// A call begins, which has the place to itself until what is returned is dropped.
    pub(super) fn call(self: &Arc<Self>) -> UnderWay {
        self.calls.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    pub(super) fn heard(&self) {
        *lock(&self.silent_until) = Instant::now() + GRACE;
    }

    /// Until when it keeps its place, though it neither says anything nor waits for an answer.
    fn idle_until(&self) -> Option<Instant> {
        (self.calls.load(Ordering::Relaxed) == 0).then(|| *lock(&self.silent_until))
    }

    /// Whether nothing is lost when it is closed: it may have spoken since it was asked to leave.
    pub(super) fn is_silent(&self) -> bool {
        self.idle_until().is_some_and(|until| until <= Instant::now())
    }

    /// It was asked to leave and doesn't: whoever waits for its place looks for another.
    pub(super) fn stay(&self) -> Leave {
        let (leave, wanted) = oneshot::channel();
        let mut seats = lock(&self.guests.seats);
        if let Some(taken) = seats.iter_mut().find(|taken| std::ptr::eq(taken.seat.as_ptr(), self)) {
            taken.leave = Some(leave);
        }
        drop(seats);
        self.guests.left.notify_waiters();
        Leave(wanted)
    }

    /// Its connection has ended.
    pub(super) fn give_back(&self) {
        lock(&self.guests.seats).retain(|taken| !std::ptr::eq(taken.seat.as_ptr(), self));
        self.guests.left.notify_waiters();
    }
}

/// A call of a connection.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Seat>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.heard();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    async fn full(most: usize) -> (Arc<Guests>, Vec<(Arc<Seat>, Leave)>) {
        let guests = Arc::new(Guests::new(most));
        let mut taken = Vec::new();
        for _ in 0..most {
            taken.push(guests.seat().await);
        }
        (guests, taken)
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_silent_without_a_call_makes_room() {
        let (guests, mut taken) = full(3).await;
        let _busy = taken[0].0.call();
        taken.iter().for_each(|(seat, _)| seat.heard());
        assert!(guests.seat().now_or_never().is_none(), "nobody has been silent for long");
        tokio::time::advance(GRACE).await;
        taken[1].0.heard();
        let mut next = Box::pin(guests.seat());
        assert!((&mut next).now_or_never().is_none());
        let asked: Vec<bool> = taken.iter_mut().map(|(_, leave)| leave.now_or_never().is_some()).collect();
        assert_eq!(asked, [false, false, true]);
        taken[2].0.give_back();
        let (seat, _) = next.await;
        assert_eq!(seat.is_beyond(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn where_everybody_is_busy_some_more_are_told_so_and_the_others_wait() {
        let (guests, taken) = full(2).await;
        let mut busy: Vec<UnderWay> = taken.iter().map(|(seat, _)| seat.call()).collect();
        let mut beyond = Vec::new();
        for _ in 0..SPARE {
            let (seat, leave) = guests.seat().now_or_never().unwrap();
            assert_eq!(seat.is_beyond(), Some(2));
            busy.push(seat.call());
            beyond.push((seat, leave));
        }
        assert!(guests.seat().now_or_never().is_none());
        // The first of those beyond moves up when one of the others leaves.
        taken[0].0.give_back();
        assert_eq!(beyond[0].0.is_beyond(), None);
        assert_eq!(beyond[1].0.is_beyond(), Some(2));
        assert!(guests.seat().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_said_nothing_yet_goes_before_who_has() {
        let (guests, mut taken) = full(2).await;
        taken[0].0.heard();
        tokio::time::advance(FIRST_WORD).await;
        assert!(guests.seat().now_or_never().is_none());
        assert!((&mut taken[0].1).now_or_never().is_none());
        assert!((&mut taken[1].1).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_one_is_asked_once_and_its_place_is_given_once() {
        let (guests, taken) = full(2).await;
        tokio::time::advance(GRACE).await;
        let (mut one, mut other) = (Box::pin(guests.seat()), Box::pin(guests.seat()));
        assert!((&mut one).now_or_never().is_none() && (&mut other).now_or_never().is_none());
        let asked = lock(&guests.seats).iter().filter(|taken| taken.leave.is_none()).count();
        assert_eq!(asked, 1);
        taken[0].0.give_back();
        let given = [(&mut one).now_or_never().is_some(), (&mut other).now_or_never().is_some()];
        assert_eq!(given.iter().filter(|given| **given).count(), 1, "{given:?}");
    }
}

//! Coarse timers, one set per core.
//!
//! A connection has one [`Timer`] for its whole life and moves its deadline as it goes: moving it
//! later, which is what nearly every request does, writes one field. The queue is touched only when
//! a deadline comes before every time at which the timer is already going to be looked at.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use shared::clock::monotonic;
use slab::Slab;

/// How late a timer may fire.
const GRAIN: Duration = Duration::from_millis(10);

/// All timers of one core.
#[derive(Default)]
pub(crate) struct Timers(RefCell<Inner>);

#[derive(Default)]
struct Inner {
    entries: Slab<Entry>,
    queue: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    /// Tells a reused slot from the one that a queued look was meant for.
    generation: u64,
    driver: Option<Waker>,
    /// When the driver wakes up by itself.
    next_look: Option<Instant>,
}

struct Entry {
    generation: u64,
    deadline: Option<Instant>,
    /// The earliest queued look at this entry.
    look: Option<Instant>,
    fired: bool,
    waker: Option<Waker>,
}

impl Timers {
    /// A new timer without a deadline.
    pub(crate) fn timer(self: &Rc<Self>) -> Timer {
        let mut inner = self.0.borrow_mut();
        inner.generation += 1;
        let generation = inner.generation;
        let key = inner.entries.insert(Entry {
            generation,
            deadline: None,
            look: None,
            fired: false,
            waker: None,
        });
        Timer {
            timers: Rc::clone(self),
            key,
        }
    }

    /// Fires timers until the core ends.
    pub(crate) async fn drive(self: Rc<Self>) {
        let mut sleep = pin!(tokio::time::sleep(GRAIN));
        poll_fn(|cx| -> Poll<()> {
            loop {
                let next = self.fire(monotonic());
                let mut inner = self.0.borrow_mut();
                inner.next_look = next;
                inner.driver = Some(cx.waker().clone());
                drop(inner);
                let Some(next) = next else {
                    return Poll::Pending;
                };
                sleep.as_mut().reset((next + GRAIN).into());
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    /// Wakes whoever is due at `now` and says when to look again.
    fn fire(&self, now: Instant) -> Option<Instant> {
        let mut due = Vec::new();
        let mut inner = self.0.borrow_mut();
        let inner = &mut *inner;
        let next = loop {
            match inner.queue.peek() {
                None => break None,
                Some(Reverse((at, ..))) if *at > now => break Some(*at),
                Some(_) => {}
            }
            let Some(Reverse((at, key, generation))) = inner.queue.pop() else {
                break None;
            };
            let Some(entry) = inner.entries.get_mut(key) else {
                continue;
            };
            if entry.generation != generation || entry.look != Some(at) {
                continue;
            }
            entry.look = None;
            match entry.deadline {
                Some(deadline) if deadline > now => {
                    entry.look = Some(deadline);
                    inner.queue.push(Reverse((deadline, key, generation)));
                }
                Some(_) => {
                    entry.deadline = None;
                    entry.fired = true;
                    due.extend(entry.waker.take());
                }
                None => {}
            }
        };
        for waker in due {
            waker.wake();
        }
        next
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").finish_non_exhaustive()
    }
}

/// One deadline that can be moved.
#[derive(Debug)]
pub(crate) struct Timer {
    timers: Rc<Timers>,
    key: usize,
}

impl Timer {
    /// Fires `after` from now, instead of whenever it would have fired.
    pub(crate) fn set(&self, after: Duration) {
        self.set_at(monotonic() + after);
    }

    /// Fires at `deadline`, instead of whenever it would have fired.
    pub(crate) fn set_at(&self, deadline: Instant) {
        let mut inner = self.timers.0.borrow_mut();
        let inner = &mut *inner;
        let Some(entry) = inner.entries.get_mut(self.key) else {
            return;
        };
        entry.fired = false;
        entry.deadline = Some(deadline);
        if entry.look.is_some_and(|look| look <= deadline) {
            return;
        }
        entry.look = Some(deadline);
        inner
            .queue
            .push(Reverse((deadline, self.key, entry.generation)));
        if inner.next_look.is_none_or(|next| deadline < next)
            && let Some(driver) = inner.driver.take()
        {
            driver.wake();
        }
    }

    /// Takes the deadline away.
    pub(crate) fn clear(&self) {
        if let Some(entry) = self.timers.0.borrow_mut().entries.get_mut(self.key) {
            entry.deadline = None;
            entry.fired = false;
        }
    }

    /// Whether the deadline has passed; if not, the task of `cx` is woken when it does.
    pub(crate) fn poll_fired(&self, cx: &Context<'_>) -> bool {
        let mut inner = self.timers.0.borrow_mut();
        let Some(entry) = inner.entries.get_mut(self.key) else {
            return false;
        };
        if entry.fired {
            return true;
        }
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        false
    }

    /// Runs `future` for at most `limit`; `None` once that is over.
    pub(crate) async fn limit<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        self.set(limit);
        let mut future = pin!(future);
        let result = poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            if self.poll_fired(cx) {
                Poll::Ready(None)
            } else {
                Poll::Pending
            }
        })
        .await;
        self.clear();
        result
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // While its task is being torn down inside a borrow there is nothing to give back.
        if let Ok(mut inner) = self.timers.0.try_borrow_mut() {
            inner.entries.try_remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local")]
    async fn a_moved_deadline_fires_once_and_late() {
        let timers = Rc::new(Timers::default());
        tokio::task::spawn_local(Rc::clone(&timers).drive());
        let timer = timers.timer();
        let start = monotonic();
        timer.set(Duration::from_millis(10));
        timer.set(Duration::from_millis(80));
        poll_fn(|cx| {
            if timer.poll_fired(cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        let elapsed = monotonic() - start;
        assert!(elapsed >= Duration::from_millis(80), "{elapsed:?}");
    }

    #[tokio::test(flavor = "local")]
    async fn an_earlier_deadline_wakes_the_driver() {
        let timers = Rc::new(Timers::default());
        tokio::task::spawn_local(Rc::clone(&timers).drive());
        let (long, short) = (timers.timer(), timers.timer());
        long.set(Duration::from_hours(1));
        tokio::task::yield_now().await;
        let done = short
            .limit(Duration::from_millis(20), std::future::pending::<()>())
            .await;
        assert!(done.is_none());
    }

    #[tokio::test(flavor = "local")]
    async fn a_cleared_or_dropped_timer_does_not_fire() {
        let timers = Rc::new(Timers::default());
        let cleared = timers.timer();
        cleared.set(Duration::ZERO);
        cleared.clear();
        let dropped = timers.timer();
        dropped.set(Duration::ZERO);
        drop(dropped);
        let reused = timers.timer();
        let cx = Context::from_waker(Waker::noop());
        timers.fire(monotonic() + Duration::from_secs(1));
        assert!(!cleared.poll_fired(&cx) && !reused.poll_fired(&cx));
    }
}

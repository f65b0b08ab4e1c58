//! Exchanges that outlast their request are checked again and again: they end with the session or token that let the
//! request in.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use plugins::sessions::tenure::{Renewals, Tenure, Watched};
use shared::clock::UnixTime;

use crate::core::Core;
use crate::timer::Timer;

/// The time between two looks: a stream ends within a second of what ends it being known here.
const LOOK: Duration = Duration::from_millis(500);

/// Looks after one stream.
#[derive(Debug)]
pub(crate) struct Ending {
    core: Rc<Core>,
    watched: Watched,
    timer: Timer,
}

impl Ending {
    /// That of a stream which begins now, by `tenure`.
    pub(crate) fn new(core: &Rc<Core>, tenure: &Rc<Tenure>) -> Self {
        let renewals = core.node.states.of::<Renewals>();
        let timer = core.timers.timer();
        timer.set(LOOK);
        Self {
            core: Rc::clone(core),
            watched: renewals.watch(Rc::clone(tenure)),
            timer,
        }
    }

    /// Whether the stream is over; if not, the task of `cx` is woken to look again.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        while self.timer.poll_fired(cx) {
            let revocations = &self.core.node.revocations;
            if self.watched.is_over(revocations, UnixTime::now()) {
                return Poll::Ready(());
            }
            self.timer.set(LOOK);
        }
        Poll::Pending
    }

    /// Waits until the stream is over.
    pub(crate) async fn over(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

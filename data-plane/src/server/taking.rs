//! Whether a client of HTTP/2 takes the answers that it has asked for: there it says for each of them how much of it may come
//! (RFC 9113 §5.2), so a connection may be well while nothing is taken of some.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::limits::Limits;
use crate::listening::connections::Requests;
use crate::timer::Timer;

/// Most answers of a connection that may be left lying while others are taken: a browser does that with a film or two. A
/// trusted proxy's may be those of many clients, none of whom is to end what the others have asked for.
const MOST_LEFT: u32 = 15;

/// The exchanges of one connection that are under way, counted by turns of some length.
#[derive(Debug, Default)]
pub(super) struct Taking {
    /// Those of all connections of the client's address, and how many there may be.
    requests: Option<(Requests, usize)>,
    open: Cell<u32>,
    /// Those whose client waits for their server: for the answer, or for more of it.
    waiting: Cell<u32>,
    /// Those of which it has taken something in this turn, or else in the one before.
    taken: [Cell<u32>; 2],
    /// Whether it has taken anything in this turn, and in the one before, also of what has ended since.
    takes: [Cell<bool>; 2],
    turn: Cell<u32>,
    /// Whether bytes had to wait for the client in this turn, or in the one before: then it need not be up to it which
    /// answers go on.
    blocked: [Cell<bool>; 2],
}

/// What a client that takes nothing, or asks for nothing, is to be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Word {
    /// To make another connection for what it asks next.
    Leave,
    /// Nothing more.
    Gone,
}

/// Looks at a client now and then, so that no exchange has to look at the clock.
pub(super) struct Patience {
    timer: Timer,
    /// From one look to the next.
    turn: Duration,
    /// How long a connection may be without exchanges before it is told to end.
    limit: Duration,
    /// How many exchanges had begun at the last look.
    known: u32,
    idle: Duration,
}

impl Patience {
    pub(super) fn new(timer: Timer, limits: &Limits) -> Self {
        let turn = limits.send.min(limits.idle) / 2;
        timer.set(turn);
        Self {
            timer,
            turn,
            limit: limits.idle,
            known: 0,
            idle: Duration::ZERO,
        }
    }

    /// What to tell a client that has `begun` so many exchanges, once it is time to look at it.
    pub(super) fn look(
        &mut self,
        cx: &mut Context<'_>,
        taking: &Taking,
        begun: u32,
    ) -> Option<Word> {
        let mut word = None;
        while self.timer.poll_fired(cx) {
            self.timer.set(self.turn);
            if taking.turns() {
                tracing::debug!("a client does not take its answers: it is cut off");
                return Some(Word::Gone);
            }
            let before = std::mem::replace(&mut self.known, begun);
            if taking.is_open() || begun != before {
                self.idle = Duration::ZERO;
            } else {
                self.idle += self.turn;
            }
            if self.idle >= self.limit.saturating_mul(2) {
                return Some(Word::Gone);
            }
            word = (self.idle >= self.limit).then_some(Word::Leave);
        }
        word
    }
}

/// What the client last did about one of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Last {
    Waits,
    /// It has taken something in this turn.
    Took(u32),
}

impl Taking {
    /// None so far, of a connection whose address has these `requests` under way, if they are counted, and may have `most`.
    pub(super) fn new(requests: Option<Requests>, most: usize) -> Self {
        Self {
            requests: requests.map(|requests| (requests, most)),
            ..Self::default()
        }
    }

    /// Counts an exchange from now on, until it ends.
    pub(super) fn begin(self: &Rc<Self>) -> Exchange {
        let counted = self.requests.as_ref();
        let is_one_too_many = counted.is_some_and(|(requests, most)| !requests.take(*most));
        self.open.set(self.open.get() + 1);
        self.count(Last::Waits, 1);
        Exchange {
            taking: Rc::clone(self),
            last: Last::Waits,
            is_one_too_many,
        }
    }

    /// Whether any is under way.
    pub(super) fn is_open(&self) -> bool {
        self.open.get() > 0
    }

    /// Bytes wait for the client.
    pub(super) fn is_blocked(&self) {
        self.blocked[0].set(true);
    }

    /// The client has taken some of the bytes that waited for it, of whichever answers: each of them is asked for more only once
    /// much of it is gone, which takes long where many share a slow way.
    pub(super) fn goes_on(&self) {
        self.takes[0].set(true);
    }

    /// Ends a turn. Whether the client has left all answers lying for two turns, or more of them than it may.
    pub(super) fn turns(&self) -> bool {
        let [now, before] = &self.taken;
        let open = self.open.get();
        let left = open - self.waiting.get() - now.get() - before.get();
        let (takes, blocked) = (&self.takes, &self.blocked);
        let [takes_some, blocked_once] = [takes, blocked].map(|turns| turns.iter().any(Cell::get));
        before.set(now.take());
        self.turn.set(self.turn.get().wrapping_add(1));
        for [now, before] in [takes, blocked] {
            before.set(now.take());
        }
        let all = left == open && !takes_some;
        let is_many = left > MOST_LEFT && self.requests.is_some();
        left > 0 && (all || (is_many && !blocked_once))
    }

    /// Counts one more, or one less, of which this was the last.
    fn count(&self, last: Last, more: i32) {
        let count = match last {
            Last::Waits => Some(&self.waiting),
            Last::Took(turn) => {
                let ago = self.turn.get().wrapping_sub(turn);
                usize::try_from(ago)
                    .ok()
                    .and_then(|ago| self.taken.get(ago))
            }
        };
        if let Some(count) = count {
            count.set(count.get().saturating_add_signed(more));
        }
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Exchange {
    taking: Rc<Taking>,
    last: Last,
    is_one_too_many: bool,
}

impl Exchange {
    /// Whether the client's address has as many under way as it may have, without this one.
    pub(super) const fn is_one_too_many(&self) -> bool {
        self.is_one_too_many
    }

    /// Goes on with the answer's `body`, which is there to be taken.
    pub(super) fn answered<B>(mut self, body: B) -> Answer<B> {
        self.moves(Last::Took(self.taking.turn.get()));
        Answer {
            body,
            exchange: self,
        }
    }

    fn moves(&mut self, last: Last) {
        if last != self.last {
            self.taking.count(self.last, -1);
            self.taking.count(last, 1);
            self.last = last;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.taking.count(self.last, -1);
        self.taking.open.set(self.taking.open.get() - 1);
        if let Some((requests, _)) = self.taking.requests.as_ref()
            && !self.is_one_too_many
        {
            requests.put();
        }
    }
}

/// An answer's body, which tells when the client wants some of it.
#[derive(Debug)]
pub(super) struct Answer<B> {
    body: B,
    exchange: Exchange,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    /// Asked for one frame ahead, and for the next only once the client takes more.
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        let taking = &this.exchange.taking;
        let last = if frame.is_pending() {
            Last::Waits
        } else {
            taking.goes_on();
            Last::Took(taking.turn.get())
        };
        this.exchange.moves(last);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;

    use super::*;

    /// A body that has more whenever it is asked, or has not yet.
    struct Endless(bool);

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.0 {
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
            } else {
                Poll::Pending
            }
        }
    }

    fn take(answer: &mut Answer<Endless>) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(answer).poll_frame(&mut cx);
    }

    fn answers(taking: &Rc<Taking>, count: u32) -> Vec<Answer<Endless>> {
        let answer = |_| taking.begin().answered(Endless(true));
        (0..count).map(answer).collect()
    }

    #[test]
    fn who_takes_nothing_for_two_turns_has_left_it() {
        let taking = Rc::<Taking>::default();
        assert!(!taking.turns(), "there is nothing");
        let mut all = answers(&taking, 2);
        assert!(!taking.turns() && !taking.turns(), "it was there just now");
        take(&mut all[0]);
        assert!(!taking.turns(), "one of them is taken");
        assert!(!taking.turns());
        assert!(taking.turns());
        take(&mut all[1]);
        assert!(!taking.turns());
        for _ in 0..5 {
            let mut other = answers(&taking, 1);
            take(&mut other[0]);
            drop(other);
            assert!(!taking.turns(), "others were taken to their end");
        }
        drop(all);
        assert!(!taking.is_open() && !taking.turns() && !taking.turns() && !taking.turns());
    }

    #[test]
    fn who_takes_what_its_way_carries_has_left_nothing() {
        let taking = Rc::<Taking>::default();
        let all = answers(&taking, 2);
        for _ in 0..5 {
            taking.is_blocked();
            taking.goes_on();
            assert!(!taking.turns(), "bytes were taken, if of no whole frame");
        }
        taking.is_blocked();
        assert!(!taking.turns());
        taking.is_blocked();
        assert!(taking.turns(), "none were");
        drop(all);
    }

    #[test]
    fn clients_of_a_trusted_proxy_do_not_end_what_others_ask_for() {
        let taking = Rc::<Taking>::default();
        let waits = taking.begin();
        let left = answers(&taking, 2 * MOST_LEFT);
        for _ in 0..5 {
            assert!(!taking.turns(), "another one waits for its server");
        }
        let mut other = answers(&taking, 1);
        for _ in 0..5 {
            take(&mut other[0]);
            assert!(!taking.turns(), "another one takes its answer");
        }
        drop((waits, other));
        assert!(!taking.turns());
        assert!(taking.turns(), "nobody takes anything");
        drop(left);
    }

    #[test]
    fn who_waits_for_a_server_has_left_nothing() {
        let taking = Rc::new(Taking::new(Some(Requests::default()), 100));
        let waits = taking.begin();
        for _ in 0..5 {
            assert!(taking.is_open() && !taking.turns(), "it has no answer yet");
        }
        let mut waits = waits.answered(Endless(false));
        take(&mut waits);
        for _ in 0..5 {
            assert!(!taking.turns());
        }
        let few = answers(&taking, MOST_LEFT);
        for _ in 0..5 {
            assert!(!taking.turns(), "some may lie beside it");
        }
        let one = answers(&taking, 1);
        // Which of them go on may be up to the connection.
        taking.is_blocked();
        for _ in 0..2 {
            assert!(!taking.turns());
            taking.is_blocked();
        }
        assert!(!taking.turns() && !taking.turns());
        assert!(taking.turns(), "many may not");
        drop((few, one));
        assert!(!taking.turns());
        waits.body.0 = true;
        take(&mut waits);
        assert!(!taking.turns() && !taking.turns());
        assert!(taking.turns());
    }
}

//! Whether an HTTP/2 client accepts the responses that it asked for. There, each response has a window of its own (RFC
//! 9113 §5.2), so a connection may be fine while some of its responses are stuck.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use crate::limits::{Limits, is_little};
use crate::listening::connections::Requests;
use crate::server::lingering::Giving;
use crate::timer::Timer;

/// Most answers of a connection that may be left lying while others are taken: a browser does that with a film or two. Of
/// more, those end that have lain longest, and no others: a proxy's connection carries what many clients ask for.
const MOST_LEFT: usize = 15;

/// For how many turns nothing was taken of an answer that was left lying.
const LEFT: u32 = 2;

/// After how many spells without exchanges, after the first of which it is to leave, a client is cut off that was sent little; and
/// one that has to take what it was sent before it comes to hear that.
const SPELLS: u32 = 2;
const MORE_SPELLS: u32 = 10;

/// The exchanges of one connection that are under way, looked at by turns of some length.
#[derive(Debug, Default)]
pub(super) struct Taking {
    /// Those of all connections of the client's address, and how many there may be.
    requests: Option<(Requests, usize)>,
    /// By their numbers.
    open: RefCell<BTreeMap<u64, Open>>,
    /// How many have begun: the number of the last one.
    begun: Cell<u64>,
    /// In which turn the client has last taken anything, also of what has ended since.
    took: Cell<Option<u32>>,
    turn: Cell<u32>,
    /// How many bytes the system has taken for the client.
    sent: Cell<u64>,
    /// Whether bytes had to wait for the client in this turn, or in the one before: then it need not be up to it which
    /// answers go on, and whether any of them do is seen where bytes are written.
    blocked: [Cell<bool>; 2],
    /// Whether the client has been told which of its requests is the last that is served.
    left: Cell<bool>,
}

/// What is known of an exchange that is under way.
#[derive(Debug)]
struct Open {
    last: Last,
    /// What runs it.
    task: Option<AbortHandle>,
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
    limits: Limits,
    /// How long a connection may be without exchanges before it is told to end.
    limit: Duration,
    /// How many exchanges had begun at the last look.
    known: u64,
    idle: Duration,
}

impl Patience {
    pub(super) fn new(timer: Timer, limits: &Limits) -> Self {
        let turn = limits.take.min(limits.idle) / 2;
        timer.set(turn);
        Self {
            timer,
            turn,
            limits: *limits,
            limit: limits.idle,
            known: 0,
            idle: Duration::ZERO,
        }
    }

    /// What to tell the client, once it is time to look at it.
    pub(super) fn look(&mut self, cx: &mut Context<'_>, taking: &Taking) -> Option<Word> {
        let mut word = None;
        while self.timer.poll_fired(cx) {
            self.timer.set(self.turn);
            let patience = self.limits.patience(taking.sent()).as_nanos();
            let turns = patience.div_ceil(self.turn.as_nanos().max(1));
            if taking.turns(u32::try_from(turns).unwrap_or(u32::MAX)) {
                tracing::debug!("a client does not read its responses: its connection is closed");
                return Some(Word::Gone);
            }
            let begun = taking.begun();
            let before = std::mem::replace(&mut self.known, begun);
            if taking.is_open() || begun != before {
                self.idle = Duration::ZERO;
            } else {
                self.idle += self.turn;
            }
            word = self.word(taking.sent());
            if word == Some(Word::Gone) {
                return word;
            }
        }
        word
    }

    /// What to tell a client that has been sent so many bytes in all.
    fn word(&self, sent: u64) -> Option<Word> {
        let spells = if is_little(sent) { SPELLS } else { MORE_SPELLS };
        if self.idle >= self.limit.saturating_mul(spells) {
            Some(Word::Gone)
        } else if self.idle >= self.limit {
            Some(Word::Leave)
        } else {
            None
        }
    }
}

/// What the client last did about one of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Last {
    /// It waits for the server: for the answer, or for more of it.
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
        let number = self.begun.get() + 1;
        self.begun.set(number);
        let (last, task) = (Last::Waits, None);
        self.open.borrow_mut().insert(number, Open { last, task });
        Exchange {
            taking: Rc::clone(self),
            number,
            last,
            is_one_too_many,
            giving: None,
        }
    }

    /// The exchange that has begun last is run by `task`.
    pub(super) fn runs(&self, task: AbortHandle) {
        if let Some(open) = self.open.borrow_mut().get_mut(&self.begun.get()) {
            // What it leads to, as an upgrade, is no exchange.
            open.task.get_or_insert(task);
        }
    }

    /// The client has been told which of its requests is the last that is served.
    pub(super) fn leaves(&self) {
        self.left.set(true);
    }

    /// Whether it has.
    pub(super) fn has_left(&self) -> bool {
        self.left.get()
    }

    /// How many have begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// Whether any is under way.
    pub(super) fn is_open(&self) -> bool {
        !self.open.borrow().is_empty()
    }

    /// Bytes wait for the client.
    pub(super) fn is_blocked(&self) {
        self.blocked[0].set(true);
    }

    /// The client has taken some of the bytes that waited for it, of whichever answers: each of them is asked for more only once
    /// much of it is gone, which takes long where many share a slow way.
    pub(super) fn goes_on(&self) {
        self.took.set(Some(self.turn.get()));
    }

    /// The system has taken so many bytes more for the client.
    pub(super) fn sends(&self, count: u64) {
        self.sent.set(self.sent.get().saturating_add(count));
    }

    /// How many bytes the system has taken for the client.
    pub(super) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Ends a turn, and those answers that were left lying beside others for two turns and are more than may be. Whether
    /// the client has left all of them for `patience` turns, or for two if those are fewer.
    pub(super) fn turns(&self, patience: u32) -> bool {
        let open = self.open.borrow();
        let turn = self.turn.get();
        let ages = open.iter().filter_map(|(number, open)| match open.last {
            Last::Waits => None,
            Last::Took(took) => Some((turn.wrapping_sub(took), *number)),
        });
        let mut left: Vec<(u32, u64)> = ages.filter(|(age, _)| *age >= LEFT).collect();
        let all = left.len() == open.len();
        let (patience, youngest) = (patience.max(LEFT), left.iter().map(|(age, _)| *age).min());
        let takes_some = |within: u32| {
            let took = self.took.get();
            took.is_some_and(|took| turn.wrapping_sub(took) < within)
        };
        let [now, before] = &self.blocked;
        let blocked_once = now.get() || before.get();
        self.turn.set(turn.wrapping_add(1));
        before.set(now.take());
        if blocked_once {
            return false;
        }
        if all && !takes_some(LEFT) {
            return youngest.is_some_and(|age| age >= patience) && !takes_some(patience);
        }
        if left.len() > MOST_LEFT {
            tracing::debug!("a client does not read some of its responses: they are ended");
            left.sort_unstable();
            let longest = left.iter().skip(MOST_LEFT);
            let tasks = longest.filter_map(|(_, number)| open.get(number)?.task.as_ref());
            tasks.for_each(AbortHandle::abort);
        }
        false
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Exchange {
    taking: Rc<Taking>,
    number: u64,
    last: Last,
    is_one_too_many: bool,
    /// The answer, if it is one to an upload.
    giving: Option<Giving>,
}

impl Exchange {
    /// Whether the client's address has as many under way as it may have, without this one.
    pub(super) const fn is_one_too_many(&self) -> bool {
        self.is_one_too_many
    }

    /// Its answer is that to an upload.
    pub(super) fn gives(&mut self, giving: Giving) {
        self.giving = Some(giving);
    }

    /// The client is reset behind its answer if it sends on.
    pub(super) fn gives_nothing(&mut self) {
        self.giving = None;
    }

    /// Goes on with the answer's `body`, which is there to be taken.
    pub(super) fn answered<B: Body>(mut self, body: B) -> Answer<B> {
        self.moves(Last::Took(self.taking.turn.get()));
        if body.is_end_stream() {
            self.ends();
        }
        Answer {
            body,
            exchange: self,
        }
    }

    /// All of the answer has been given.
    fn ends(&mut self) {
        if let Some(giving) = self.giving.take() {
            giving.ends();
        }
    }

    fn moves(&mut self, last: Last) {
        if last == self.last {
            return;
        }
        self.last = last;
        if let Some(open) = self.taking.open.borrow_mut().get_mut(&self.number) {
            open.last = last;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.taking.open.borrow_mut().remove(&self.number);
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
        let ended = match &frame {
            Poll::Pending | Poll::Ready(Some(Err(_))) => false,
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || this.body.is_end_stream(),
        };
        if ended {
            this.exchange.ends();
        }
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
mod tests;

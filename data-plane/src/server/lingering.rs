//! Uploads over HTTP/2 whose requests are answered before all of them has come (RFC 9113 §8.1): a client that sends on may miss
//! an answer with which its stream is reset (curl 7.88), so what it sends is taken for a while and thrown away.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use shared::clock::monotonic;

use crate::limits::Limits;
use crate::timer::Timer;

/// Most uploads that are kept per connection: each of them is one of the streams that its client may have.
const MOST: usize = 16;
/// How long those of a connection that ends may go on, and how long they may be silent meanwhile.
const HURRY: Duration = Duration::from_secs(2);
const HURRY_SILENCE: Duration = Duration::from_millis(500);
/// Who sends nothing more from the answer on, has most likely seen it, and waits for us to reset the stream: it is waited for so
/// much shorter.
const STILL: u32 = 5;

/// The body of a request, as long as anybody wants it; from then on its connection reads it.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Taken when this is dropped.
    body: Option<Incoming>,
    answer: Rc<Cell<Given>>,
    connection: Rc<Lingering>,
}

/// How much of an answer was given.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Given {
    /// There is more to come.
    #[default]
    Part,
    All,
    /// No more than what was given.
    BrokenOff,
}

/// The answer to an upload, which counts as broken off if this is dropped before all of it was given.
#[derive(Debug)]
pub(super) struct Giving {
    answer: Rc<Cell<Given>>,
    connection: Rc<Lingering>,
}

impl Giving {
    /// All of it has been given.
    pub(super) fn ends(self) {
        self.answer.set(Given::All);
    }
}

impl Drop for Giving {
    fn drop(&mut self) {
        if self.answer.get() == Given::Part {
            self.answer.set(Given::BrokenOff);
        }
        self.connection.wake();
    }
}

impl Upload {
    /// The next part; `None` at the end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    /// Whether all of it has come.
    pub(crate) fn is_end(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && !body.is_end_stream()
        {
            self.connection.keep(body, Rc::clone(&self.answer));
        }
    }
}

/// The uploads of one connection that nobody wants any more.
#[derive(Debug)]
pub(super) struct Lingering {
    limits: Limits,
    timer: Timer,
    /// The connection ends.
    hurried: Cell<bool>,
    kept: RefCell<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    uploads: Vec<Unwanted>,
    /// The connection's task.
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Unwanted {
    body: Incoming,
    answer: Rc<Cell<Given>>,
    /// It has been seen that all of that was given.
    answered: bool,
    /// Until when it may go on: counted from when nobody wanted it any more, and anew from the whole answer.
    until: Instant,
    /// When some of it has come last, or the answer was whole.
    heard: Instant,
    /// Some of it has come since the answer was whole.
    goes_on: bool,
}

impl Lingering {
    pub(super) fn new(timer: Timer, limits: Limits) -> Self {
        Self {
            limits,
            timer,
            hurried: Cell::new(false),
            kept: RefCell::default(),
        }
    }

    /// What is to be read as the `body` of a request; and its answer. If that breaks off, the stream is reset as soon as nobody
    /// wants the body.
    pub(super) fn upload(self: &Rc<Self>, body: Incoming) -> (Upload, Giving) {
        let answer = Rc::default();
        let giving = Giving {
            answer: Rc::clone(&answer),
            connection: Rc::clone(self),
        };
        let upload = Upload {
            body: Some(body),
            answer,
            connection: Rc::clone(self),
        };
        (upload, giving)
    }

    /// The oldest makes room for one that is too many.
    fn keep(&self, body: Incoming, answer: Rc<Cell<Given>>) {
        let now = monotonic();
        let until = now + self.limits().linger;
        let mut kept = self.kept.borrow_mut();
        if kept.uploads.len() == MOST {
            kept.uploads.remove(0);
        }
        kept.uploads.push(Unwanted {
            body,
            answer,
            answered: false,
            until,
            heard: now,
            goes_on: false,
        });
        drop(kept);
        self.wake();
    }

    /// Has the connection's task look at what is kept, if anything is.
    fn wake(&self) {
        let mut kept = self.kept.borrow_mut();
        if !kept.uploads.is_empty()
            && let Some(waker) = kept.waker.take()
        {
            waker.wake();
        }
    }

    /// Holds up the end of the connection no longer than a client needs to see its answers.
    pub(super) fn hurry(&self) {
        if !self.hurried.replace(true) {
            let end = monotonic() + self.limits().linger;
            for upload in &mut self.kept.borrow_mut().uploads {
                upload.until = upload.until.min(end);
            }
        }
    }

    fn limits(&self) -> Limits {
        let mut limits = self.limits;
        if self.hurried.get() {
            limits.linger = limits.linger.min(HURRY);
            limits.linger_silence = limits.linger_silence.min(HURRY_SILENCE);
        }
        limits
    }

    /// Throws away what has come, and lets go of what has ended or lasts too long, whose stream is reset by that. For the
    /// connection's task.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let limits = self.limits();
        let mut kept = self.kept.borrow_mut();
        match &mut kept.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        while !kept.uploads.is_empty() {
            let mut next: Option<Instant> = None;
            kept.uploads.retain_mut(|upload| {
                let end = upload.poll(cx, &limits);
                if let Some(end) = end {
                    next = Some(next.map_or(end, |next| next.min(end)));
                }
                end.is_some()
            });
            match next {
                Some(next) => self.timer.set_at(next),
                None => self.timer.clear(),
            }
            if !self.timer.poll_fired(cx) {
                return;
            }
        }
    }
}

impl Unwanted {
    /// Until when it is kept, if nothing comes; `None` where that is over.
    fn poll(&mut self, cx: &mut Context<'_>, limits: &Limits) -> Option<Instant> {
        let mut came = false;
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => came = true,
                Poll::Ready(None | Some(Err(_))) => return None,
                Poll::Pending => break,
            }
        }
        let now = monotonic();
        let mut end = self.until;
        if !self.answered {
            match self.answer.get() {
                // Its end is not that of the stream: the client can send no more than its window, and waits.
                Given::Part => return (now < end).then_some(end),
                Given::BrokenOff => return None,
                Given::All => {
                    self.answered = true;
                    self.heard = now;
                    self.until = now + limits.linger;
                    end = self.until;
                }
            }
        } else if came {
            self.heard = now;
            self.goes_on = true;
        }
        let silence = if self.goes_on {
            limits.linger_silence
        } else {
            limits.linger_silence / STILL
        };
        end = end.min(self.heard + silence);
        (now < end).then_some(end)
    }
}

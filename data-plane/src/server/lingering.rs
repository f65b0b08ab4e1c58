//! Uploads over HTTP/2 whose requests are answered before all of them has come (RFC 9113 §8.1): a client that sends on may miss
//! an answer with which its stream is reset (curl 7.88), so what it sends is taken for a while and thrown away.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use shared::clock::monotonic;
use tokio::sync::oneshot;

use crate::limits::Limits;
use crate::timer::Timer;

/// The body of a request, as long as anybody wants it; from then on its connection reads it.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Taken when this is dropped.
    body: Option<Incoming>,
    /// Told at the end of the whole answer, or dropped if it ends otherwise.
    answered: Option<oneshot::Receiver<()>>,
    connection: Rc<Lingering>,
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
        if let (Some(body), Some(answered)) = (self.body.take(), self.answered.take())
            && !body.is_end_stream()
        {
            self.connection.keep(body, answered);
        }
    }
}

/// The uploads of one connection that nobody wants any more: no more than it may have streams, of which they are some.
#[derive(Debug)]
pub(super) struct Lingering {
    limits: Limits,
    timer: Timer,
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
    answered: oneshot::Receiver<()>,
    /// Until when it may go on, once the answer is whole.
    until: Option<Instant>,
    /// When some of it has come last, or the answer was whole.
    heard: Instant,
}

impl Lingering {
    pub(super) fn new(timer: Timer, limits: Limits) -> Self {
        Self {
            limits,
            timer,
            kept: RefCell::default(),
        }
    }

    /// What is to be read as the `body` of a request; and what is to be told when the answer is whole. To drop that resets
    /// the stream as soon as nobody wants the body.
    pub(super) fn upload(self: &Rc<Self>, body: Incoming) -> (Upload, oneshot::Sender<()>) {
        let (whole, answered) = oneshot::channel();
        let upload = Upload {
            body: Some(body),
            answered: Some(answered),
            connection: Rc::clone(self),
        };
        (upload, whole)
    }

    fn keep(&self, body: Incoming, answered: oneshot::Receiver<()>) {
        let mut kept = self.kept.borrow_mut();
        kept.uploads.push(Unwanted {
            body,
            answered,
            until: None,
            heard: monotonic(),
        });
        if let Some(waker) = kept.waker.take() {
            waker.wake();
        }
    }

    /// Throws away what has come, and lets go of what has ended or lasts too long, whose stream is reset by that. For the
    /// connection's task.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let mut kept = self.kept.borrow_mut();
        match &mut kept.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        while !kept.uploads.is_empty() {
            let mut next: Option<Instant> = None;
            kept.uploads.retain_mut(|upload| {
                let end = upload.poll(cx, &self.limits);
                if let Stay::Until(end) = end {
                    next = Some(next.map_or(end, |next| next.min(end)));
                }
                end != Stay::Over
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

/// How long something is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stay {
    /// As long as the answer goes on.
    Answered,
    Until(Instant),
    Over,
}

impl Unwanted {
    fn poll(&mut self, cx: &mut Context<'_>, limits: &Limits) -> Stay {
        let mut came = false;
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => came = true,
                Poll::Ready(None | Some(Err(_))) => return Stay::Over,
                Poll::Pending => break,
            }
        }
        let now = monotonic();
        let until = if let Some(until) = self.until {
            until
        } else {
            match Pin::new(&mut self.answered).poll(cx) {
                Poll::Pending => return Stay::Answered,
                Poll::Ready(Err(_)) => return Stay::Over,
                Poll::Ready(Ok(())) => {
                    came = true;
                    *self.until.insert(now + limits.linger)
                }
            }
        };
        if came {
            self.heard = now;
        }
        let end = until.min(self.heard + limits.linger_silence);
        if now < end {
            Stay::Until(end)
        } else {
            Stay::Over
        }
    }
}

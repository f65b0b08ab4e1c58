//! The client's side of a connection: heads are found and validated, bodies decoded, responses flushed, and every wait
//! has a limit.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use shared::clock::monotonic;

use super::answer::write_informational;
use super::head::Incoming;
use crate::body::RequestBodyError;
use crate::buffers::{Input, LENGTH};
use crate::carry::as_u64;
use crate::forward::interim::Interim;
use crate::http1::Framing;
use crate::http1::body::{Decoder, Piece};
use crate::http1::head::{HeadFinder, MAX_HEAD, MAX_TARGET};
use crate::http1::request::{Glimpse, Refusal, take_request};
use crate::http1::writer::Writer;
use crate::limits::Limits;
use crate::memory::Held;
use crate::metrics::Metrics;
use crate::stream::Stream;
use crate::timer::Timer;

/// What an HTTP/2 connection begins with, up to the end of what looks like a head (RFC 9113 §3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// What a client does next.
#[derive(Debug)]
pub(super) enum Next {
    /// It asks for something.
    Request(Incoming),
    /// It sends what is not to be read. Nothing behind that is looked at.
    Refused(Refusal),
    /// It speaks HTTP/2.
    Http2,
    /// It leaves, or has been silent for too long.
    End,
}

/// How long nothing may have come before a connection keeps no memory to read the next request faster.
const SOON: Duration = Duration::from_secs(5);

/// How long a client may take nothing before what waits for it is copied to memory that just holds it. In a transfer that is
/// faster than its client there is no room for moments all the time, and no allocation is due for each of them.
const MOMENT: Duration = Duration::from_secs(1);

/// A client's connection.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that has happened or not"
)]
pub(super) struct Client {
    stream: Stream,
    /// What has arrived and not been taken.
    input: Input,
    output: Writer,
    timer: Timer,
    limits: Limits,
    wait: Wait,
    /// How many bytes the system has taken for it.
    sent: u64,
    metrics: Arc<Metrics>,
    /// Counts while a head is here in part.
    reading: Option<Reading>,
    finder: HeadFinder,
    /// What that head takes up, if it is a large one.
    held: Held,
    /// Whether a request has come before.
    begun: bool,
    /// The request's body.
    decoder: Decoder,
    /// Whether the client waits for our word before it sends that.
    expects: bool,
    /// Whether all of it has been read.
    read: bool,
    /// Whether its framing is broken, so that nothing behind it can be read.
    broken: bool,
    /// Whether the answer has begun.
    answering: bool,
    /// Until when a client that goes on sending is heard at the end, once that has begun.
    lingers_until: Option<Instant>,
    /// When its last request was answered, if that was just now.
    answered_at: Option<Instant>,
}

/// What the timer watches over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wait {
    Nothing,
    /// For a request that comes soon.
    Idle,
    /// For one that comes later.
    Rest,
    /// For the rest of its head.
    Head,
    /// For the client to take bytes, as it will in a moment.
    Room,
    /// For the client to take bytes.
    Send,
    /// For the client to stop sending.
    Linger,
}

impl Client {
    /// The client at the other end of a stream, from which `input` has come. What there is to be counted goes to `metrics`; what
    /// is `held` for it is nothing so far.
    pub(super) fn new(
        (stream, input): (Stream, BytesMut),
        timer: Timer,
        limits: Limits,
        metrics: Arc<Metrics>,
        held: Held,
    ) -> Self {
        Self {
            stream,
            input: input.into(),
            output: Writer::default(),
            timer,
            limits,
            wait: Wait::Nothing,
            sent: 0,
            metrics,
            reading: None,
            finder: HeadFinder::default(),
            held,
            begun: false,
            decoder: Decoder::new(Framing::None),
            expects: false,
            read: true,
            broken: false,
            answering: false,
            lingers_until: None,
            answered_at: None,
        }
    }

    /// The connection as it was before anybody looked at it: what it is, and what has arrived.
    pub(super) fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.input.into_bytes())
    }

    /// What can be told of the request that is refused.
    pub(super) fn refused(&self) -> Glimpse {
        Glimpse::of(&self.input)
    }

    /// Whether all of the request's body has been read.
    pub(super) const fn is_read(&self) -> bool {
        self.read
    }

    /// Whether nothing of a request is here.
    pub(super) fn is_idle(&self) -> bool {
        self.input.is_empty()
    }

    /// Whether nothing of a request is here, or a large part of a head that does not end.
    pub(super) fn is_expendable(&self) -> bool {
        self.is_idle() || !self.held.is_none()
    }

    /// Waits for the next request.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            if let Some(next) = self.next() {
                self.held.lets_go();
                self.watch(Wait::Nothing);
                self.begun = true;
                return Poll::Ready(next);
            }
            match self.stream.poll_fill(cx, &mut self.input) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::End),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    // What TLS has to say beside an answer goes now. Should that fail, the next read tells.
                    let _ = self.stream.poll_push(cx);
                    let wait = match self.wait {
                        _ if !self.input.is_empty() => Wait::Head,
                        Wait::Rest => Wait::Rest,
                        _ => Wait::Idle,
                    };
                    if !self.is_over(cx, wait) {
                        return Poll::Pending;
                    }
                    match wait {
                        Wait::Idle => {
                            self.finder.rest();
                            self.watch(Wait::Rest);
                        }
                        Wait::Rest => return Poll::Ready(Next::End),
                        _ => return Poll::Ready(Next::Refused(Refusal::Timeout)),
                    }
                }
            }
        }
    }

    /// The request whose head is here.
    fn next(&mut self) -> Option<Next> {
        if self.input.is_empty() {
            return None;
        }
        if !self.begun && self.input.starts_with(HTTP2) {
            return Some(Next::Http2);
        }
        match take_request(&mut self.finder, &mut self.input) {
            Ok(Some(judged)) => Some(Next::Request(Incoming::of(judged))),
            Ok(None) => {
                let line = memchr::memchr(b'\n', &self.input).unwrap_or(self.input.len());
                if line > MAX_TARGET + 64 {
                    Some(Next::Refused(Refusal::TargetTooLong))
                } else if self.input.len() > LENGTH && !self.held.grows(self.input.capacity()) {
                    Some(Next::Refused(Refusal::Crowded))
                } else {
                    None
                }
            }
            Err(Refusal::HeadTooLarge) => Some(Next::Refused(too_large(&self.input))),
            Err(refusal) => Some(Next::Refused(refusal)),
        }
    }

    /// Its request has been answered, just now.
    pub(super) const fn is_answered(&mut self, at: Option<Instant>) {
        self.answered_at = at;
    }

    /// Begins to read a body in `framing`; `false` if there is none.
    pub(super) fn begin(&mut self, framing: Framing, expects: bool) -> bool {
        self.read = matches!(framing, Framing::None | Framing::Length(0));
        self.expects = expects && !self.read;
        self.answering = false;
        if !self.read {
            self.decoder = Decoder::new(framing);
        }
        !self.read
    }

    /// The next part of the request's body; nothing at its end.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if self.read {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut self.expects) && !self.answering {
            let head = self.output.head();
            head.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if !self.answering
            && !self.output.is_empty()
            && let Poll::Ready(Err(error)) = self.output.poll_flush(cx, &mut self.stream)
        {
            return Poll::Ready(Some(Err(RequestBodyError::Client(error))));
        }
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::End(trailers)) => {
                    self.read = true;
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::More) => {}
                Err(error) => {
                    self.broken = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
            let error = match ready!(self.stream.poll_fill(cx, &mut self.input)) {
                Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                Ok(_) => continue,
                Err(error) => error,
            };
            return Poll::Ready(Some(Err(RequestBodyError::Client(error))));
        }
    }

    /// Reads what is here of a body that nobody wants; says whether that was all of it.
    pub(super) fn drain(&mut self) -> bool {
        while !self.read && !self.broken {
            match self.decoder.decode(&mut self.input) {
                Ok(Piece::Data(_)) => {}
                Ok(Piece::End(_)) => self.read = true,
                Ok(Piece::More) => return false,
                Err(_) => self.broken = true,
            }
        }
        self.read
    }

    /// Whether the client has left while it was to wait. What it sends ahead stays for later.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> bool {
        self.read
            && self.input.is_empty()
            && matches!(
                self.stream.poll_fill(cx, &mut self.input),
                Poll::Ready(Ok(0) | Err(_))
            )
    }

    /// Whether nothing that was written waits for the client.
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_flushed()
    }

    /// Tells the client what comes before the answer.
    pub(super) fn tell(&mut self, cx: &mut Context<'_>, interim: &Interim) -> io::Result<()> {
        for (status, fields) in interim.take() {
            write_informational(self.output.head(), status, &fields);
        }
        // What it does not take now is watched over when the answer is there.
        match self.output.poll_flush(cx, &mut self.stream) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// The place for the answer's head.
    pub(super) fn answer(&mut self) -> &mut BytesMut {
        self.answering = true;
        self.output.head()
    }

    /// Whether more of the answer can be written.
    pub(super) fn has_room(&self) -> bool {
        self.output.has_room()
    }

    /// Adds bytes of the answer's body.
    pub(super) fn write(&mut self, framing: Framing, data: Bytes) {
        self.output.body(framing, data);
    }

    /// Ends the answer's body, with `trailers` if its framing has any.
    pub(super) fn finish(&mut self, framing: Framing, trailers: Option<&HeaderMap>) {
        self.output.end(framing, trailers);
    }

    /// What waits, or is sent from now on, is the last before the end.
    pub(super) fn ends(&mut self) {
        self.stream.cork();
    }

    /// Sends what waits, if the client takes it in time.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waiting = self.output.len();
        let flushed = self.output.poll_flush(cx, &mut self.stream);
        self.sent += as_u64(waiting - self.output.len());
        if flushed.is_pending() {
            if self.output.len() < waiting {
                self.watch(Wait::Nothing);
            }
            if !self.stands_still() && !self.is_over(cx, Wait::Room) {
                return Poll::Pending;
            }
            if self.is_over(cx, Wait::Send) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        }
        self.watch(Wait::Nothing);
        flushed
    }

    /// Whether it has taken nothing for longer than a moment.
    pub(super) fn stands_still(&self) -> bool {
        self.wait == Wait::Send
    }

    /// It stands still: what waits for it keeps no more memory than it takes.
    pub(super) fn settle(&mut self) {
        self.output.settle();
    }

    /// Ends our side, and if the client may still be sending, reads until it has heard of that.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>, lingers: bool) -> Poll<()> {
        if self.wait != Wait::Linger {
            match self.stream.poll_end(cx, lingers) {
                Poll::Ready(Ok(())) if lingers => {}
                Poll::Pending if !self.is_over(cx, Wait::Send) => return Poll::Pending,
                _ => return Poll::Ready(()),
            }
        }
        // To close at once would reset the connection, and the answer with it.
        let until = *self
            .lingers_until
            .get_or_insert_with(|| monotonic() + self.limits.linger);
        loop {
            self.input.clear();
            match self.stream.poll_fill(cx, &mut self.input) {
                Poll::Ready(Ok(count)) if count > 0 && monotonic() < until => {
                    self.wait = Wait::Linger;
                    self.set_linger(until);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if self.is_over(cx, Wait::Linger) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether the wait has lasted for too long; if not, the task is woken when it has.
    fn is_over(&mut self, cx: &mut Context<'_>, wait: Wait) -> bool {
        self.watch(wait);
        self.timer.poll_fired(cx)
    }

    /// Ends the wait for the client to stop sending once it is silent, and not after `until`.
    fn set_linger(&self, until: Instant) {
        let silent = monotonic() + self.limits.linger_silence;
        self.timer.set_at(silent.min(until));
    }

    fn watch(&mut self, wait: Wait) {
        if self.wait == wait {
            return;
        }
        let before = std::mem::replace(&mut self.wait, wait);
        self.reading = (wait == Wait::Head).then(|| Reading::begin(&self.metrics));
        match wait {
            Wait::Nothing => self.timer.clear(),
            Wait::Idle => {
                let since = self.answered_at.take().unwrap_or_else(monotonic);
                self.timer.set_at(since + self.limits.idle.min(SOON));
            }
            Wait::Rest => self.timer.set(self.limits.idle.saturating_sub(SOON)),
            Wait::Head => self.timer.set(self.limits.head),
            Wait::Room => self.timer.set(self.limits.patience(self.sent).min(MOMENT)),
            Wait::Send => {
                let patience = self.limits.patience(self.sent);
                let waited = if before == Wait::Room {
                    MOMENT
                } else {
                    Duration::ZERO
                };
                self.timer.set(patience.saturating_sub(waited));
            }
            Wait::Linger => self.set_linger(self.lingers_until.unwrap_or_else(monotonic)),
        }
    }
}

/// A head that is here in part, counted until this is dropped.
#[derive(Debug)]
struct Reading(Arc<Metrics>);

impl Reading {
    fn begin(metrics: &Arc<Metrics>) -> Self {
        metrics.reading.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which part of a head that is too large is to blame.
fn too_large(head: &[u8]) -> Refusal {
    match memchr::memchr(b'\n', head.get(..MAX_HEAD).unwrap_or(head)) {
        Some(line) if line <= MAX_TARGET => Refusal::HeadTooLarge,
        _ => Refusal::TargetTooLong,
    }
}

/// The body of the request that a client is sending.
#[derive(Debug)]
pub(crate) struct ClientBody(Rc<RefCell<Client>>);

impl ClientBody {
    pub(super) fn new(client: &Rc<RefCell<Client>>) -> Self {
        Self(Rc::clone(client))
    }

    /// The next part; nothing at the end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        self.0.borrow_mut().poll_body(cx)
    }

    /// Whether nothing is left.
    pub(crate) fn is_end(&self) -> bool {
        self.0.borrow().read
    }
}

#[cfg(test)]
mod tests;

//! One request and its answer on one connection.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body::Frame;
use shared::clock::monotonic;

use super::pool::Pool;
use super::{Connection, UpstreamError};
use crate::body::{RequestBody, RequestBodyError, ResponseBody};
use crate::forward::fields::forwardable_trailers;
use crate::forward::interim::Interim;
use crate::http1::body::{Decoder, Piece};
use crate::http1::head::{ResponseHead, take_response};
use crate::http1::{Framing, FramingError};

/// Most bytes of informational answers before the final one: a server may say every few seconds that it is still at work
/// (102), for days.
const MAX_INFORMATIONAL: usize = 256 * 1024;

/// Longest wait for what had come on a connection before it broke: the runtime tells of it at its next turn, with the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Longest waits for the next byte, not for the whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Until the connection stands.
    pub(crate) connect: Duration,
    /// Between two writes.
    pub(crate) write: Duration,
    /// Between two reads.
    pub(crate) read: Duration,
}

/// What of a request decides how its answer is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    /// Whether the connection is to switch to another protocol.
    pub(crate) upgrades: bool,
    /// Where informational answers go.
    pub(crate) interim: Option<&'a Interim>,
}

/// Carries a request's body to the connection.
#[derive(Debug)]
pub(crate) struct Pump {
    body: RequestBody,
    framing: Framing,
    sent: u64,
    done: bool,
    /// Longest wait for the client's next bytes.
    patience: Duration,
}

impl Pump {
    /// A pump for `body`, written in `framing`.
    pub(crate) fn new(body: RequestBody, framing: Framing, patience: Duration) -> Self {
        Self {
            body,
            framing,
            sent: 0,
            done: framing == Framing::None,
            patience,
        }
    }

    /// The body back, if none of it has been taken.
    pub(crate) fn untouched(self) -> Option<RequestBody> {
        (self.sent == 0 && (!self.done || self.framing == Framing::None)).then_some(self.body)
    }

    /// Writes as much as the client has sent and the server takes. Ready when all is written.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
    ) -> Poll<Result<(), UpstreamError>> {
        loop {
            let mut waits_for_client = false;
            while !self.done && connection.output.has_room() {
                match self.body.poll_frame(cx) {
                    Poll::Pending => {
                        waits_for_client = true;
                        break;
                    }
                    Poll::Ready(None) => self.finish(connection, None)?,
                    Poll::Ready(Some(Err(error))) => {
                        return Poll::Ready(Err(UpstreamError::RequestBody(error)));
                    }
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            self.sent += u64::try_from(data.len()).unwrap_or(u64::MAX);
                            self.check_length(false)?;
                            connection.output.body(self.framing, data);
                        }
                        Err(frame) => self.finish(connection, frame.into_trailers().ok())?,
                    },
                }
            }
            let Connection { output, stream, .. } = connection;
            match output.poll_flush(cx, stream) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(UpstreamError::Send(error))),
                Poll::Ready(Ok(())) if self.done => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if waits_for_client => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
            }
        }
    }

    fn finish(
        &mut self,
        connection: &mut Connection,
        trailers: Option<HeaderMap>,
    ) -> Result<(), UpstreamError> {
        self.done = true;
        self.check_length(true)?;
        let trailers = trailers.map(forwardable_trailers);
        connection.output.end(self.framing, trailers.as_ref());
        Ok(())
    }

    /// An announced length is kept to the byte: anything else would shift what the server reads next.
    fn check_length(&self, whole: bool) -> Result<(), UpstreamError> {
        let Framing::Length(length) = self.framing else {
            return Ok(());
        };
        if self.sent > length || (whole && self.sent < length) {
            let error = FramingError::Length("the body has another length than announced");
            return Err(UpstreamError::RequestBody(error.into()));
        }
        Ok(())
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: ResponseHead,
    pub(crate) body: ResponseBody,
    /// When the head had come.
    pub(crate) answered_at: Instant,
}

/// Why no answer came, with the pump, which a further attempt may need.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: UpstreamError,
    pub(crate) pump: Pump,
    /// Whether the server has begun to answer.
    pub(crate) begun: bool,
}

/// Sends the head that waits in `connection.output` and the pump's body, and reads the answer's head.
///
/// The answer may come before the body has been sent; the rest is sent while the answer is read.
pub(crate) async fn exchange(
    mut connection: Box<Connection>,
    pool: Rc<Pool>,
    mut pump: Pump,
    asked: Asked<'_>,
    timeouts: Timeouts,
) -> Result<Answer, Failure> {
    let read = poll_fn(|cx| poll_head(cx, &mut connection, &mut pump, asked, timeouts)).await;
    let last = match &read {
        Err(UpstreamError::Send(_)) => last_words(&mut connection, asked).await,
        _ => None,
    };
    let (head, sent) = match (read, last) {
        (Ok(read), _) => read,
        (Err(_), Some(head)) => (head, false),
        (Err(error), None) => {
            let begun = connection.informational > 0 || !connection.input.is_empty();
            return Err(Failure { error, pump, begun });
        }
    };
    let (begun, answered_at) = (true, monotonic());
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answer {
            head,
            body: ResponseBody::Tunnel(connection),
            answered_at,
        });
    }
    let mut decoder = Decoder::of_answer(head.framing);
    if sent && decoder.is_complete_in(&connection.input) {
        let whole = match decoder.decode(&mut connection.input) {
            Ok(Piece::Data(data)) => ResponseBody::Full(data),
            _ => ResponseBody::Empty,
        };
        // What comes behind the end is nobody's: not the client's, nor an answer to the next request.
        if head.keep_alive && connection.input.is_empty() {
            pool.give_back(connection, answered_at);
        }
        return Ok(Answer {
            head,
            body: whole,
            answered_at,
        });
    }
    // A chunk that is broken from the start is told of before the client is told anything.
    let first = if head.framing == Framing::Chunked {
        match decoder.decode(&mut connection.input) {
            Ok(piece) => Some(piece),
            Err(error) => {
                let error = error.into();
                return Err(Failure { error, pump, begun });
            }
        }
    } else {
        None
    };
    connection.timer.clear();
    let body = UpstreamBody {
        first,
        waiting: false,
        reusable: head.keep_alive,
        framing: head.framing,
        connection: Some(connection),
        pool,
        decoder,
        pump: (!sent).then_some(pump),
        read_timeout: timeouts.read,
    };
    Ok(Answer {
        head,
        body: ResponseBody::Upstream(Box::new(body)),
        answered_at,
    })
}

/// Ready with the head, and whether the whole request has been written.
fn poll_head(
    cx: &mut Context<'_>,
    connection: &mut Connection,
    pump: &mut Pump,
    asked: Asked<'_>,
    timeouts: Timeouts,
) -> Poll<Result<(ResponseHead, bool), UpstreamError>> {
    let before = connection.phase;
    let sent = match pump.poll(cx, connection) {
        Poll::Ready(Ok(())) => true,
        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        Poll::Pending => false,
    };
    let mut spoke = false;
    match poll_final_head(cx, connection, asked, &mut spoke) {
        Poll::Ready(Ok(head)) => return Poll::Ready(Ok((head, sent))),
        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        Poll::Pending => {}
    }
    let phase = if sent {
        Phase::Reading
    } else if connection.output.is_empty() {
        Phase::Waiting { sent: pump.sent }
    } else {
        Phase::Writing { sent: pump.sent }
    };
    if before != phase {
        connection.phase = phase;
        match phase {
            Phase::Waiting { .. } => connection.timer.set(pump.patience),
            Phase::Idle => connection.timer.clear(),
            Phase::Writing { .. } => connection.timer.set(timeouts.write),
            // A request goes out as soon as its connection is there, and nearly always at once.
            Phase::Reading if before == Phase::Idle => {
                let at_hand = connection.idle_since;
                connection.timer.set_at(at_hand + timeouts.read);
            }
            Phase::Reading => connection.timer.set(timeouts.read),
        }
    } else if spoke && phase == Phase::Reading {
        // It counts between two reads: a server that says that it is still at it is (RFC 2518 §10.1).
        connection.timer.set(timeouts.read);
    }
    if connection.timer.poll_fired(cx) {
        return Poll::Ready(Err(match phase {
            Phase::Reading => UpstreamError::ReadTimeout,
            Phase::Waiting { .. } => UpstreamError::RequestBody(RequestBodyError::Timeout),
            Phase::Idle | Phase::Writing { .. } => UpstreamError::SendTimeout,
        }));
    }
    Poll::Pending
}

/// The answer of a server that gave one before it closed a connection which the request could not all be written to: 413, say.
async fn last_words(connection: &mut Connection, asked: Asked<'_>) -> Option<ResponseHead> {
    connection.timer.set(LAST_WORDS);
    let head = poll_fn(
        |cx| match poll_final_head(cx, connection, asked, &mut false) {
            Poll::Ready(read) => Poll::Ready(read.ok()),
            Poll::Pending if connection.timer.poll_fired(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        },
    )
    .await;
    connection.timer.clear();
    head.map(|head| ResponseHead {
        keep_alive: false,
        ..head
    })
}

/// What a connection's timer watches over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Nothing.
    #[default]
    Idle,
    /// The client is to send more of the body, having sent so many bytes.
    Waiting {
        /// Bytes of the body given to the writer.
        sent: u64,
    },
    /// The server is to take bytes, having taken so many of the body.
    Writing {
        /// Bytes of the body given to the writer.
        sent: u64,
    },
    /// The server is to answer.
    Reading,
}

/// Reads until the head of the final answer; informational ones before it are passed on. Notes in `spoke` whether anything
/// has come.
fn poll_final_head(
    cx: &mut Context<'_>,
    connection: &mut Connection,
    asked: Asked<'_>,
    spoke: &mut bool,
) -> Poll<Result<ResponseHead, UpstreamError>> {
    loop {
        loop {
            let Connection { finder, input, .. } = &mut *connection;
            if input.is_empty() {
                break;
            }
            let before = input.len();
            let Some(head) = take_response(finder, input, asked.method)? else {
                break;
            };
            if !head.status.is_informational() {
                connection.informational = 0;
                return Poll::Ready(Ok(head));
            }
            connection.informational += before - connection.input.len();
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(if asked.upgrades {
                    Ok(head)
                } else {
                    Err(UpstreamError::Informational)
                });
            }
            if connection.informational > MAX_INFORMATIONAL {
                return Poll::Ready(Err(UpstreamError::Informational));
            }
            if let Some(interim) = asked.interim {
                interim.add(head);
            }
        }
        match connection.stream.poll_fill(cx, &mut connection.input) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(UpstreamError::Receive(error))),
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(UpstreamError::Closed)),
            Poll::Ready(Ok(_)) => *spoke = true,
        }
    }
}

/// The body of an answer, with the connection that it comes from.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    /// Gone once the body has been read to its end, or has failed.
    connection: Option<Box<Connection>>,
    pool: Rc<Pool>,
    framing: Framing,
    decoder: Decoder,
    /// What has been decoded already.
    first: Option<Piece>,
    /// What is left to send of the request.
    pump: Option<Pump>,
    reusable: bool,
    read_timeout: Duration,
    /// Whether the timer watches over the next read.
    waiting: bool,
}

impl UpstreamBody {
    /// How the body was framed by the server.
    pub(crate) const fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the server has broken off already, as far as is known.
    pub(crate) fn check(&mut self, cx: &mut Context<'_>) -> Result<(), UpstreamError> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        if !matches!(self.first, None | Some(Piece::More)) {
            return Ok(());
        }
        loop {
            let piece = self.decoder.decode(&mut connection.input)?;
            if !matches!(piece, Piece::More) {
                self.first = Some(piece);
                return Ok(());
            }
            match connection.stream.poll_fill(cx, &mut connection.input) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) if self.decoder.ends_with_connection() => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(UpstreamError::Closed),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(UpstreamError::Receive(error)),
            }
        }
    }

    /// The next part; `None` at the end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(None);
        };
        if let Some(pump) = &mut self.pump {
            match pump.poll(cx, connection) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.pump = None,
                Poll::Ready(Err(_)) => {
                    // The answer counts; only the connection is of no further use.
                    self.pump = None;
                    self.reusable = false;
                }
            }
        }
        loop {
            let piece = match self.first.take() {
                Some(piece) => Ok(piece),
                None => self.decoder.decode(&mut connection.input),
            };
            match piece {
                Ok(Piece::Data(data)) => {
                    // The server is not to blame for the time that the client takes.
                    connection.timer.clear();
                    self.waiting = false;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Piece::End(trailers)) => {
                    self.end();
                    let trailers = trailers.map(forwardable_trailers);
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::More) => {}
                Err(error) => return self.fail(error.into()),
            }
            match connection.stream.poll_fill(cx, &mut connection.input) {
                Poll::Ready(Ok(0)) if self.decoder.ends_with_connection() => {
                    self.connection = None;
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => return self.fail(UpstreamError::Closed),
                Poll::Ready(Ok(_)) => self.waiting = false,
                Poll::Ready(Err(error)) => return self.fail(UpstreamError::Receive(error)),
                Poll::Pending => {
                    if !self.waiting {
                        self.waiting = true;
                        connection.timer.set(self.read_timeout);
                    }
                    if connection.timer.poll_fired(cx) {
                        return self.fail(UpstreamError::ReadTimeout);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Nobody will ask for the next part for long: room to read it into is given back.
    pub(crate) fn rest(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.input.give_back();
        }
    }

    fn end(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.reusable
            && self.pump.is_none()
            && connection.input.is_empty()
        {
            self.pool.give_back(connection, monotonic());
        }
    }

    fn fail(&mut self, error: UpstreamError) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        self.connection = None;
        Poll::Ready(Some(Err(error)))
    }
}

#[cfg(test)]
mod tests;

//! Questions from this node to its control plane, from any core: one message there, one back.

mod given;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use plugins::host::Number;
use proto::v1::flight::Step;
use proto::v1::{answer, request};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};

pub(crate) use self::given::{Given, Key};

/// How long an answer may take that needs no work.
const PROMPT: Duration = Duration::from_secs(1);

/// Questions that may wait for the stream.
const WAITING: usize = 1024;

/// Long questions that are on their way at once: they keep the others, and the connection, waiting.
const LENGTHY: usize = 16;

/// How long it may take until it is known that what was told has arrived.
const ARRIVED: Duration = Duration::from_secs(30);

/// Between two questions that no stream has taken.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);

/// How long it is told to control planes that start how a flight ended: they keep it for as long.
const KEPT: Duration = Duration::from_mins(1);

/// KiB of results that no control plane has heard yet.
const UNHEARD: usize = 32 * 1024;

/// Results that are told again at once.
const TOLD_AGAIN: usize = 16;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unanswered {
    /// There is no stream, or it has ended.
    Cut,
    /// The control plane says nothing.
    Silent,
}

/// A question on its way.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) what: request::What,
    pub(crate) wanted: Wanted,
}

/// What is wanted of a question besides that it is sent.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// Nothing: something is only told.
    Nothing,
    /// Its answer.
    Answer(oneshot::Sender<answer::What>),
    /// Any answer to what is asked behind it, by the same stream: by that it has arrived.
    Arrival(oneshot::Sender<answer::What>),
}

#[cfg(test)]
impl Asked {
    /// Answers whoever waits for that.
    pub(crate) fn answer(self, answer: answer::What) {
        match self.wanted {
            Wanted::Answer(waiting) | Wanted::Arrival(waiting) => waiting.send(answer).unwrap(),
            Wanted::Nothing => panic!("nobody waits: {:?}", self.what),
        }
    }
}

/// How a flight ended, on its way.
#[derive(Debug)]
pub(crate) struct Landing {
    key: Bytes,
    number: Number,
    ended: request::What,
    arrived: oneshot::Receiver<answer::What>,
    /// Sees the streams that begin since.
    streams: watch::Receiver<u64>,
}

/// Both ends of the way to config sync.
#[derive(Debug)]
pub(crate) struct Questions {
    sender: mpsc::Sender<Asked>,
    receiver: Mutex<mpsc::Receiver<Asked>>,
    lengthy: Semaphore,
    unheard: Semaphore,
    telling_again: Semaphore,
    /// How many streams have begun.
    streams: watch::Sender<u64>,
    /// The flights that this process does.
    pub(crate) given: Given,
}

impl Default for Questions {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            sender,
            receiver: Mutex::new(receiver),
            lengthy: Semaphore::new(LENGTHY),
            unheard: Semaphore::new(UNHEARD),
            telling_again: Semaphore::new(TOLD_AGAIN),
            streams: watch::Sender::new(0),
            given: Given::default(),
        }
    }
}

impl Questions {
    /// The answer to `what`, if a control plane gives one within `limit`.
    async fn ask(&self, what: request::What, limit: Duration) -> Result<answer::What, Unanswered> {
        let (answer, answered) = oneshot::channel();
        let wanted = Wanted::Answer(answer);
        let asked = Asked { what, wanted };
        // With a full queue the control plane is as good as gone.
        self.sender
            .try_send(asked)
            .map_err(|_| Unanswered::Silent)?;
        let answered = tokio::time::timeout(limit, answered).await;
        answered
            .map_err(|_| Unanswered::Silent)?
            .map_err(|_| Unanswered::Cut)
    }

    /// The answer to `what`, which may wait for others' work and so take up to `limit`; none as soon as the control
    /// plane does not answer at all, as one that is frozen, unless one `is_expected` back.
    pub(crate) async fn ask_patiently(
        &self,
        what: request::What,
        limit: Duration,
        is_expected: impl Fn() -> bool,
    ) -> Result<answer::What, Unanswered> {
        let mut answered = pin!(self.ask(what, limit));
        let streams = self.streams.subscribe();
        loop {
            let streams = || *streams.borrow();
            let before = streams();
            tokio::select! {
                biased;
                answer = &mut answered => return answer,
                () = tokio::time::sleep(PROMPT) => {}
            }
            tokio::select! {
                biased;
                answer = &mut answered => return answer,
                // One that knows no echo says so, at once as well.
                heard = self.ask(request::What::Echo(true), PROMPT) => match heard {
                    // It may have waited for a stream, which had hardly begun.
                    Err(Unanswered::Silent) if is_expected() || streams() != before => {}
                    heard => _ = heard?,
                },
            }
        }
    }

    /// A stream has begun.
    pub(crate) fn begin_stream(&self) {
        self.streams.send_modify(|streams| *streams += 1);
    }

    /// The answer to `what`, which is long; none as well where many of these are on their way.
    pub(crate) async fn ask_at_length(
        &self,
        what: request::What,
        limit: Duration,
    ) -> Result<answer::What, Unanswered> {
        let turn = self.lengthy.try_acquire();
        let _turn = turn.map_err(|_| Unanswered::Silent)?;
        self.ask(what, limit).await
    }

    /// Sends `what` without waiting for an answer.
    pub(crate) fn tell(&self, what: request::What) {
        let wanted = Wanted::Nothing;
        // With a full queue there is nobody to tell.
        _ = self.sender.try_send(Asked { what, wanted });
    }

    /// Sends `what`, and tells when it has arrived; nothing if it is not on its way.
    fn deliver(&self, what: request::What) -> Option<oneshot::Receiver<answer::What>> {
        let (answer, arrived) = oneshot::channel();
        let wanted = Wanted::Arrival(answer);
        self.sender.try_send(Asked { what, wanted }).ok()?;
        Some(arrived)
    }

    /// Tells how the flight `key` has `ended`, which this process began as `number`; nothing if nobody can be told, or if it was
    /// given up and has begun anew: the end of that one is another.
    pub(crate) fn land(&self, key: &[u8], number: Number, ended: request::What) -> Option<Landing> {
        if self.given.number(key) != number {
            return None;
        }
        if length(&ended).is_none() {
            self.given.gives_up(key, number);
        }
        let streams = self.streams.subscribe();
        let Some(arrived) = self.deliver(ended.clone()) else {
            self.given.ends(key, number);
            return None;
        };
        Some(Landing {
            key: Bytes::copy_from_slice(key),
            number,
            ended,
            arrived,
            streams,
        })
    }

    /// Tells what `land` tells to each stream that begins, until it is known that it has arrived; a result also after that, for
    /// as long as it serves: a control plane that starts knows of none.
    pub(crate) async fn landed(&self, landing: Landing) {
        let Landing {
            key,
            number,
            ended,
            mut arrived,
            mut streams,
        } = landing;
        let mut over = pin!(tokio::time::sleep(KEPT));
        let length = length(&ended);
        let mut waits = length.map(|length| self.unheard.try_acquire_many(length));
        let has_room = !matches!(waits, Some(Err(_)));
        let (mut kept, mut turn) = (None, None);
        loop {
            let is_heard = matches!(tokio::time::timeout(ARRIVED, arrived).await, Ok(Ok(_)));
            drop(turn.take());
            if is_heard && kept.is_none() {
                // What is no result says nothing to whoever starts later.
                kept = length.and_then(|length| self.given.lands(&key, number, length));
                drop(waits.take());
                if kept.is_none() {
                    break;
                }
            }
            if kept.is_none() && !has_room {
                break;
            }
            let is_over = async {
                match &mut kept {
                    Some(kept) => _ = kept.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut over => break,
                () = is_over => break,
                _ = streams.changed() => {}
            }
            // All have something to tell to whoever has just started.
            turn = self.telling_again.acquire().await.ok();
            // The end of this one would be taken for that of the next.
            if self.given.number(&key) != number {
                break;
            }
            match self.deliver(ended.clone()) {
                Some(again) => arrived = again,
                None => break,
            }
        }
        self.given.ends(&key, number);
    }

    /// The next question. For one reader at a time: the stream, or who refuses while there is none.
    pub(crate) async fn next(&self) -> Option<Asked> {
        self.receiver.lock().await.recv().await
    }
}

/// KiB that the result takes which is told; none if it is no result.
fn length(ended: &request::What) -> Option<u32> {
    match ended {
        request::What::Flight(flight) if flight.step() == Step::Land => {
            u32::try_from(flight.result.len() / 1024 + 1).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

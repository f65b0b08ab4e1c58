//! Answers what nodes ask for: revocations to be kept, work that one node does for all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::bytes::Bytes;
use proto::v1::control_message::Kind;
use proto::v1::flight::Step;
use proto::v1::request::What;
use proto::v1::{Answer, ControlMessage, Flight, Request, answer};
use shared::clock::monotonic;
use tokio::sync::mpsc;
use tonic::Status;

use super::flights::{Flights, Joined};
use super::wire::message;
use crate::revocations::Revoker;

/// How long an answer may wait for its stream.
const STALLED: Duration = Duration::from_secs(10);

/// Bytes of a flight's key.
const KEY: usize = 64;

/// The way to answer one request.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    outgoing: mpsc::Sender<Result<ControlMessage, Status>>,
    id: u64,
}

impl Asker {
    /// Answers, in a task of its own: the stream may be busy with a snapshot.
    fn answer(self, what: answer::What) {
        tokio::spawn(async move {
            let answer = Answer {
                id: self.id,
                what: Some(what),
            };
            let answer = Ok(message(Kind::Answer(answer)));
            // Who has gone away needs no answer.
            let _ = self.outgoing.send_timeout(answer, STALLED).await;
        });
    }
}

/// What the streams of one control plane share.
#[derive(Clone, Debug, Default)]
pub(super) struct Relay {
    flights: Arc<Mutex<Flights<Asker>>>,
    streams: Arc<AtomicU64>,
}

impl Relay {
    /// A number for a stream that no other has.
    pub(super) fn stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    fn flights(&self) -> MutexGuard<'_, Flights<Asker>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what `request` of stream `by` asks.
    pub(super) fn serve(
        &self,
        by: u64,
        request: Request,
        outgoing: &mpsc::Sender<Result<ControlMessage, Status>>,
        revoker: &Revoker,
    ) {
        let asker = Asker {
            outgoing: outgoing.clone(),
            id: request.id,
        };
        match request.what {
            Some(What::Revoke(revocations)) => {
                let revoker = revoker.clone();
                tokio::spawn(async move {
                    let kept = revoker.revoke(&revocations).await;
                    asker.answer(match kept {
                        Ok(()) => answer::What::Stored(true),
                        Err(refused) => answer::What::Refused(refused.to_string()),
                    });
                });
            }
            Some(What::Flight(flight)) => self.fly(by, flight, asker),
            None => {
                let refused = "this control plane does not know what is asked for";
                asker.answer(answer::What::Refused(refused.to_owned()));
            }
        }
    }

    fn fly(&self, by: u64, flight: Flight, asker: Asker) {
        if flight.key.is_empty() || flight.key.len() > KEY {
            asker.answer(answer::What::Refused("not a key".to_owned()));
            return;
        }
        let now = monotonic();
        match flight.step() {
            Step::Join => match self.flights().join(flight.key, by, asker, now) {
                Joined::Yours(asker) => asker.answer(answer::What::Yours(true)),
                Joined::Done(asker, result) => asker.answer(answer::What::Result(result)),
                Joined::Waits => {}
                Joined::Full(asker) => {
                    asker.answer(answer::What::Refused("too much at once".to_owned()));
                }
            },
            Step::Land => {
                let waiting = self
                    .flights()
                    .land(flight.key, by, flight.result.clone(), now);
                for asker in waiting {
                    asker.answer(answer::What::Result(Bytes::clone(&flight.result)));
                }
            }
            Step::Abandon => {
                let next = self.flights().abandon(&flight.key, by, now);
                if let Some(asker) = next {
                    asker.answer(answer::What::Yours(true));
                }
            }
            Step::Unspecified => {}
        }
    }

    /// Stream `by` is gone.
    pub(super) fn leave(&self, by: u64) {
        let next = self.flights().leave(by, monotonic());
        for asker in next {
            asker.answer(answer::What::Yours(true));
        }
    }
}

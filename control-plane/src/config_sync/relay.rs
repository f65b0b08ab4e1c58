//! Answers what nodes ask for: revocations to be kept, work that one node does for all, what one keeps for another.

mod accord;
mod aside;
mod processes;
mod returns;
#[cfg(test)]
mod tests;
mod unclaimed;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::bytes::Bytes;
use proto::v1::control_message::Kind;
use proto::v1::flight::Step;
use proto::v1::request::What;
use proto::v1::{Answer, Flight, Request, answer};
use shared::clock::monotonic;
use tokio::sync::mpsc;

use self::accord::Accord;
use self::processes::Processes;
use self::returns::Returns;
use self::unclaimed::Unclaimed;
use super::flights::{By, Claim, Flights, Joined, Key, Next, PATIENCE};
use crate::fleet::Process;
use crate::publisher::Publisher;
use crate::revocations::Revoker;
use crate::snapshot::{Frame, frame};
use crate::store::etcd::{Claimed, Claims, EtcdError};

/// How long an answer may wait for its stream.
const STALLED: Duration = Duration::from_secs(10);

/// Bytes of the key of a flight, or of what is put aside.
const KEY: usize = 64;

/// How long the other control planes may take to agree on whose work it is: as long as etcd is without a leader.
const AGREE: Duration = Duration::from_secs(3);

/// How often it is looked whether another control plane has had something done: at first, and at last.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));

/// The claim of a control plane that cannot agree with others: nobody knows what they do, and it decides as if it were alone.
const ALONE: (Claim, bool) = (0, false);

/// How long a process whose stream has ended may take to come back before others do its work.
const RETURNS: Duration = Duration::from_secs(3);

/// The way to answer one request.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    outgoing: mpsc::Sender<Frame>,
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
            let answer = frame(Kind::Answer(answer));
            // Who has gone away needs no answer.
            let _ = self.outgoing.send_timeout(answer, STALLED).await;
        });
    }

    /// Has it do what it asks for. `is_sure`: nobody else does.
    fn give(self, is_sure: bool) {
        self.answer(answer::What::Yours(is_sure));
    }

    fn refuse(self, why: &str) {
        self.answer(answer::What::Refused(why.to_owned()));
    }
}

/// Whether a node may name something so.
fn is_key(key: &Key) -> bool {
    (1..=KEY).contains(&key.len())
}

/// The other control planes over the same etcd.
#[derive(Clone, Debug)]
struct Others {
    /// Where all agree on who does what.
    claims: Arc<Claims>,
    /// What follows them.
    publisher: Publisher,
}

/// What the streams of one control plane share.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    flights: Arc<Mutex<Flights<Asker>>>,
    processes: Arc<Mutex<Processes>>,
    /// Who may do work that the process before this one has given.
    returns: Returns,
    asides: aside::Kept,
    /// None where there is one control plane.
    others: Option<Others>,
    /// Whether all can agree.
    accord: Arc<Mutex<Accord>>,
    unclaimed: Arc<Mutex<Unclaimed>>,
}

impl Relay {
    /// Nothing is known yet. Those in `awaited` had streams of the process before this one. `several`: where several control
    /// planes agree on who does what, and what follows the others.
    pub(super) fn new(several: Option<(Claims, Publisher)>, awaited: BTreeSet<Process>) -> Self {
        let others = several.map(|(claims, publisher)| Others {
            claims: Arc::new(claims),
            publisher,
        });
        let returns = match others {
            // What is claimed by way of etcd stays claimed.
            Some(_) => Returns::none(),
            None => Returns::of(awaited),
        };
        Self {
            returns,
            flights: Arc::new(Mutex::new(Flights::new(others.is_some()))),
            processes: Arc::default(),
            asides: aside::Kept::default(),
            others,
            accord: Arc::new(Mutex::new(Accord::begun(monotonic()))),
            unclaimed: Arc::default(),
        }
    }

    /// A new stream of `process`, which does `flights`: it was given them by a stream before.
    pub(super) fn stream(&self, process: &Process, flights: Vec<Key>) -> By {
        let by = self.processes().take(process);
        let mut news = Vec::new();
        for key in flights.into_iter().filter(is_key) {
            if self.flights().goes_on(key.clone(), by.process, monotonic()) {
                news.push(key);
            }
        }
        self.tell_of(news);
        self.returns.is_back(process);
        by
    }

    /// Where the control planes agree, if there are several.
    fn claims(&self) -> Option<Arc<Claims>> {
        let others = self.others.as_ref()?;
        Some(Arc::clone(&others.claims))
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, Flights<Asker>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what `request` asks, which comes by this stream from the node of this name.
    pub(super) fn serve(
        &self,
        (by, node): (By, &str),
        request: Request,
        outgoing: &mpsc::Sender<Frame>,
        revoker: Option<&Revoker>,
    ) {
        let asker = Asker {
            outgoing: outgoing.clone(),
            id: request.id,
        };
        match request.what {
            Some(What::Revoke(revocations)) => {
                let Some(revoker) = revoker.cloned() else {
                    // The node would not have it back after a restart. It keeps it, and brings it again.
                    let refused = "this store does not lead the node: it holds nothing, or less than the node runs";
                    return asker.refuse(refused);
                };
                tokio::spawn(async move {
                    let kept = revoker.revoke(&revocations).await;
                    asker.answer(match kept {
                        Ok(()) => answer::What::Stored(true),
                        Err(refused) => answer::What::Refused(refused.to_string()),
                    });
                });
            }
            Some(What::Flight(flight)) => self.fly(by, flight, asker),
            Some(What::Aside(aside)) => self.put_or_take(node, aside, asker),
            Some(What::Echo(_)) => asker.answer(answer::What::Echo(true)),
            None => asker.refuse("this control plane does not know what is asked for"),
        }
    }

    fn fly(&self, by: By, flight: Flight, asker: Asker) {
        if !is_key(&flight.key) {
            return asker.refuse("not a key");
        }
        let now = monotonic();
        let key = flight.key.clone();
        match flight.step() {
            Step::Join if !self.returns.are_over() => {
                let relay = self.clone();
                tokio::spawn(async move {
                    relay.returns.over().await;
                    // Who has gone away meanwhile does no work.
                    if !asker.outgoing.is_closed() {
                        relay.join(by, flight, asker);
                    }
                });
            }
            Step::Join => self.join(by, flight, asker),
            Step::Land => {
                let result = Bytes::clone(&flight.result);
                let landed = self.flights().land(flight.key, by.process, result, now);
                let Some((waiting, claim)) = landed else {
                    return;
                };
                tell(waiting, &flight.result);
                self.finish(key, claim, &flight.result);
            }
            Step::Abandon => {
                let next = self.flights().abandon(&flight.key, by.process, now);
                if let Some(next) = next {
                    self.follow(next);
                }
            }
            Step::Unspecified => {}
        }
    }

    fn join(&self, by: By, flight: Flight, asker: Asker) {
        let key = flight.key.clone();
        let mut flights = self.flights();
        let joined = flights.join(flight.key, by, flight.yields, asker, monotonic());
        drop(flights);
        match joined {
            Joined::Yours(asker, is_sure) => asker.give(is_sure),
            Joined::Done(asker, result) => asker.answer(answer::What::Result(result)),
            Joined::Waits => {}
            Joined::Claim(over) => _ = tokio::spawn(self.clone().agree(key, over)),
            Joined::Full(asker) => asker.refuse("too much at once"),
        }
    }

    /// Stream `by` is gone. Its process may come back with another one, and tell of what it does.
    pub(super) fn leave(&self, by: By) {
        self.flights().leave(by.stream);
        let left = self.processes().leave(by);
        if let Some(left) = left {
            let relay = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(RETURNS).await;
                relay.end(by.process, left);
            });
        }
    }

    /// Has others do what a process was to do, unless it has been back since it `left`.
    fn end(&self, process: u64, left: u64) {
        if self.processes().end(process, left) {
            let next = self.flights().end(process, monotonic());
            for next in next {
                self.follow(next);
            }
        }
    }

    fn follow(&self, next: Next<Asker>) {
        match next {
            Next::Yours(asker, is_sure) => asker.give(is_sure),
            Next::Free(key, claim) => self.release(key, claim),
            Next::Claim(key, over) => _ = tokio::spawn(self.clone().agree(key, over)),
        }
    }

    /// Has the work `key` done by whoever the control planes agree on, and tells those that wait here.
    async fn agree(self, key: Key, over: Claim) {
        let Some(others) = self.others.clone() else {
            return;
        };
        let Some(mut claimed) = self.claim(&others, &key, over).await else {
            return self.grant(key, ALONE);
        };
        let mut theirs = (over, monotonic());
        let mut pause = LOOK.0;
        loop {
            match claimed {
                (Claimed::Ours(claim), is_sure) => return self.grant(key, (claim, is_sure)),
                (Claimed::Done(result), _) => {
                    let result = Bytes::from(result);
                    let waiting = self
                        .flights()
                        .landed_elsewhere(key, result.clone(), monotonic());
                    return tell(waiting, &result);
                }
                (Claimed::Theirs(claim), _) if claim != theirs.0 => theirs = (claim, monotonic()),
                (Claimed::Theirs(_), _) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
            if !self.flights().is_awaited(&key) {
                return;
            }
            let is_slow = monotonic().saturating_duration_since(theirs.1) >= PATIENCE;
            claimed = if is_slow {
                match self.claim(&others, &key, theirs.0).await {
                    Some(claimed) => claimed,
                    None => return self.grant(key, ALONE),
                }
            } else {
                match others.claims.look(&key).await {
                    Ok(Some(claimed)) => (claimed, true),
                    // It was given up.
                    Ok(None) => match self.claim(&others, &key, 0).await {
                        Some(claimed) => claimed,
                        None => (Claimed::Theirs(theirs.0), true),
                    },
                    // It goes on nevertheless.
                    Err(_) => (Claimed::Theirs(theirs.0), true),
                }
            };
        }
    }

    /// What comes of a claim, and whether that is sure; none if the control planes cannot agree now.
    async fn claim(&self, others: &Others, key: &Key, over: Claim) -> Option<(Claimed, bool)> {
        let accord = || self.accord.lock().unwrap_or_else(PoisonError::into_inner);
        let began = monotonic();
        if accord().is_apart(began) {
            return None;
        }
        let claiming = tokio::time::timeout(AGREE, others.claims.claim(key, over)).await;
        match claiming.unwrap_or_else(|_| Err(silent())) {
            Ok(claimed) => {
                let now = monotonic();
                let missed = others.publisher.missed(now);
                Some((claimed, accord().agrees(began, now, missed)))
            }
            Err(error) => {
                if accord().fails(monotonic()) {
                    tracing::error!(%error, "control planes cannot agree on whose node refreshes a session or redeems a code; each decides alone");
                }
                None
            }
        }
    }

    /// Has somebody that waits here do the work `key`, under a claim, which is sure or not.
    fn grant(&self, key: Key, (claim, is_sure): (Claim, bool)) {
        let granted = self.flights().granted(&key, (claim, is_sure), monotonic());
        match granted {
            Some(asker) => asker.give(is_sure),
            None => self.release(key, claim),
        }
    }

    /// Tells the other control planes what came of the work `key`.
    fn finish(&self, key: Key, claim: Claim, result: &Bytes) {
        if claim == 0 {
            return self.tell_of(vec![key]);
        }
        let Some(claims) = self.claims() else {
            return;
        };
        let result = result.clone();
        tokio::spawn(async move { finish(&claims, &key, claim, &result).await });
    }

    fn release(&self, key: Key, claim: Claim) {
        let Some(claims) = self.claims().filter(|_| claim != 0) else {
            return;
        };
        tokio::spawn(async move {
            if let Err(error) = claims.release(&key, claim).await {
                tracing::warn!(%error, "other control planes are not told that a session was not refreshed");
            }
        });
    }
}

/// Tells the other control planes what came of the work `key`, which was done under `claim`.
async fn finish(claims: &Claims, key: &Key, claim: Claim, result: &Bytes) {
    if let Err(error) = claims.finish(key, claim, result.to_vec()).await {
        tracing::warn!(%error, "other control planes are not told of a refreshed session, or of a code that was redeemed");
    }
}

/// That etcd does not answer.
fn silent() -> EtcdError {
    EtcdError::Unreachable("no answer within 3 s".to_owned())
}

/// Tells those that have waited what came of it.
fn tell(waiting: Vec<Asker>, result: &Bytes) {
    for asker in waiting {
        asker.answer(answer::What::Result(result.clone()));
    }
}

//! What this node sends besides its state: its cores' questions, and how the answers are used.

use std::collections::HashMap;

use bytes::Bytes;
use plugins::sessions::revocations::Revocations;
use proto::v1::flight::Step;
use proto::v1::{
    Answer, Flight, NodeMessage, Request, Revoke, Revoked, answer, node_message, request,
};
use shared::clock::UnixTime;
use shared::entity::{Entity as _, Revocation};
use shared::snapshot::{Record, Revision};
use tokio::sync::{mpsc, oneshot};

use super::applier::heed;
use super::beside::{Heard, revocations};
use super::ended::Ended;
use super::receiver::{Content, Update};
use crate::ask::{Asked, Given, Wanted};
use crate::balancer::Balancers;
use crate::live::Live;

/// Questions that may wait for their answers.
const UNANSWERED: usize = 4096;

/// Who waits for an answer.
struct Waiting {
    answer: oneshot::Sender<answer::What>,
    /// What names the work that is asked for, if it is some.
    work: Option<Bytes>,
}

/// One stream, as far as it is this node that speaks.
pub(super) struct Asking<'a> {
    given: &'a Given,
    revocations: &'a Revocations,
    /// What requests run by, and the balancers of that: operators say how targets are.
    live: (&'a Live, &'a Balancers),
    outgoing: mpsc::Sender<NodeMessage>,
    /// Who waits for which answer.
    asked: HashMap<u64, Waiting>,
    questions: u64,
    heard: Heard,
}

impl<'a> Asking<'a> {
    /// Nothing has been asked yet.
    pub(super) fn new(
        given: &'a Given,
        revocations: &'a Revocations,
        live: (&'a Live, &'a Balancers),
        outgoing: mpsc::Sender<NodeMessage>,
    ) -> Self {
        Self {
            given,
            revocations,
            live,
            outgoing,
            asked: HashMap::new(),
            questions: 0,
            heard: Heard::default(),
        }
    }

    /// Never waits: a control plane that reads nothing is as good as gone.
    pub(super) fn send(&self, kind: node_message::Kind) -> Result<(), Ended> {
        let message = NodeMessage { kind: Some(kind) };
        self.outgoing.try_send(message).map_err(|_| Ended::Silent)
    }

    /// Says nothing any more.
    pub(super) fn close(&mut self) {
        let (nowhere, _) = mpsc::channel(1);
        self.outgoing = nowhere;
    }

    /// Sends on what a core asks. Whoever asked learns from the lost sender that there is no answer.
    pub(super) fn ask(&mut self, asked: Option<Asked>) -> Result<(), Ended> {
        let Some(Asked { what, wanted }) = asked else {
            return Ok(());
        };
        let (what, answer) = match wanted {
            Wanted::Nothing => return self.request(what),
            Wanted::Arrival(answer) => {
                self.request(what)?;
                (request::What::Echo(true), answer)
            }
            Wanted::Answer(answer) => (what, answer),
        };
        // Who has gone away meanwhile would be given work.
        if answer.is_closed() {
            return Ok(());
        }
        if self.asked.len() >= UNANSWERED {
            self.asked.retain(|_, waiting| !waiting.answer.is_closed());
        }
        if self.asked.len() >= UNANSWERED {
            let full = "too many questions wait for their answers";
            // Whoever asked may have gone away.
            _ = answer.send(answer::What::Refused(full.to_owned()));
            return Ok(());
        }
        let work = match &what {
            request::What::Flight(flight) => Some(flight.key.clone()),
            _ => None,
        };
        // To what could not be sent there is no answer.
        self.request(what)?;
        self.asked.insert(self.questions, Waiting { answer, work });
        Ok(())
    }

    /// Nobody will be answered any more.
    pub(super) fn cut(&mut self) {
        self.asked.clear();
    }

    fn request(&mut self, what: request::What) -> Result<(), Ended> {
        self.questions += 1;
        let request = Request {
            id: self.questions,
            what: Some(what),
        };
        self.send(node_message::Kind::Request(request))
    }

    /// Gives an answer to whoever waits for it.
    pub(super) fn take(&mut self, answer: Answer) -> Result<(), Ended> {
        let waiting = self.asked.remove(&answer.id);
        let (Some(waiting), Some(what)) = (waiting, answer.what) else {
            return Ok(());
        };
        let is_given = matches!(what, answer::What::Yours(_));
        let work = waiting.work.filter(|_| is_given);
        let given = self.given;
        let is_lost = waiting.answer.is_closed();
        // Whoever had to do without the answer has begun it.
        let work = work.filter(|key| !(is_lost && given.is_under_way(key)));
        let work = work.map(|key| (given.begins(&key), key));
        // Who no longer waits has gone away, and does no work.
        let is_lost = waiting.answer.send(what).is_err();
        if let Some((number, key)) = work.filter(|_| is_lost) {
            given.ends(&key, number);
            return self.abandon(key);
        }
        Ok(())
    }

    /// Leaves the work `key` to the next one that waits for it.
    fn abandon(&mut self, key: Bytes) -> Result<(), Ended> {
        self.request(request::What::Flight(Flight {
            key,
            step: Step::Abandon.into(),
            ..Flight::default()
        }))
    }

    /// What is over is so at once, whatever else is on its way to this node, which is `running` something older.
    pub(super) fn revoke(&mut self, told: &Revoke, running: Revision) -> Result<(), Ended> {
        let is_read = self.heed(told);
        match self.heard.note(told.revision, is_read, running) {
            Some(revision) => self.send(node_message::Kind::Revoked(Revoked { revision })),
            None => Ok(()),
        }
    }

    /// The same without an answer. Whether it can be read.
    pub(super) fn heed(&self, told: &Revoke) -> bool {
        let revocations = revocations(told);
        let is_read = revocations.is_some();
        if let Some(revocations) = revocations {
            self.add(revocations);
        } else {
            tracing::warn!("what was revoked cannot be read; it comes with the next configuration");
        }
        is_read
    }

    /// What `update` ends is over, though nothing of it is brought into force. What cannot be read comes with another.
    pub(super) fn hear(&self, update: &Update) {
        let records: Vec<Record> = match &update.content {
            Ok(Content::Full(snapshot)) => snapshot.of_kind(Revocation::KIND).collect(),
            Ok(Content::Changes { changes, .. } | Content::Buckets { changes, .. }) => {
                changes.puts.clone()
            }
            Ok(Content::Same) | Err(_) => return,
        };
        let records = records.iter();
        let ended = records.filter(|record| record.key.kind == Revocation::KIND);
        let read = ended.filter_map(|record| serde_json::from_slice(&record.json).ok());
        self.add(read.collect());
    }

    fn add(&self, revocations: Vec<Revocation>) {
        let ((live, balancers), now) = (self.live, UnixTime::now());
        if let Some(live) = live.load().as_deref() {
            // Once more with what brings it: a target may be new there.
            heed(balancers, live, &revocations, now);
        }
        self.revocations.add(revocations, now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::v1::node_message::Kind;
    use serde_json::json;
    use shared::snapshot::Snapshot;
    use uuid::Uuid;

    use super::*;
    use crate::balancer::report;
    use crate::balancer::tests::record;
    use crate::compile::compile;

    #[test]
    fn work_that_was_begun_without_the_answer_is_left_to_nobody_else() {
        for is_begun in [true, false] {
            let (given, revocations) = <(Given, _)>::default();
            let (live, balancers) = Default::default();
            let (outgoing, mut sent) = mpsc::channel(2);
            let mut asking = Asking::new(&given, &revocations, (&live, &balancers), outgoing);
            let (answer, answered) = oneshot::channel();
            let key = Bytes::from_static(&[7; 32]);
            let what = request::What::Flight(Flight {
                key: key.clone(),
                step: Step::Join.into(),
                ..Flight::default()
            });
            let wanted = Wanted::Answer(answer);
            assert!(asking.ask(Some(Asked { what, wanted })).is_ok());
            let Some(Kind::Request(request)) = sent.try_recv().unwrap().kind else {
                panic!("no request");
            };
            drop(answered);
            let number = is_begun.then(|| given.begins(&key));
            let what = Some(answer::What::Yours(true));
            let id = request.id;
            assert!(asking.take(Answer { id, what }).is_ok());
            // The next one would use a refresh token a second time.
            assert_eq!(sent.try_recv().is_ok(), !is_begun);
            assert_eq!(given.number(&key), number.unwrap_or_default());
        }
    }

    #[test]
    fn what_operators_say_of_a_target_holds_beside_an_update() {
        let (given, revocations) = <(Given, _)>::default();
        let (live, balancers) = <(Live, Balancers)>::default();
        let target = json!({ "target": "127.0.0.1:80", "upstream": { "id": Uuid::from_u128(1) } });
        let records = vec![
            record("upstreams", 1, json!({ "name": "u.test" })),
            record("targets", 2, target),
        ];
        let compiled = compile(&Snapshot::new(1, Revision(1), records)).unwrap();
        let running = Arc::new(compiled);
        live.store(Some(Arc::clone(&running)));
        let ill = || report::unhealthy(&running.balancers(&balancers)[0]);
        let (outgoing, mut sent) = mpsc::channel(1);
        let mut asking = Asking::new(&given, &revocations, (&live, &balancers), outgoing);
        assert!(ill().is_empty());
        let mark = Revocation {
            id: Revocation::mark(Uuid::from_u128(2), None, false),
            before: 1,
            expires_at: UnixTime::now().as_secs() + 60,
        };
        let told = Revoke {
            revision: 9,
            revocations: serde_json::to_vec(&[mark]).unwrap().into(),
        };
        assert!(asking.revoke(&told, Revision(1)).is_ok());
        assert_eq!(ill(), [Uuid::from_u128(2)]);
        let answer = sent.try_recv().unwrap().kind;
        assert_eq!(answer, Some(Kind::Revoked(Revoked { revision: 9 })));
    }

    #[test]
    fn who_asks_what_cannot_be_sent_hears_at_once_that_there_is_no_answer() {
        let (given, revocations) = Default::default();
        let (live, balancers) = Default::default();
        let (outgoing, mut sent) = mpsc::channel(1);
        let mut asking = Asking::new(&given, &revocations, (&live, &balancers), outgoing);
        let mut ask = || {
            let (answer, answered) = oneshot::channel();
            let what = request::What::Echo(true);
            let wanted = Wanted::Answer(answer);
            (asking.ask(Some(Asked { what, wanted })), answered)
        };
        let (asked, mut first) = ask();
        assert!(asked.is_ok());
        let (asked, mut second) = ask();
        assert!(matches!(asked, Err(Ended::Silent)));
        let closed = oneshot::error::TryRecvError::Closed;
        assert_eq!(second.try_recv(), Err(closed));
        // The one before waits on, and has its answer.
        let Some(Kind::Request(request)) = sent.try_recv().unwrap().kind else {
            panic!("no request");
        };
        let what = Some(answer::What::Stored(true));
        let id = request.id;
        assert!(
            asking
                .take(Answer {
                    id,
                    what: what.clone()
                })
                .is_ok()
        );
        assert_eq!(first.try_recv().ok(), what);
    }
}

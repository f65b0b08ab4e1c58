//! One stream, from its Welcome to its end.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use proto::v1::control_message::Kind;
use proto::v1::fault::Code;
use proto::v1::flight::Step;
use proto::v1::goodbye::Why;
use proto::v1::{
    Ack, ControlMessage, Expiry, Fault, Flight, Nack, Need, NodeMessage, NodeStatus, Request,
    Welcome, answer, need, node_message, request,
};
use shared::clock::{UnixTime, monotonic};
use shared::snapshot::Position;
use shared::telemetry::Trouble;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::Phase;
use super::applier::{Applier, FAULTS, told};
use super::backoff::spread;
use super::connection::{ConnectError, Dialer, Subscription};
use super::receiver::{Content, Receiver, Update, Violation};
use crate::ask::Asked;
use crate::balancer::{Balancer, show};
use crate::core::Node as Gateway;
use crate::metrics::{Figures, Sum};

/// Pause between two looks for secrets that are missing.
const LOOK: Duration = Duration::from_secs(2);
/// Most targets that a report names.
const UNHEALTHY: usize = 10_000;
/// How long a control plane may take to end a stream that is closed.
const CLOSING: Duration = Duration::from_millis(500);
/// Missed heartbeats after which the control plane counts as gone.
const MISSED: u32 = 3;
/// Bounds of what a control plane may ask for.
const CADENCE: std::ops::RangeInclusive<u32> = 100..=60_000;
/// Questions that may wait for their answers.
const UNANSWERED: usize = 4096;
/// The longest wait that a control plane may ask for.
const LONGEST_HOLD: Duration = Duration::from_mins(1);
/// How far two clocks may differ before it is worth a word: lifetimes are judged by them.
const CLOCKS: Duration = Duration::from_secs(5);

/// Why following a control plane ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{0}")]
    Unreachable(ConnectError),
    #[error("the control plane ended the stream")]
    Closed,
    #[error("the connection broke: {}", .0.message())]
    Broken(Status),
    #[error("no heartbeat in time")]
    Silent,
    #[error("the control plane does not follow the protocol: {0}")]
    Protocol(#[from] Violation),
    #[error("{message}")]
    Goodbye { within: Duration, message: String },
    #[error("another process of this node serves now")]
    HandedOver,
    #[error("another process follows as this node: {0}")]
    Superseded(String),
    #[error("this node is to run once more what it has crashed with")]
    Again,
    #[error("told to wait: {reason}")]
    Held { wait: Duration, reason: String },
}

impl Ended {
    /// Whether it belongs to the life of a cluster.
    pub(super) const fn is_expected(&self) -> bool {
        matches!(
            self,
            Self::Goodbye { .. } | Self::HandedOver | Self::Again | Self::Held { .. }
        )
    }
}

/// Who waits for an answer.
struct Waiting {
    answer: oneshot::Sender<answer::What>,
    /// What names the work that is asked for, if it is some.
    work: Option<Bytes>,
}

struct Following<'a> {
    dialer: &'a mut Dialer,
    applier: &'a mut Applier,
    gateway: &'a Gateway,
    /// What was counted by the last report.
    figures: Figures,
    /// Who waits for which answer.
    asked: HashMap<u64, Waiting>,
    questions: u64,
    outgoing: mpsc::Sender<NodeMessage>,
    receiver: Receiver,
    heartbeat: Duration,
    status: Duration,
    /// Whether the clocks are apart.
    clocks: Trouble,
    /// What is logged of refusals.
    refusals: Trouble,
}

/// Follows a control plane until the stream ends.
pub(super) async fn follow(
    stream: Subscription,
    dialer: &mut Dialer,
    applier: &mut Applier,
    gateway: &Gateway,
    phase: &mut watch::Receiver<Phase>,
) -> Ended {
    let Subscription {
        mut incoming,
        outgoing,
    } = stream;
    let mut following = Following {
        dialer,
        applier,
        gateway,
        figures: Figures::default(),
        asked: HashMap::new(),
        questions: 0,
        outgoing,
        receiver: Receiver::default(),
        heartbeat: Duration::from_secs(10),
        status: Duration::from_secs(10),
        clocks: Trouble::default(),
        refusals: Trouble::default(),
    };
    following.applier.expects(Duration::ZERO);
    let mut heard = Instant::now();
    let mut report = Instant::now();
    let mut look = Instant::now() + LOOK;
    loop {
        let silent = heard + following.heartbeat * MISSED;
        let outcome = tokio::select! {
            received = incoming.message() => match received {
                Ok(Some(message)) => {
                    let outcome = following.receive(message).await;
                    heard = Instant::now();
                    gateway.contact.hears(monotonic());
                    outcome
                }
                Ok(None) => Err(Ended::Closed),
                Err(status) => Err(Ended::Broken(status)),
            },
            () = tokio::time::sleep_until(report) => {
                // 80 to 120 %, so that a fleet does not report as one.
                let jitter = spread(following.status * 2 / 5, super::random());
                report = Instant::now() + following.status * 4 / 5 + jitter;
                following.report(*phase.borrow())
            }
            () = tokio::time::sleep_until(look), if following.applier.lacks_secrets() => {
                following.applier.find_secrets().await;
                look = Instant::now() + LOOK;
                Ok(())
            }
            // What is coming in may be the mend.
            () = until(following.applier.again()), if !following.receiver.is_receiving() => {
                // Another Hello tells the control plane.
                let again = following.applier.asks_again() || following.applier.run_again().await;
                if again { Err(Ended::Again) } else { Ok(()) }
            }
            asked = gateway.questions.next() => following.ask(asked),
            () = following.applier.persisted() => following.report(*phase.borrow()),
            changed = phase.changed() => match changed {
                Ok(()) if *phase.borrow() == Phase::HandedOver => Err(Ended::HandedOver),
                Ok(()) => following.report(*phase.borrow()),
                Err(_) => std::future::pending().await,
            },
            () = tokio::time::sleep_until(silent) => Err(Ended::Silent),
        };
        if let Err(ended) = outcome {
            if matches!(ended, Ended::HandedOver) {
                following.close(&mut incoming).await;
            }
            match ended {
                Ended::Held { wait, .. } => following.applier.expects(wait),
                Ended::Again => {}
                _ => following.applier.expects(Duration::ZERO),
            }
            return ended;
        }
    }
}

/// Waits for `instant`; for ever, if there is none.
pub(super) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

impl Following<'_> {
    async fn receive(&mut self, message: ControlMessage) -> Result<(), Ended> {
        match message.kind {
            Some(Kind::Welcome(welcome)) => {
                self.gateway.contact.connects(true, monotonic());
                self.gateway.contact.hears(monotonic());
                self.led_to(welcome.target.as_ref());
                self.welcome(&welcome);
                let target = welcome.target.and_then(|target| target.try_into().ok());
                self.applier.is_led_to(target);
                let running = self.applier.running();
                if target.is_none_or(|target: Position| !target.is_after(&running)) {
                    self.settle();
                }
            }
            Some(Kind::Heartbeat(heartbeat)) => {
                self.led_to(heartbeat.target.as_ref());
                self.compare_clocks(heartbeat.wall_clock_ms);
            }
            Some(Kind::AskDigests(_)) => {
                let digests = need::What::Digests(self.applier.digests());
                return self.need(digests);
            }
            Some(Kind::Hold(hold)) => {
                return Err(Ended::Held {
                    wait: Duration::from_millis(u64::from(hold.retry_after_ms)).min(LONGEST_HOLD),
                    reason: hold.reason,
                });
            }
            Some(Kind::Begin(begin)) => self.receiver.begin(begin)?,
            Some(Kind::Chunk(chunk)) => self.receiver.chunk(&chunk)?,
            Some(Kind::Commit(commit)) => {
                let update = self.receiver.commit(&commit)?;
                return self.apply(update).await;
            }
            Some(Kind::Goodbye(goodbye)) => {
                let within = Duration::from_millis(u64::from(goodbye.reconnect_within_ms));
                let (why, message) = (goodbye.why(), goodbye.message);
                return Err(match why {
                    Why::Restarting | Why::Rebalance => Ended::Goodbye { within, message },
                    Why::Superseded => Ended::Superseded(message),
                    // Coming back at once would only repeat it.
                    _ => Ended::Broken(Status::aborted(message)),
                });
            }
            // A newer control plane may say more than this node knows.
            Some(Kind::Answer(answer)) => {
                let waiting = self.asked.remove(&answer.id);
                if let (Some(waiting), Some(what)) = (waiting, answer.what) {
                    let is_given = matches!(what, answer::What::Yours(_));
                    let work = waiting.work.filter(|_| is_given);
                    if let Some(key) = &work {
                        self.gateway.questions.given.begins(key);
                    }
                    // Who no longer waits has gone away, and does no work.
                    let is_lost = waiting.answer.send(what).is_err();
                    if let Some(key) = work.filter(|_| is_lost) {
                        self.gateway.questions.given.ends(&key);
                        return self.abandon(key);
                    }
                }
            }
            None => {}
        }
        Ok(())
    }

    /// What runs is as new as a control plane says: who is logged out is known.
    fn settle(&self) {
        if self.gateway.sessions_max_silence.is_some() {
            self.gateway.revocations.lose(false);
        }
        self.gateway.contact.settle();
    }

    fn led_to(&self, target: Option<&proto::v1::Position>) {
        if let Some(target) = target {
            self.gateway.contact.is_led_to(target.revision);
        }
    }

    /// Sends on what a core asks. Whoever asked learns from the lost sender that there is no answer.
    fn ask(&mut self, asked: Option<Asked>) -> Result<(), Ended> {
        let Some(Asked { what, answer }) = asked else {
            return Ok(());
        };
        let Some(answer) = answer else {
            return self.request(what);
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
        self.asked
            .insert(self.questions + 1, Waiting { answer, work });
        self.request(what)
    }

    fn request(&mut self, what: request::What) -> Result<(), Ended> {
        self.questions += 1;
        let request = Request {
            id: self.questions,
            what: Some(what),
        };
        self.send(node_message::Kind::Request(request))
    }

    /// Leaves the work `key` to the next one that waits for it.
    fn abandon(&mut self, key: Bytes) -> Result<(), Ended> {
        self.request(request::What::Flight(Flight {
            key,
            step: Step::Abandon.into(),
            ..Flight::default()
        }))
    }

    /// Ends the stream once the control plane has taken what was sent, and hears its last answers.
    async fn close(&mut self, incoming: &mut Streaming<ControlMessage>) {
        let (nowhere, _) = mpsc::channel(1);
        self.outgoing = nowhere;
        let ending = async {
            while let Ok(Some(message)) = incoming.message().await {
                if let Some(Kind::Answer(_)) = message.kind {
                    _ = self.receive(message).await;
                }
            }
        };
        _ = tokio::time::timeout(CLOSING, ending).await;
    }

    fn need(&self, what: need::What) -> Result<(), Ended> {
        self.send(node_message::Kind::Need(Need { what: Some(what) }))
    }

    fn welcome(&mut self, welcome: &Welcome) {
        let bounded = |milliseconds: u32| {
            let bounded = milliseconds.clamp(*CADENCE.start(), *CADENCE.end());
            Duration::from_millis(u64::from(bounded))
        };
        self.heartbeat = bounded(welcome.heartbeat_ms);
        self.status = bounded(welcome.status_ms);
        tracing::info!(replica = welcome.replica, "following a control plane");
        self.compare_clocks(welcome.wall_clock_ms);
    }

    /// Says once if the clocks have come apart.
    fn compare_clocks(&mut self, theirs: u64) {
        let theirs = UnixTime::from_millis(theirs);
        let ours = UnixTime::now();
        let apart = theirs
            .saturating_since(ours)
            .max(ours.saturating_since(theirs));
        if apart <= CLOCKS {
            self.clocks.ends();
        } else if self.clocks.is_news("apart", monotonic()) {
            tracing::warn!(
                seconds = apart.as_secs(),
                "this node's clock differs from the control plane's: sessions and tokens will seem older or younger than they are"
            );
        }
    }

    async fn apply(&mut self, update: Update) -> Result<(), Ended> {
        let (nonce, target) = (update.nonce, update.target);
        let whole = matches!(update.content, Ok(Content::Full(_)));
        let started = monotonic();
        let before = self.applier.running().revision;
        // Who may vouch for it may have changed since the connection began.
        self.renew();
        let outcome = self.applier.apply(update).await;
        let running = Some((&self.applier.running()).into());
        let mut helpless = false;
        let answer = match outcome {
            Ok(()) => {
                let apply_ms = u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX);
                if target.revision != before {
                    self.refusals.ends();
                }
                tracing::info!(revision = %target.revision, duration_ms = apply_ms, "configuration applied");
                node_message::Kind::Ack(Ack {
                    nonce,
                    running,
                    apply_ms,
                })
            }
            Err(faults) => {
                // What is here is not what changes could be made to; the whole set does not need it.
                helpless = !whole && faults.iter().any(is_of_the_way);
                self.applier.finds_nothing();
                self.tell_of(&target, &faults);
                node_message::Kind::Nack(Nack {
                    nonce,
                    running,
                    refused: Some((&target).into()),
                    faults,
                })
            }
        };
        self.send(answer)?;
        if helpless {
            return self.need(need::What::Everything(true));
        }
        self.settle();
        Ok(())
    }

    /// Logs a refusal. One for the reasons of the last is no news: a control plane may send the same again with each logout.
    fn tell_of(&mut self, target: &Position, faults: &[Fault]) {
        if !self.refusals.is_news(&format!("{faults:?}"), monotonic()) {
            return;
        }
        for fault in faults {
            tracing::error!(
                revision = %target.revision,
                entity = format!("{} {}", fault.entity_type, fault.entity_id),
                field = fault.field,
                reason = fault.message,
                "configuration refused; the one before it goes on"
            );
        }
    }

    fn report(&mut self, phase: Phase) -> Result<(), Ended> {
        self.renew();
        let sum = Sum::of(&self.gateway.metrics);
        let figures = sum.figures();
        let p99 = figures.p99_since(&self.figures);
        let contact = &self.gateway.contact;
        let status = NodeStatus {
            running: Some((&self.applier.running()).into()),
            wall_clock_ms: UnixTime::now().as_millis(),
            persisted: self.applier.is_persisted(),
            draining: phase != Phase::Serving,
            requests: figures.requests,
            failed: figures.failed,
            connections: u32::try_from(sum.open).unwrap_or(u32::MAX),
            resident_bytes: shared::machine::resident_bytes(),
            crash_restarts: u32::try_from(contact.crash_restarts()).unwrap_or(u32::MAX),
            p99_us: p99,
            expiries: self.expiries(),
            unhealthy_targets: self.targets(show::unhealthy_targets),
            unresolved_targets: self.targets(show::unresolved_targets),
            unfit: self.unfit(),
        };
        self.figures = figures;
        self.send(node_message::Kind::Status(status))
    }

    /// Takes up certificates that have changed.
    fn renew(&mut self) {
        if let Some((verifier, secret)) = self.dialer.renew() {
            self.applier.renew(verifier, secret);
        }
    }

    /// What runs out when.
    fn expiries(&self) -> Vec<Expiry> {
        let all = self.gateway.expiring.all(&self.gateway.live);
        all.into_iter()
            .map(|(what, at)| Expiry {
                what,
                at: at.as_secs(),
            })
            .collect()
    }

    /// Records that what runs does without.
    fn unfit(&self) -> Vec<Fault> {
        let live = self.gateway.live.load();
        let faults = live.as_ref().map_or(&[][..], |live| live.unfit().faults());
        faults.iter().take(FAULTS).cloned().map(told).collect()
    }

    /// The targets of upstreams that are `such`.
    fn targets(&self, such: fn(&Balancer) -> Vec<Uuid>) -> Vec<Bytes> {
        let live = self.gateway.live.load();
        let Some(snapshot) = live.as_ref() else {
            return Vec::new();
        };
        let balancers = snapshot.balancers(&self.gateway.balancers);
        let ids = balancers.iter().flat_map(|one| such(one));
        ids.take(UNHEALTHY)
            .map(|id| Bytes::copy_from_slice(id.as_bytes()))
            .collect()
    }

    /// Never waits: a control plane that reads nothing is as good as gone.
    fn send(&self, kind: node_message::Kind) -> Result<(), Ended> {
        let message = NodeMessage { kind: Some(kind) };
        self.outgoing.try_send(message).map_err(|_| Ended::Silent)
    }
}

/// Whether a fault lies in how the records came, not in what they say.
fn is_of_the_way(fault: &Fault) -> bool {
    matches!(fault.code(), Code::BadBase | Code::Corrupt)
}

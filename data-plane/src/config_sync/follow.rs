//! One stream, from its Welcome to its end.

mod settling;
mod welcome;

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use proto::v1::control_message::Kind;
use proto::v1::fault::Code;
use proto::v1::goodbye::Why;
use proto::v1::{
    Ack, ControlMessage, Expiry, Fault, Milestone, Nack, Need, NodeStatus, Quarantine, Reached,
    need, node_message,
};
use shared::clock::{UnixTime, monotonic};
use shared::snapshot::Position;
use shared::telemetry::Trouble;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::applier::{Applier, FAULTS, told};
use super::asking::Asking;
use super::backoff::random;
use super::connection::{Dialer, Subscription};
use super::ended::Ended;
use super::receiver::{Content, Receiver, Update};
use super::reporting::Reporting;
use super::{Phase, until};
use crate::balancer::report;
use crate::core::Node as Gateway;
use crate::metrics::{Figures, Sum};

/// Pause between two looks for secrets that are missing.
const LOOK: Duration = Duration::from_secs(2);
/// How long a control plane may take to end a stream that is closed.
const CLOSING: Duration = Duration::from_millis(500);
/// Missed heartbeats after which the control plane counts as gone.
const MISSED: u32 = 3;
/// Messages that may wait until something is in force; a control plane that waits for that has little to say.
const LATE: usize = 16;
/// How long the stream that speaks for the node stays once a successor serves, whose own takes its place: so the node is never
/// without one, and what an operator orders of it finds its way.
const SUCCEEDED: Duration = Duration::from_secs(3);

/// What the stream gives.
type Received = Result<Option<ControlMessage>, Status>;

struct Following<'a> {
    dialer: &'a mut Dialer,
    applier: &'a mut Applier,
    gateway: &'a Gateway,
    asking: Asking<'a>,
    /// What came while something was brought into force, and waits for that.
    late: VecDeque<Received>,
    /// What was counted by the last report.
    figures: Figures,
    receiver: Receiver,
    /// How often in a row the control plane was heard while no update was on its way.
    idle: u32,
    /// Whether nothing is taken that a successor would not know of.
    rests: bool,
    /// Until when at most this stream stays, once there is a successor, which speaks for the node: this process rests on.
    leaves: Option<Instant>,
    heartbeat: Duration,
    status: Duration,
    /// When the stream was asked for.
    asked: UnixTime,
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
        asked,
        mut incoming,
        outgoing,
    } = stream;
    let mut following = Following {
        dialer,
        applier,
        gateway,
        figures: Figures::default(),
        asking: Asking::new(
            &gateway.questions.given,
            &gateway.revocations,
            (&gateway.live, &gateway.balancers),
            outgoing,
        ),
        late: VecDeque::new(),
        receiver: Receiver::default(),
        idle: 0,
        rests: *phase.borrow() == Phase::Resting,
        leaves: None,
        heartbeat: Duration::from_secs(10),
        status: Duration::from_secs(10),
        asked,
        clocks: Trouble::default(),
        refusals: Trouble::default(),
    };
    following.applier.expects(Duration::ZERO);
    let mut heard = Instant::now();
    let mut reporting = Reporting::begin(Instant::now());
    let mut look = Instant::now() + LOOK;
    loop {
        let silent = heard + following.heartbeat * MISSED;
        let outcome = tokio::select! {
            received = next(&mut following.late, &mut incoming) => match received {
                Ok(Some(message)) => {
                    let outcome = following.receive(message, &mut incoming).await;
                    heard = Instant::now();
                    gateway.contact.hears(monotonic());
                    outcome
                }
                Ok(None) => Err(Ended::Closed),
                Err(status) => Err(Ended::Broken(status)),
            },
            () = tokio::time::sleep_until(reporting.due()) => {
                let every = (following.status, gateway.balancers.unhealthy());
                reporting.report(Instant::now(), every, random());
                following.report(*phase.borrow())
            }
            turn = gateway.balancers.turned() => {
                reporting.change(Instant::now(), turn, random());
                Ok(())
            }
            () = tokio::time::sleep_until(look), if following.applier.lacks_secrets() => {
                following.applier.find_secrets().await;
                look = Instant::now() + LOOK;
                Ok(())
            }
            // What is coming in may be the mend.
            () = until(following.applier.again()), if !following.receiver.is_receiving() && !following.rests => {
                // Another Hello tells the control plane.
                let again = following.applier.asks_again() || following.applier.run_again().await;
                if again { Err(Ended::Again) } else { Ok(()) }
            }
            asked = gateway.questions.next() => following.asking.ask(asked),
            () = following.applier.persisted() => following.report(*phase.borrow()),
            Ok(()) = phase.changed() => {
                let now = *phase.borrow_and_update();
                if following.rests && now == Phase::HandedOver {
                    following.leaves = Some(Instant::now() + SUCCEEDED);
                    gateway.leaves.send_replace(true);
                    super::leave(following.applier, gateway);
                    Ok(())
                } else if following.leaves.is_some() {
                    Ok(())
                } else {
                    following.rests = now == Phase::Resting;
                    following.turn(now)
                }
            }
            () = until(following.leaves) => Err(Ended::HandedOver),
            () = tokio::time::sleep_until(silent) => Err(Ended::Silent),
        };
        if let Err(ended) = outcome {
            let ended = match ended {
                Ended::Superseded(_) if following.leaves.is_some() => Ended::HandedOver,
                ended => ended,
            };
            if matches!(ended, Ended::HandedOver) {
                following.close(&mut incoming).await;
            }
            gateway.leaves.send_replace(false);
            match ended {
                Ended::Held { wait, .. } => following.applier.expects(wait),
                Ended::Again => {}
                _ => following.applier.expects(Duration::ZERO),
            }
            return ended;
        }
    }
}

impl Following<'_> {
    /// Does what the process is to do `now`.
    fn turn(&mut self, now: Phase) -> Result<(), Ended> {
        match now {
            Phase::HandedOver => Err(Ended::HandedOver),
            Phase::Resting => {
                let holds = self.applier.holds();
                self.gateway.holds.send_replace(Some(holds));
                Ok(())
            }
            // What was not taken meanwhile comes with another stream.
            Phase::Serving => Err(Ended::Turned),
            Phase::Draining | Phase::Stopped => self.report(now),
        }
    }

    /// Takes what the control plane says; while this process rests, nothing that would change what it holds.
    async fn receive(
        &mut self,
        message: ControlMessage,
        incoming: &mut Streaming<ControlMessage>,
    ) -> Result<(), Ended> {
        match message.kind {
            Some(Kind::SessionKeys(_)) if self.rests => {}
            Some(Kind::Commit(commit)) if self.rests => {
                let update = self.receiver.commit(&commit)?;
                // What ends sessions holds at once, all the same: its successor is told of that.
                self.asking.hear(&update);
            }
            // It speaks for the node, which is not said to hold what only this process does.
            Some(Kind::Revoke(told)) if self.leaves.is_some() => _ = self.asking.heed(&told),
            Some(Kind::Welcome(welcome)) => self.welcome(welcome).await,
            Some(Kind::Heartbeat(heartbeat)) => {
                self.led_to(heartbeat.target.as_ref());
                self.compare_clocks(heartbeat.wall_clock_ms, false);
                self.settle_at(heartbeat.target.and_then(|target| target.try_into().ok()));
            }
            Some(Kind::AskDigests(_)) => {
                return self.need(need::What::Digests(self.applier.digests()));
            }
            Some(Kind::Hold(hold)) => {
                return Err(Ended::Held {
                    wait: Duration::from_millis(u64::from(hold.retry_after_ms)),
                    reason: hold.reason,
                });
            }
            Some(Kind::Begin(begin)) => self.receiver.begin(begin)?,
            Some(Kind::Chunk(chunk)) => self.receiver.chunk(&chunk)?,
            Some(Kind::Part(part)) => self.receiver.part(&part)?,
            Some(Kind::Milestone(Milestone { at })) => {
                return self.send(node_message::Kind::Reached(Reached { at }));
            }
            Some(Kind::Revoke(told)) => {
                let running = self.applier.running().revision;
                return self.asking.revoke(&told, running);
            }
            Some(Kind::SessionKeys(told)) => self.applier.take_keys(&told).await,
            Some(Kind::Commit(commit)) => {
                let update = self.receiver.commit(&commit)?;
                return self.apply(update, incoming).await;
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
            Some(Kind::Answer(answer)) => return self.asking.take(answer),
            // A newer control plane may say more than this node knows.
            None => {}
        }
        Ok(())
    }

    fn led_to(&self, target: Option<&proto::v1::Position>) {
        if let Some(target) = target {
            self.gateway.contact.is_led_to(target.revision);
        }
    }

    /// Ends the stream once the control plane has taken what was sent, and hears its last answers.
    async fn close(&mut self, incoming: &mut Streaming<ControlMessage>) {
        self.asking.close();
        let ending = async {
            while let Ok(Some(message)) = incoming.message().await {
                if let Some(Kind::Answer(answer)) = message.kind {
                    _ = self.asking.take(answer);
                }
            }
        };
        _ = tokio::time::timeout(CLOSING, ending).await;
    }

    fn need(&self, what: need::What) -> Result<(), Ended> {
        self.send(node_message::Kind::Need(Need { what: Some(what) }))
    }

    /// Brings `update` into force. Meanwhile nobody waits for that who is logged out, or asks something. Says also whether
    /// the stream has carried what there was to say.
    async fn bring(
        &mut self,
        update: Update,
        incoming: &mut Streaming<ControlMessage>,
    ) -> (Result<(), Vec<Fault>>, Result<(), Ended>) {
        let running = self.applier.running().revision;
        let mut bringing = pin!(self.applier.apply(update));
        // Whether the stream still carries something, and why not. What is begun is ended.
        let (mut is_open, mut carried) = (true, Ok(()));
        loop {
            let said = tokio::select! {
                outcome = &mut bringing => return (outcome, carried),
                asked = self.gateway.questions.next(), if is_open => self.asking.ask(asked),
                received = incoming.message(), if is_open && self.late.len() < LATE => {
                    // What waits was heard all the same.
                    if matches!(received, Ok(Some(_))) {
                        self.gateway.contact.hears(monotonic());
                    }
                    match received {
                        Ok(Some(message)) => match message.kind {
                            Some(Kind::Answer(answer)) => self.asking.take(answer),
                            Some(Kind::Revoke(told)) => self.asking.revoke(&told, running),
                            kind => {
                                self.late.push_back(Ok(Some(ControlMessage { kind })));
                                Ok(())
                            }
                        },
                        ended => {
                            self.late.push_back(ended);
                            is_open = false;
                            Ok(())
                        }
                    }
                }
            };
            if said.is_err() {
                self.asking.cut();
                (is_open, carried) = (false, said);
            }
        }
    }

    async fn apply(
        &mut self,
        update: Update,
        incoming: &mut Streaming<ControlMessage>,
    ) -> Result<(), Ended> {
        let (nonce, target) = (update.nonce, update.target);
        let whole = matches!(update.content, Ok(Content::Full(_)));
        let started = monotonic();
        let before = self.applier.running().revision;
        // Who may vouch for it may have changed since the connection began.
        self.renew();
        let (outcome, carried) = self.bring(update, incoming).await;
        let refused = outcome.is_err();
        self.idle = 0;
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
        carried?;
        if helpless {
            return self.need(need::What::Everything(true));
        }
        if refused {
            // What ended with it is not known here.
            self.gateway.contact.settle();
        } else {
            self.settle();
        }
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
        if self.applier.takes_up_releases() {
            // The Hello of this stream said something else.
            return Err(Ended::Again);
        }
        self.renew();
        let sum = Sum::of(&self.gateway.metrics);
        let figures = sum.figures();
        let contact = &self.gateway.contact;
        let live = self.gateway.live.load();
        let balancers = live
            .as_ref()
            .map_or(&[][..], |live| live.balancers(&self.gateway.balancers));
        let status = NodeStatus {
            running: Some((&self.applier.running()).into()),
            wall_clock_ms: UnixTime::now().as_millis(),
            persisted: self.applier.is_persisted(),
            draining: phase != Phase::Serving && !self.rests,
            requests: figures.requests,
            failed: figures.failed,
            left: Some(figures.left),
            connections: u32::try_from(sum.open).unwrap_or(u32::MAX),
            resident_bytes: shared::machine::resident_bytes(),
            crash_restarts: u32::try_from(contact.crash_restarts()).unwrap_or(u32::MAX),
            p99_us: figures.p99_since(&self.figures),
            expiries: self.expiries(),
            unhealthy_targets: report::unhealthy_targets(balancers),
            unresolved_targets: report::unresolved_targets(balancers),
            unfit: self.unfit(),
            target_addresses: report::addresses(balancers),
            quarantine: Some(Quarantine {
                positions: self.applier.quarantined().iter().map(Into::into).collect(),
            }),
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

    fn send(&self, kind: node_message::Kind) -> Result<(), Ended> {
        self.asking.send(kind)
    }
}

/// The next message: first of those that are `late`.
async fn next(late: &mut VecDeque<Received>, incoming: &mut Streaming<ControlMessage>) -> Received {
    match late.pop_front() {
        Some(received) => received,
        None => incoming.message().await,
    }
}

/// Whether a fault lies in how the records came, not in what they say.
fn is_of_the_way(fault: &Fault) -> bool {
    matches!(fault.code(), Code::BadBase | Code::Corrupt)
}

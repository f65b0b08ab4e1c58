//! One node's stream: sends it updates, takes its answers, ends when either side is silent.

use std::sync::Arc;
use std::time::Duration;

use prost::bytes::Bytes;
use proto::features::{BESIDE, CHAIN_KEPT, MILESTONES};
use proto::v1::control_message::Kind;
use proto::v1::need::What;
use proto::v1::{AskDigests, Begin, Heartbeat, Need, NodeMessage, Welcome, node_message};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use shared::clock::{UnixTime, monotonic};
use shared::snapshot::{Position, Revision};
use shared::telemetry::Trouble;
use shared::tls;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::ended::{Ended, milliseconds};
use super::flights::By;
use super::outgoing::{Outgoing, Waiting};
use super::pace::Pace;
use super::session::{Goal, Offer, Session, Step};
use super::told::Told;
use super::update::{Plan, Update};
use super::waits::{at, changed, stopped};
use super::wire::{fault, position, report};
use super::{Streams, Target};
use crate::fleet::{Fault, Membership, Order, by_another_clock, is_generation, steady};
use crate::revocations::Hearing;
use crate::snapshot::{Published, frame, tell_of};

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Time between two reports of a node.
const STATUS: Duration = Duration::from_secs(10);
/// How long a stream may accept nothing.
const STALLED: Duration = Duration::from_secs(30);
/// How long a node may take to answer an update.
const ANSWER: Duration = Duration::from_mins(3);
/// How long a stream lives, give or take a tenth: then the node chooses a control plane anew, and both
/// sides prove themselves by the certificates that they have by then.
const AGE: Duration = Duration::from_mins(30);

/// A node's stream.
pub(super) struct NodeStream {
    service: Streams,
    member: Membership,
    outgoing: Outgoing,
    session: Session,
    /// What passes an update.
    prompt: Waiting,
    /// The update under way.
    update: Update,
    pace: Pace,
    /// What the node has been told of beside an update, or in place of one that cannot be; none while there is nothing to
    /// tell, or for nodes that know of no such.
    told: Option<Told>,
    /// What is revoked and not stored.
    unkept: Hearing,
    /// Up to where it has been told of all that was revoked.
    told_up_to: Position,
    /// The certificates that the node has shown.
    shown: Arc<[CertificateDer<'static>]>,
    /// Names the stream, and the node's process.
    by: By,
    /// The certificates that the node has from the last manifest.
    chain: Bytes,
    /// The signature of the update that was sent last.
    signature: Bytes,
    /// Signatures that the node did not believe: of the newest, and of what it runs with the keys of now.
    unbelieved: Vec<Bytes>,
    /// What is logged of the node's refusals.
    refusals: Trouble,
}

impl Drop for NodeStream {
    fn drop(&mut self) {
        self.service.relay.leave(self.by);
    }
}

impl NodeStream {
    pub(super) fn new(
        service: Streams,
        member: Membership,
        outgoing: Outgoing,
        session: Session,
        (shown, by): (Arc<[CertificateDer<'static>]>, By),
    ) -> Self {
        Self {
            unkept: service.revoker.hearing(),
            service,
            pace: Pace::new(member.features().contains(MILESTONES)),
            member,
            prompt: Waiting::new(&outgoing),
            outgoing,
            session,
            update: Update::Sent,
            told: None,
            told_up_to: Position::default(),
            shown,
            by,
            chain: Bytes::new(),
            signature: Bytes::new(),
            unbelieved: Vec::new(),
            refusals: Trouble::default(),
        }
    }

    /// Serves the node until something ends it. What it works with is lent to it: of what a future is given it keeps two.
    pub(super) async fn run(&mut self, incoming: &mut Streaming<NodeMessage>) -> Ended {
        let ended = match self.serve(incoming).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        if let Some(goodbye) = ended.goodbye() {
            self.outgoing.end_with(frame(Kind::Goodbye(goodbye)));
        }
        ended
    }

    async fn serve(
        &mut self,
        incoming: &mut Streaming<NodeMessage>,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut target = self.service.target.clone();
        let mut stopping = self.service.stopping.clone();
        let mut authorities = self.service.authorities.clone();
        // They may have changed since the handshake.
        authorities.mark_changed();
        let goal = self.goal(&mut target);
        self.welcome(goal.as_deref())?;
        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        let updates = self.outgoing.updates.clone();
        let (mut answer_by, mut stalled_at) = (None, None);
        let old = Instant::now() + age();
        loop {
            if authorities.has_changed().unwrap_or_default() {
                // What nobody vouches for is sent nothing more.
                self.check_certificate(&authorities.borrow_and_update())?;
            }
            let goal = self.goal(&mut target);
            let mut is_led = false;
            if self.update.is_sent() {
                let takes = goal.as_ref().filter(|goal| self.takes(goal));
                // Who is logged out is to be so on this node, too, whatever else it does not take.
                let instead = || target.borrow().instead(self.session.running()).cloned();
                if let Some(led) = takes.cloned().or_else(instead) {
                    is_led = true;
                    self.lead_to(&led);
                }
            }
            let newest = Arc::clone(target.borrow().newest());
            if !self.session.is_waiting() {
                let running = self.session.running();
                let finds_way = is_led || target.borrow().may_lead(&self.member, running);
                let hears = self.member.features().contains(BESIDE);
                let led = &goal.as_ref().unwrap_or(&newest).position;
                let ways = [finds_way, hears && self.session.is_ahead_of(led)];
                self.told = Told::instead(self.told.take(), ways, running, &newest);
            }
            self.tell_beside(&newest).await;
            if !self.session.is_waiting() || !self.update.is_sent() {
                answer_by = None;
            } else if answer_by.is_none() {
                answer_by = Some(Instant::now() + ANSWER);
            }
            if !self.update.is_sending() && self.prompt.is_empty() {
                stalled_at = None;
            } else if stalled_at.is_none() {
                stalled_at = Some(Instant::now() + STALLED);
            }
            // What it was told before is on its way first.
            let told = self.told.as_ref().filter(|_| self.prompt.is_empty());
            let beside_at = told.and_then(|told| told.due(&newest));
            let hears = self.prompt.is_empty() && self.member.features().contains(BESIDE);
            tokio::select! {
                received = incoming.message() => match received {
                    Ok(Some(received)) => {
                        let arrived = self.pace.arrived();
                        self.receive(received)?;
                        if self.pace.arrived() != arrived {
                            stalled_at = None;
                        }
                    }
                    Ok(None) => return Err(Ended::Left),
                    Err(status) => return Err(Ended::Broken(status)),
                },
                // Nobody will announce a snapshot any more: the process ends.
                changed = target.changed() => changed.map_err(|_| Ended::Stopping)?,
                pieces = self.update.made() => {
                    let unencodable = || Status::internal("the snapshot cannot be encoded");
                    let pieces = pieces.ok_or_else(|| Ended::Broken(unencodable()))?;
                    self.update = Update::Sending(pieces);
                }
                room = updates.reserve(), if self.pace.lets_on(&self.update) => {
                    let mut room = Some(room.map_err(|_| Ended::Left)?);
                    while let Some(place) = room.take() {
                        let Some(piece) = self.pace.next(&mut self.update, Instant::now()) else {
                            break;
                        };
                        place.send(piece);
                        room = updates.try_reserve().ok();
                    }
                    stalled_at = None;
                }
                goes_on = self.prompt.go_on() => {
                    if !goes_on {
                        return Err(Ended::Left);
                    }
                    // A node that takes these and never says how far it has come takes no update.
                    if !self.pace.holds(&self.update) {
                        stalled_at = None;
                    }
                }
                more = self.unkept.more(), if hears => self.prompt.extend(tell_of(&more, 0)),
                _ = heartbeat.tick() => self.heartbeat(goal.as_deref()),
                order = self.member.order() => match order {
                    Some(Order::Retry) => self.session.order(),
                    None => return Err(Ended::Superseded),
                },
                () = changed(&mut authorities) => authorities.mark_changed(),
                () = stopped(&mut stopping) => return Err(Ended::Stopping),
                () = at(beside_at) => {}
                () = at(stalled_at) => return Err(Ended::Stalled),
                () = at(answer_by) => return Err(Ended::Unanswered),
                () = at(Some(old)) => return Err(Ended::Old),
            }
        }
    }

    /// Whether one of `authorities` vouches for the node.
    fn check_certificate(&self, authorities: &Arc<RootCertStore>) -> Result<(), Ended> {
        if tls::is_vouched_for(&self.shown, authorities, UnixTime::now()) {
            Ok(())
        } else {
            Err(Ended::Untrusted)
        }
    }

    /// Where the node is led now.
    fn goal(&self, target: &mut Target) -> Option<Arc<Published>> {
        let targets = target.borrow_and_update();
        let goal = targets.of(self.member.name(), self.member.features());
        goal.cloned()
    }

    /// Whether the node knows everything that `newest` needs. What it lacks is shown to operators.
    fn may_run(&self, newest: &Published) -> bool {
        let known = self.member.features();
        let missing = newest.requirements.missing(known, newest.config());
        let may = missing.is_empty();
        self.member.lacks(missing);
        may
    }

    /// Whether `newest` is of another generation than what the node runs, and nothing was configured in it yet.
    fn finds_bare(&self, newest: &Published) -> bool {
        newest.position.generation != self.session.running().generation && newest.is_bare()
    }

    /// Whether the node can be led to `goal`, as far as is known.
    fn takes(&mut self, goal: &Published) -> bool {
        if !self.unbelieved.is_empty() && !self.unbelieved.contains(&goal.vouched().signature) {
            // It is something new, or vouched for by another certificate by now: so once more.
            self.unbelieved.clear();
            self.session.retry();
        }
        if !self.may_run(goal) {
            return false;
        }
        let refused = self.session.has_refused(&self.goal_of(goal));
        if refused {
            self.member.still_refuses(goal.position);
        }
        !refused
    }

    /// What there is to know of `target` for a way to it.
    fn goal_of(&self, target: &Published) -> Goal {
        Goal {
            position: target.position,
            configuration: target.configuration(),
            reachable: target.knows(&self.session.running().root),
            small: target.is_small(),
            bare: self.finds_bare(target),
        }
    }

    fn lead_to(&mut self, newest: &Arc<Published>) {
        let step = self.session.offer(&self.goal_of(newest));
        if step.is_some() && self.told.is_none() && self.member.features().contains(BESIDE) {
            let root = self.session.running().root;
            self.told = Some(Told::of(root, newest));
        }
        match step {
            Some(Step::Send(offer)) => self.update(newest, offer),
            Some(Step::Ask) => {
                // The answer takes its time, over a slow link.
                self.update = Update::of_one(frame(Kind::AskDigests(AskDigests {})));
            }
            None => {}
        }
    }

    fn welcome(&mut self, goal: Option<&Published>) -> Result<(), Ended> {
        let welcome = Welcome {
            replica: self.service.replica.clone(),
            target: goal.map(|goal| (&goal.position).into()),
            wall_clock_ms: UnixTime::now().as_millis(),
            heartbeat_ms: milliseconds(HEARTBEAT),
            status_ms: milliseconds(STATUS),
        };
        let newest = Arc::clone(self.service.target.borrow().newest());
        if self.session.waits_for_content(self.finds_bare(&newest)) {
            let runs = self.session.running().generation;
            if is_generation(runs, UnixTime::now()) {
                self.service.publisher.is_awaited_after(runs);
            }
            tracing::warn!(
                node_id = self.member.name(),
                "the node runs the configuration of another store, and this one holds nothing: it goes on with that until \
                 something is configured here"
            );
        } else if self.session.is_ahead_of(&newest.position) {
            tracing::warn!(
                node_id = self.member.name(),
                revision = %newest.position.revision,
                "the node runs a newer revision than this control plane has: was an old store put back? \
                 `restore` raises the generation, which nodes follow"
            );
        }
        // It is the first, so there is room for it.
        let sent = self
            .outgoing
            .updates
            .try_send(frame(Kind::Welcome(welcome)));
        sent.map_err(|_| Ended::Left)
    }

    fn heartbeat(&mut self, goal: Option<&Published>) {
        let heartbeat = Heartbeat {
            target: goal.map(|goal| (&goal.position).into()),
            wall_clock_ms: UnixTime::now().as_millis(),
        };
        self.prompt.push_first(frame(Kind::Heartbeat(heartbeat)));
    }

    /// Begins to lead the node to `target` as is offered.
    fn update(&mut self, target: &Arc<Published>, offer: Offer) {
        let Offer {
            nonce,
            way,
            ordered,
        } = offer;
        let vouched = target.vouched();
        let chain = vouched.chain();
        let has = !chain.is_empty() && self.chain == chain;
        let kept = has && self.member.features().contains(CHAIN_KEPT);
        let begin = Begin {
            nonce,
            target: Some((&target.position).into()),
            manifest: if kept {
                vouched.without_chain()
            } else {
                vouched.whole()
            },
            chain_kept: kept,
            ordered,
            signature: vouched.signature.clone(),
            ..Begin::default()
        };
        self.chain = chain;
        self.signature = vouched.signature;
        let plan = Plan {
            target: Arc::clone(target),
            way,
            begin,
            running: *self.session.running(),
            transfers: Arc::clone(&self.service.transfers),
            in_parts: self.member.features().contains(BESIDE),
        };
        self.update = Update::of(plan);
        self.pace.begins();
    }

    /// Tells the node what the update under way revokes, and what has been revoked since, if that is due: an update may take
    /// its time over a slow link, and where there is no way for the node none comes.
    async fn tell_beside(&mut self, newest: &Arc<Published>) {
        let Some(told) = &mut self.told else {
            return;
        };
        let is_due = told.due(newest).is_some_and(|due| due <= Instant::now());
        if is_due && self.prompt.is_empty() {
            let messages = told.go_on(newest).await;
            self.prompt.extend(messages);
            self.told_up_to = told.whole().unwrap_or(self.told_up_to);
        }
    }

    fn receive(&mut self, received: NodeMessage) -> Result<(), Ended> {
        let protocol = |reason: &dyn std::fmt::Display| Ended::Protocol(reason.to_string());
        let now = steady();
        match received.kind {
            Some(node_message::Kind::Ack(ack)) => {
                let before = self.session.running().revision;
                let told = position(ack.running).map_err(|error| protocol(&error.message()))?;
                let acked = self.session.acked(ack.nonce, &told);
                let running = acked.map_err(|error| protocol(&error))?;
                self.told = None;
                if running.revision != before {
                    self.refusals.ends();
                }
                self.member.runs(running, now);
                tracing::debug!(node_id = self.member.name(), revision = %running.revision, duration_ms = ack.apply_ms, "applied");
            }
            Some(node_message::Kind::Nack(nack)) => {
                let mut shunned = self
                    .session
                    .nacked(nack.nonce)
                    .map_err(|error| protocol(&error))?;
                self.told = self.told.take().filter(Told::is_without_way);
                let faults: Vec<_> = nack.faults.into_iter().map(fault).collect();
                if faults.iter().any(Fault::is_of_signature) {
                    self.unbelieved.push(self.signature.clone());
                } else {
                    self.unbelieved.clear();
                }
                if faults.iter().any(Fault::is_of_time) {
                    self.session.forget_configurations();
                    shunned.configuration = None;
                }
                self.tell_of(&shunned.position, &faults);
                self.member.refused(shunned, faults, now);
            }
            Some(node_message::Kind::Status(status)) => {
                let mut report = report(status).map_err(|error| protocol(&error.message()))?;
                // It tells how far its clock is from ours as that is set now.
                report.clock = by_another_clock(report.clock, UnixTime::now(), now);
                self.member.reports(report, now);
            }
            Some(node_message::Kind::Need(need)) => self.needs(need)?,
            Some(node_message::Kind::Request(request)) => {
                let newest = Arc::clone(self.service.target.borrow().newest());
                let bare = self.finds_bare(&newest);
                let leads = self.session.is_led_to(&newest.position, bare);
                let service = &self.service;
                let revoker = leads.then_some(&service.revoker);
                let by = (self.by, self.member.name());
                let relay = &service.relay;
                relay.serve(by, request, &self.outgoing.prompt, revoker);
            }
            // Of another generation than what it runs there is nothing to compare.
            Some(node_message::Kind::Revoked(revoked))
                if self.told_up_to.generation == self.session.running().generation =>
            {
                let revision = Revision(revoked.revision).min(self.told_up_to.revision);
                self.member.revokes(revision, now);
            }
            Some(node_message::Kind::Reached(reached)) => self
                .pace
                .reached(reached.at, Instant::now())
                .map_err(|error| protocol(&error))?,
            Some(node_message::Kind::Hello(_)) => return Err(protocol(&"a second Hello")),
            // A newer node may say more than this control plane knows.
            Some(node_message::Kind::Revoked(_)) | None => {}
        }
        Ok(())
    }

    /// Logs a refusal. One for the reasons of the last is no news: what is signed by whom the node does not believe it
    /// refuses with each logout.
    fn tell_of(&mut self, target: &Position, faults: &[Fault]) {
        if !self.refusals.is_news(&format!("{faults:?}"), monotonic()) {
            return;
        }
        let first = faults.first();
        tracing::error!(
            node_id = self.member.name(),
            revision = %target.revision,
            entity = first.map(|fault| format!("{} {}", fault.entity_type, fault.entity_id)),
            field = first.map(|fault| fault.field.as_str()),
            reason = first.map(|fault| fault.message.as_str()),
            faults = faults.len(),
            "the node refused the snapshot"
        );
    }

    fn needs(&mut self, need: Need) -> Result<(), Ended> {
        match need.what {
            Some(What::Everything(_)) => {
                let is_sent = self.session.lacks_everything();
                if is_sent {
                    self.member.unrefused(steady());
                }
            }
            Some(What::Digests(digests)) => {
                let digests = proto::decode_digests(&digests)
                    .map_err(|error| Ended::Protocol(error.to_string()))?;
                self.session
                    .told(digests)
                    .map_err(|error| Ended::Protocol(error.to_string()))?;
            }
            None => {}
        }
        Ok(())
    }
}

/// How long this stream may live.
pub(super) fn age() -> Duration {
    // A tenth more or less, so that a fleet does not come back as one.
    let tenth = AGE / 10;
    let random = uuid::Uuid::new_v4().as_u64_pair().0;
    let spread = u64::try_from((tenth * 2).as_millis()).unwrap_or(u64::MAX);
    tenth * 9 + Duration::from_millis(random.checked_rem(spread).unwrap_or(0))
}

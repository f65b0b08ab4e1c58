//! Config sync, this node's end: follows a control plane, whichever answers, for as long as it runs.
//!
//! ```text
//!  connection.rs ─► follow.rs ─► receiver.rs  chunks to a snapshot with a proven root; pure
//!                       │         beside.rs    what comes between their parts; pure
//!                       ├─► asking.rs   what cores ask, and the answers
//!                       │
//!                       └─► applier.rs  compile, swap, answer; then the last good file
//! ```
//!
//! Runs on a thread of its own: traffic neither waits for it nor needs it.

mod applier;
mod asking;
pub(crate) mod backoff;
mod beside;
mod connection;
mod ended;
mod follow;
mod receiver;
#[cfg(test)]
mod recorded;
mod reporting;
mod vouched;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use prost::Message as _;
use proto::v1::SessionKeys;
use shared::clock::{UnixTime, monotonic};
use shared::renewal::Renewal;
use shared::signature::Verifier;
use shared::snapshot::Position;
use shared::telemetry::Trouble;
use tokio::sync::{oneshot, watch};

use crate::contact::{Contact, LONG};
use crate::core::Node as Gateway;
use crate::heard::Heard;
use crate::last_good::{Kept, LastGood};
use crate::secrets::Secrets;
use applier::Applier;
pub(crate) use applier::Holds;
use backoff::{Backoff, LONGEST_WAIT, random};
use connection::Dialer;
pub(crate) use connection::{ControlPlaneUrl, Node, Proofs};
use ended::Ended;
use follow::follow;
pub(crate) use vouched::Vouched;
#[cfg(test)]
pub(crate) use vouched::vouching;

/// What the rest of the process wants from config sync.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Traffic is served.
    Serving,
    /// The same, while a successor takes over what this process holds: nothing new is taken that it would not know of.
    Resting,
    /// A successor serves, and speaks for the node: this process only lets its last exchanges end.
    HandedOver,
    /// The process lets its last exchanges end.
    Draining,
    /// The process ends.
    Stopped,
}

/// A stream that lived this long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(10);

/// How often it is kept that a control plane is heard.
const NOTE: Duration = Duration::from_secs(1);

/// How long a node that could serve waits for the first word of a control plane. Beyond, traffic does not depend on it.
const FIRST_WORD: Duration = Duration::from_millis(500);

/// How much longer it waits for what is newer, once a control plane has said that there is something.
const NEWS: Duration = Duration::from_secs(2);

/// What comes of what the process before this one has given.
pub(crate) struct Taken {
    /// Session keys that came beside an update; empty without such.
    pub(crate) keys: Vec<u8>,
    /// Ends once that process has left the node to this one.
    pub(crate) left: oneshot::Receiver<()>,
}

/// What config sync starts with.
pub(crate) struct Start {
    /// Who this node is.
    pub(crate) node: Node,
    /// Looks after the files that prove it.
    pub(crate) renewal: Renewal,
    /// What serves traffic.
    pub(crate) gateway: Arc<Gateway>,
    /// What runs already, from the last good file.
    pub(crate) running: Option<Kept>,
    /// Where it is kept.
    pub(crate) last_good: LastGood,
    /// Who may vouch for a snapshot.
    pub(crate) verifier: Verifier,
    /// Where the secrets are that a snapshot refers to.
    pub(crate) secrets: Secrets,
    /// When a control plane was heard last.
    pub(crate) heard: Heard,
    /// What the process before this one has given, if it has.
    pub(crate) given: Option<Taken>,
    /// What the rest of the process wants.
    pub(crate) phase: watch::Receiver<Phase>,
}

/// Starts to follow the control planes.
pub(crate) fn start(start: Start) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("config-sync".to_owned())
        .spawn(move || {
            runtime.block_on(run(start));
            // A snapshot that still compiles is of no use to anyone any more.
            runtime.shutdown_background();
        })
}

async fn run(start: Start) {
    let Start {
        node,
        renewal,
        gateway,
        running,
        last_good,
        verifier,
        secrets,
        heard,
        given,
        mut phase,
    } = start;
    let live = Arc::clone(&gateway.live);
    let state = (
        Arc::clone(&gateway.revocations),
        Arc::clone(&gateway.balancers),
    );
    let secrets = (secrets, gateway.limits.memory);
    let mut applier = Applier::new(live, secrets, state, running, last_good, verifier);
    let mut dialer = Dialer::new(node, renewal, Arc::clone(&gateway));
    gateway.contact.restarted(applier.crashes());
    if let Some(Taken { keys, left }) = given {
        let told = Some(keys).filter(|keys| !keys.is_empty());
        if let Some(Ok(told)) = told.map(|keys| SessionKeys::decode(keys.as_slice())) {
            applier.take_keys(&told).await;
        }
        // The process before this one was told what there was to tell.
        gateway.contact.begins(monotonic());
        // Sessions that paused there pause here, too.
        if let Some(longest) = gateway.sessions_max_silence {
            judge_once(&gateway, longest);
        }
        gateway.contact.settle();
        // Until it goes, it may go on after all: the disk, and the node's stream, are its.
        let mut stopping = phase.clone();
        tokio::select! {
            _ = left => {}
            _ = stopping.wait_for(|phase| *phase == Phase::Stopped) => {}
        }
        if !applier.is_persisted() {
            applier.persist();
        }
    }
    let mut told = phase.clone();
    applier.begins(async move {
        let is_told = |phase: &Phase| matches!(phase, Phase::Draining | Phase::Stopped);
        _ = told.wait_for(is_told).await;
    });
    tokio::spawn(tell_what_is_kept(Arc::clone(&gateway), applier.saved()));
    let waiting = Arc::clone(&gateway);
    tokio::spawn(async move {
        tokio::time::sleep(FIRST_WORD).await;
        if waiting.contact.is_connected() {
            tokio::time::sleep(NEWS).await;
        }
        waiting.contact.settle();
    });
    let mut stopping = phase.clone();
    tokio::select! {
        () = follow_any(&mut dialer, &mut applier, &gateway, &mut phase) => {}
        () = watch_silence(&gateway.contact) => {}
        () = judge_sessions(&gateway) => {}
        () = note_words(&heard, &gateway) => {}
        () = Arc::clone(&gateway.unstored).send_on(&gateway.questions) => {}
        () = Arc::clone(&gateway.unstored).take_up(&gateway.revocations) => {}
        () = Arc::clone(&gateway.discovered).write_on(&gateway.live) => {}
        () = gateway.expiring.watch(&gateway.live) => {}
        () = crate::metrics::forget(&gateway) => {}
        () = stops(&mut stopping, &gateway) => {}
    }
    gateway.unstored.write();
    gateway.discovered.write();
    applier.stops();
}

/// Waits until the process stops, and until the stream that speaks for the node is not needed any more: what an operator has ordered
/// of the node would end with it, rather than go on with that of the successor.
async fn stops(phase: &mut watch::Receiver<Phase>, gateway: &Gateway) {
    _ = phase.wait_for(|phase| *phase == Phase::Stopped).await;
    let mut leaves = gateway.leaves.subscribe();
    _ = leaves.wait_for(|leaves| !leaves).await;
}

/// Follows the control planes, one after the other.
async fn follow_any(
    dialer: &mut Dialer,
    applier: &mut Applier,
    gateway: &Gateway,
    phase: &mut watch::Receiver<Phase>,
) {
    let mut backoff = Backoff::default();
    let mut known = None;
    loop {
        let mut urls = dialer.shuffled(random());
        // It knows what this process does for others.
        urls.sort_by_key(|url| Some(url) != known.as_ref());
        known = None;
        let Some(last) = urls.len().checked_sub(1) else {
            gateway.contact.settle();
            return std::future::pending().await;
        };
        for (at, url) in urls.into_iter().enumerate() {
            if let Some((verifier, secret)) = dialer.renew() {
                applier.renew(verifier, secret);
            }
            applier.find_secrets().await;
            let started = monotonic();
            let ended = attempt(dialer, &url, applier, gateway, phase).await;
            gateway.contact.connects(false, monotonic());
            if at == last {
                gateway.contact.settle();
            }
            if started.elapsed() >= GOOD {
                backoff = Backoff::default();
            }
            let pause = match ended {
                Ended::Goodbye { within, .. } => backoff::within(within, last == 0, random()),
                // Spread already, by who counts all that wait.
                Ended::Held { wait, .. } => wait.min(LONGEST_WAIT),
                Ended::HandedOver | Ended::Turned | Ended::Again => Duration::ZERO,
                _ => backoff.next(gateway.contact.is_expected(monotonic()), random()),
            };
            let doubt = match ended {
                Ended::Unreachable(_) => dialer.doubt(),
                _ => None,
            };
            if let Some(doubt) = doubt {
                tracing::warn!(control_plane = %url, reason = %ended, retry_ms = pause.as_millis(), "config sync ended: {doubt}");
            } else if ended.is_expected() {
                tracing::info!(control_plane = %url, reason = %ended, retry_ms = pause.as_millis(), "config sync ended");
            } else {
                tracing::warn!(control_plane = %url, reason = %ended, retry_ms = pause.as_millis(), "config sync ended");
            }
            let stays = matches!(
                ended,
                Ended::HandedOver | Ended::Turned | Ended::Superseded(_) | Ended::Again
            );
            known = stays.then_some(url);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = refuse(gateway) => {}
                () = until(applier.again()), if *phase.borrow() != Phase::Resting => {
                    applier.run_again().await;
                }
                Ok(()) = phase.changed() => {}
            }
            if known.is_some() {
                break;
            }
        }
    }
}

/// Tells whoever asks for the status what the last good file holds, also while nobody is followed.
async fn tell_what_is_kept(gateway: Arc<Gateway>, mut saved: watch::Receiver<Position>) {
    loop {
        let root = saved.borrow_and_update().root;
        gateway.contact.keeps(root);
        if saved.changed().await.is_err() {
            return;
        }
    }
}

/// Drops what is asked while there is nobody who could answer, but for the first moment since somebody was there: one that
/// restarts, or takes over, is heard again at once, and nodes that did not wait for that would use one token twice. Ends only
/// if nobody can ask any more.
async fn refuse(gateway: &Gateway) {
    tokio::time::sleep_until(gateway.contact.expected_until().into()).await;
    while gateway.questions.next().await.is_some() {}
}

/// Holds sessions up while nobody can say which of them are over, if the operator wants that.
async fn judge_sessions(gateway: &Gateway) {
    let Some(longest) = gateway.sessions_max_silence else {
        return std::future::pending().await;
    };
    loop {
        judge_once(gateway, longest);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn judge_once(gateway: &Gateway, longest: Duration) {
    let misses = gateway.contact.misses(longest, monotonic());
    gateway.revocations.lose(misses);
}

/// Keeps when a control plane was heard last, where something depends on that.
async fn note_words(heard: &Heard, gateway: &Gateway) {
    if gateway
        .sessions_max_silence
        .or(gateway.max_staleness)
        .is_none()
    {
        return std::future::pending().await;
    }
    let mut trouble = Trouble::default();
    loop {
        tokio::time::sleep(NOTE).await;
        let silence = gateway.contact.silence(monotonic());
        // Whoever starts next is not to take for known what ended meanwhile.
        let misses = gateway.contact.has_missed();
        if silence > NOTE * 2 || misses || !gateway.contact.has_heard() {
            continue;
        }
        let silence = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        let at = UnixTime::now().as_millis().saturating_sub(silence);
        match heard.note(UnixTime::from_millis(at)) {
            Ok(()) => trouble.ends(),
            Err(error) if trouble.is_news(&error.to_string(), monotonic()) => {
                tracing::warn!(%error, "the time of the last contact with a control plane cannot be kept");
            }
            Err(_) => {}
        }
    }
}

/// Says when no control plane has been heard for long, and when one is heard again.
async fn watch_silence(contact: &Contact) {
    let mut silent = false;
    loop {
        tokio::time::sleep(LONG / 6).await;
        let silence = contact.silence(monotonic());
        if (silence > LONG) == silent {
            continue;
        }
        silent = !silent;
        if silent {
            tracing::warn!(
                seconds = silence.as_secs(),
                "no control plane has been heard; what runs goes on"
            );
        } else {
            tracing::info!("a control plane is heard again");
        }
    }
}

/// Leaves what is on the disk to the process that has taken over.
fn leave(applier: &Applier, gateway: &Gateway) {
    applier.leave();
    gateway.discovered.leave();
    gateway.holds.send_replace(None);
}

async fn attempt(
    dialer: &mut Dialer,
    url: &ControlPlaneUrl,
    applier: &mut Applier,
    gateway: &Gateway,
    phase: &mut watch::Receiver<Phase>,
) -> Ended {
    let now = *phase.borrow_and_update();
    match now {
        Phase::HandedOver => {
            leave(applier, gateway);
        }
        Phase::Resting => _ = gateway.holds.send_replace(Some(applier.holds())),
        _ => _ = gateway.holds.send_replace(None),
    }
    let subscribed = tokio::select! {
        subscribed = dialer.subscribe(url, applier, now) => subscribed,
        Ok(()) = phase.changed() => return Ended::Turned,
        () = refuse(gateway) => return Ended::Closed,
    };
    match subscribed {
        Ok(stream) => follow(stream, dialer, applier, gateway, phase).await,
        Err(error) => Ended::Unreachable(error),
    }
}

/// Waits for `instant`; for ever, if there is none.
async fn until(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

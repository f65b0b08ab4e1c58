//! Config sync, this node's end: follows a control plane, whichever answers, for as long as it runs.
//!
//! ```text
//!  connection.rs ─► follow.rs ─► receiver.rs  chunks to a snapshot with a proven root; pure
//!                       │
//!                       └─► applier.rs  compile, swap, answer; then the last good file
//! ```
//!
//! Runs on a thread of its own: traffic neither waits for it nor needs it.

mod applier;
mod backoff;
mod connection;
mod follow;
mod receiver;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use plugins::revocations::Revocations;
use shared::clock::monotonic;
use tokio::sync::watch;

use crate::last_good::LastGood;
use crate::live::Live;
use applier::Applier;
use backoff::Backoff;
use connection::Dialer;
pub(crate) use connection::{ControlPlaneUrl, Node};
use follow::{Ended, follow};

/// What the rest of the process wants from config sync.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Traffic is served.
    Serving,
    /// The process lets its last exchanges end.
    Draining,
    /// The process ends.
    Stopped,
}

/// A stream that lived this long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(10);

/// Starts to follow the control planes.
pub(crate) fn start(
    node: Node,
    live: Live,
    revocations: Arc<Revocations>,
    last_good: LastGood,
    phase: watch::Receiver<Phase>,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("config-sync".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                run(node, Applier::new(live, revocations, last_good), phase).await;
            });
            // A snapshot that still compiles is of no use to anyone any more.
            runtime.shutdown_background();
        })
}

async fn run(node: Node, mut applier: Applier, mut phase: watch::Receiver<Phase>) {
    let dialer = Dialer::new(node);
    let mut backoff = Backoff::default();
    let mut stopping = phase.clone();
    tokio::select! {
        () = async {
            loop {
                for url in dialer.shuffled(random()) {
                    let started = monotonic();
                    let ended = attempt(&dialer, &url, &mut applier, &mut phase).await;
                    if started.elapsed() >= GOOD {
                        backoff = Backoff::default();
                    }
                    let pause = match ended {
                        Ended::Goodbye { within, .. } => backoff::spread(within, random()),
                        _ => backoff.next(random()),
                    };
                    tracing::warn!(control_plane = %url, reason = %ended, retry_ms = pause.as_millis(), "config sync ended");
                    tokio::time::sleep(pause).await;
                }
            }
        } => {}
        _ = stopping.wait_for(|phase| *phase == Phase::Stopped) => {}
    }
}

async fn attempt(
    dialer: &Dialer,
    url: &ControlPlaneUrl,
    applier: &mut Applier,
    phase: &mut watch::Receiver<Phase>,
) -> Ended {
    match dialer.subscribe(url, applier.running()).await {
        Ok(stream) => follow(stream, applier, phase).await,
        Err(error) => Ended::Unreachable(error),
    }
}

/// Eight random bytes: they spread load and protect nothing.
fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

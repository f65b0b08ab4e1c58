//! Writes the running configuration to the last good file.

use std::sync::Arc;
use std::time::Duration;

use shared::clock::monotonic;
use shared::snapshot::{Position, Snapshot};
use tokio::sync::watch;

use crate::config_sync::vouched::Vouched;
use crate::last_good::LastGood;

/// Pause between two writes of the last good file, and the longest while it cannot be written.
const PERSIST: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How many times longer than a write the pause after it is, at least.
const SHARE: u32 = 10;

/// What the last good file is to hold.
#[derive(Clone, Debug)]
pub(super) struct Unsaved {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) vouched: Vouched,
}

/// Writes the newest snapshot to the last good file, again and again. What cannot be written is tried again: the
/// disk may have room by then.
pub(super) async fn save(
    last_good: Arc<LastGood>,
    mut snapshots: watch::Receiver<Option<Unsaved>>,
    saved: watch::Sender<Position>,
) {
    let mut pause = PERSIST;
    let mut failing = false;
    while failing || snapshots.changed().await.is_ok() {
        let Some(Unsaved { snapshot, vouched }) = snapshots.borrow_and_update().clone() else {
            continue;
        };
        let position = snapshot.position;
        let started = monotonic();
        let last_good = Arc::clone(&last_good);
        let written = tokio::task::spawn_blocking(move || last_good.write(&snapshot, &vouched));
        let outcome = written.await.map_err(std::io::Error::other).flatten();
        match &outcome {
            Ok(()) => {
                if failing {
                    tracing::info!("the last good file is written again");
                }
                pause = PERSIST;
                saved.send_replace(position);
            }
            Err(error) => {
                tracing::error!(%error, "the last good file cannot be written");
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        failing = outcome.is_err();
        // A large file that changes all the time must not keep a core busy.
        tokio::time::sleep(pause.max(started.elapsed() * SHARE)).await;
    }
}

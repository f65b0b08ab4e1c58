//! The newest snapshot, encoded a little after a change, so that many changes make one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Target;
use crate::publisher::Publisher;
use crate::snapshot::{Follower, Published, SharedSigner};

/// Quiet time that ends a burst of changes.
const QUIET: Duration = Duration::from_millis(50);
/// The longest that a change waits for a burst to end.
const LATEST: Duration = Duration::from_millis(500);

/// Publishes what `publisher` holds, now and after each burst of changes.
pub(super) fn follow(publisher: &Publisher, signer: SharedSigner) -> (Target, JoinHandle<()>) {
    let mut revisions = publisher.watch();
    let mut follower = Follower::new(publisher.config(), publisher.generation(), signer);
    let (sender, target) = watch::channel(Arc::clone(follower.newest()));
    let publisher = publisher.clone();
    let task = tokio::spawn(async move {
        while revisions.changed().await.is_ok() {
            settle(&mut revisions, &publisher).await;
            let config = publisher.config();
            let publishing = move || {
                follower.publish(config);
                follower
            };
            match tokio::task::spawn_blocking(publishing).await {
                Ok(done) => follower = done,
                Err(error) => {
                    tracing::error!(%error, "publishing a snapshot failed; nodes are sent no more");
                    return;
                }
            }
            announce(&sender, Arc::clone(follower.newest()));
        }
    });
    (target, task)
}

/// Waits until no change has come for a while, but not for ever, and not at all if one is urgent.
async fn settle<T>(changes: &mut watch::Receiver<T>, publisher: &Publisher) {
    tokio::select! {
        () = quiet(changes) => {}
        () = publisher.urgent() => {}
    }
}

async fn quiet<T>(changes: &mut watch::Receiver<T>) {
    let latest = Instant::now() + LATEST;
    loop {
        let until = latest.min(Instant::now() + QUIET);
        match tokio::time::timeout_at(until, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn announce(target: &watch::Sender<Arc<Published>>, published: Arc<Published>) {
    tracing::info!(
        revision = %published.position.revision,
        records = published.records(),
        "snapshot ready"
    );
    target.send_replace(published);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_one_change_and_ends_in_bounded_time() {
        let (sender, mut changes) = watch::channel(0);
        tokio::spawn(async move {
            for number in 1..200 {
                sender.send_replace(number);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        });
        changes.changed().await.unwrap();
        // Timers are exact to a millisecond.
        let exact = Duration::from_millis(5);
        let started = Instant::now();
        quiet(&mut changes).await;
        assert!((LATEST..LATEST + exact).contains(&started.elapsed()));
        tokio::time::sleep(Duration::from_secs(10)).await;
        changes.borrow_and_update();
        let started = Instant::now();
        quiet(&mut changes).await;
        assert!((QUIET..QUIET + exact).contains(&started.elapsed()));
    }
}

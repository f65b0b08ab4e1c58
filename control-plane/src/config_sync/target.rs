//! The newest snapshot, encoded a little after a change, so that many changes make one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Target;
use crate::publisher::Publisher;
use crate::snapshot::{EncodedSnapshot, encode};

/// Quiet time that ends a burst of changes.
const QUIET: Duration = Duration::from_millis(50);
/// The longest that a change waits for a burst to end.
const LATEST: Duration = Duration::from_millis(500);

/// Encodes what `publisher` holds, now and after each burst of changes.
pub(super) fn follow(publisher: &Publisher) -> (Target, JoinHandle<()>) {
    let mut revisions = publisher.watch();
    let first = Arc::new(encode(&publisher.config(), publisher.generation()));
    let (sender, target) = watch::channel(first);
    let publisher = publisher.clone();
    let task = tokio::spawn(async move {
        while revisions.changed().await.is_ok() {
            settle(&mut revisions).await;
            let publisher = publisher.clone();
            let encoding = move || encode(&publisher.config(), publisher.generation());
            match tokio::task::spawn_blocking(encoding).await {
                Ok(encoded) => announce(&sender, encoded),
                Err(error) => tracing::error!(%error, "encoding a snapshot failed"),
            }
        }
    });
    (target, task)
}

/// Waits until no change has come for a while, but not for ever.
async fn settle<T>(changes: &mut watch::Receiver<T>) {
    let latest = Instant::now() + LATEST;
    loop {
        let until = latest.min(Instant::now() + QUIET);
        match tokio::time::timeout_at(until, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn announce(target: &watch::Sender<Arc<EncodedSnapshot>>, encoded: EncodedSnapshot) {
    let bytes: usize = encoded.chunks.iter().map(|chunk| chunk.data.len()).sum();
    tracing::info!(
        revision = %encoded.position.revision,
        records = encoded.records,
        bytes,
        "snapshot ready"
    );
    target.send_replace(Arc::new(encoded));
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
        settle(&mut changes).await;
        assert!((LATEST..LATEST + exact).contains(&started.elapsed()));
        tokio::time::sleep(Duration::from_secs(10)).await;
        changes.borrow_and_update();
        let started = Instant::now();
        settle(&mut changes).await;
        assert!((QUIET..QUIET + exact).contains(&started.elapsed()));
    }
}

//! What a stream waits for besides its node.

use tokio::sync::watch;
use tokio::time::Instant;

/// Waits for the end of the process. A sender that is gone means the same as one that spoke.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Waits for a change; for ever, once nobody makes one.
pub(super) async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for `instant`; for ever, if there is none.
pub(super) async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

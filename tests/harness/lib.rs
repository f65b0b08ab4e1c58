//! What end-to-end tests are made of: the real programs on free ports, a provider, an upstream, and a
//! browser that keeps cookies.

#![expect(
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and JSON answers null for what is absent"
)]

mod browser;
mod channel;
mod cluster;
mod curl;
mod demo;
mod process;
mod relay;

pub use browser::{Browser, Reply};
pub use channel::{channel, endpoint};
pub use cluster::{Cluster, DataPlane};
pub use curl::curl;
pub use demo::{CLIENT, Demo, SECRET};
pub use process::{Process, output, path, run};
pub use relay::Relay;

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest that anything here waits for something that is to happen soon.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Asks `condition` until it answers. Fails with `what` when that takes too long.
///
/// # Panics
///
/// If the condition is not met in time.
pub async fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, condition).await
}

/// Asks `condition` as [`eventually`] does, for as long as `patience`.
///
/// # Panics
///
/// If the condition is not met in time.
pub async fn within<T>(
    patience: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test waits for real processes in real time"
    )]
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            started.elapsed() < patience,
            "it did not happen in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until what was issued with this `lifetime` has ended. Nothing says so: programs compare its end with their clocks.
pub async fn outlive(lifetime: Duration) {
    // A little longer: not every program looks at its clock when this one does.
    tokio::time::sleep(lifetime + Duration::from_millis(200)).await;
}

/// Reads what comes on `stream` up to the end of a head of HTTP/1.1, and nothing of what is behind that.
///
/// # Errors
///
/// The connection's; also if it ends before.
pub async fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

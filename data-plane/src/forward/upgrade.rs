//! After `101 Switching Protocols`: raw bytes both ways.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use crate::upstream::Connection;

/// Carries bytes both ways in a task of its own, until one side ends.
pub(crate) fn tunnel(client: OnUpgrade, mut upstream: Box<Connection>) {
    upstream.timer.clear();
    tokio::task::spawn_local(async move {
        let upgraded = match client.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                tracing::debug!(%error, "the client did not switch protocols");
                return;
            }
        };
        let mut client = TokioIo::new(upgraded);
        // What the server sent right behind its answer's head.
        let early = upstream.input.split();
        let result = match client.write_all(&early).await {
            Ok(()) => tokio::io::copy_bidirectional(&mut client, &mut upstream.stream)
                .await
                .map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a tunnel broke");
        }
    });
}

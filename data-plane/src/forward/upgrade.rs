//! After `101 Switching Protocols`: raw bytes both ways.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Hold;
use crate::carry::{Early, carry};
use crate::server::Switched;
use crate::upstream::Connection;

/// Carries bytes both ways in a task of its own, until one side ends or both are silent for `idle`
/// (Kong 3.9, `read_timeout` of a WebSocket's service).
///
/// `hold` is kept as long as that.
pub(crate) fn tunnel(
    client: oneshot::Receiver<Switched>,
    mut upstream: Box<Connection>,
    hold: Hold,
    idle: Duration,
) {
    upstream.timer.clear();
    tokio::task::spawn_local(async move {
        let _hold = hold;
        let Ok(Switched {
            stream: client,
            early,
            open: _open,
        }) = client.await
        else {
            tracing::debug!("the client did not switch protocols");
            return;
        };
        let early = Early {
            // What the server sent right behind its answer's head.
            to_client: upstream.input.split().to_vec(),
            // And the client right behind its request's.
            to_server: early.to_vec(),
        };
        let server = &mut upstream.stream;
        if let Err(error) = carry(client, server, early, idle, &Rc::default()).await {
            tracing::debug!(%error, "a tunnel broke");
        }
    });
}

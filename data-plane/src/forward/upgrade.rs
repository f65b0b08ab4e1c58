//! After `101 Switching Protocols`: raw bytes both ways.

use std::rc::Rc;
use std::time::Duration;

use plugins::logs::queue::Sending;
use plugins::sessions::tenure::Tenure;
use tokio::sync::oneshot;

use super::Hold;
use super::frames::{Framed, Reason};
use crate::carry::{Carried, Early, carry};
use crate::core::Core;
use crate::ending::Ending;
use crate::host::CoreHost;
use crate::pipeline::Recorded;
use crate::server::Switched;
use crate::upstream::Connection;

/// Longest wait for a client to take that it is over.
const FAREWELL: Duration = Duration::from_secs(1);

/// A client that wants to switch protocols.
#[derive(Debug)]
pub(crate) struct Switching {
    core: Rc<Core>,
    /// Its connection, once it has.
    pub(crate) client: oneshot::Receiver<Switched>,
    /// Looks whether it may go on, if that may change.
    pub(crate) ending: Option<Ending>,
}

impl Switching {
    /// That of a client which waits for the switch and was let through by `tenure`.
    pub(crate) fn of(
        core: &Rc<Core>,
        client: Option<oneshot::Receiver<Switched>>,
        tenure: Option<&Rc<Tenure>>,
    ) -> Option<Self> {
        let ending = |tenure| Ending::new(core, tenure);
        client.map(|client| Self {
            core: Rc::clone(core),
            client,
            ending: tenure.map(ending),
        })
    }
}

/// The exchange that a tunnel goes on as. It is logged and counted when this is dropped, whatever has ended it.
struct Open {
    exchange: Box<Recorded>,
    carried: Rc<Carried>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let carried = &self.carried;
        self.exchange
            .carried(carried.received.get(), carried.sent.get());
    }
}

/// Carries bytes both ways in a task of its own, until one side ends, both are silent for `idle`
/// (Kong 3.9, `read_timeout` of a WebSocket's service), what the client was let through by is over, or the node no
/// longer waits.
///
/// `hold` is kept as long as that, and the exchange is over only then.
pub(crate) fn tunnel(
    switching: Switching,
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
            mut exchange,
            open,
        }) = switching.client.await
        else {
            tracing::debug!("the client did not switch protocols");
            return;
        };
        exchange.outlast();
        // From here on `idle` is what limits it.
        if let Err(error) = client.let_rest() {
            tracing::debug!(%error, "the system limits for how long a client may read nothing");
        }
        let host = CoreHost::new(Rc::clone(&switching.core));
        // A node that stops sends no log before this one is told.
        let telling = Sending::begin(&host);
        let carried = Rc::<Carried>::default();
        let told = Open {
            exchange,
            carried: Rc::clone(&carried),
        };
        let early = Early {
            // What the server sent right behind its answer's head.
            to_client: upstream.input.split().to_vec(),
            // And the client right behind its request's.
            to_server: early.to_vec(),
        };
        let server = &mut upstream.stream;
        let mut client = Framed::new(client);
        let over = async {
            match switching.ending {
                Some(ending) => ending.over().await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = carry(&mut client, server, early, idle, &carried) => Ok(ended),
            () = over => Err(Reason::Policy),
            () = switching.core.until_cut_off() => Err(Reason::GoingAway),
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(reason) => {
                tracing::debug!(?reason, "a WebSocket is ended");
                let told = tokio::time::timeout(FAREWELL, client.close(reason)).await;
                told.unwrap_or_else(|late| Err(late.into()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a tunnel broke");
        }
        // In this order: who waits for the connection's end, or for logs, finds it told of.
        drop(told);
        drop(telling);
        drop(open);
    });
}

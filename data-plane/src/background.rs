//! The node's own core. It serves no client, begins with the first work that it is given, and outlives those that do.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use plugins::bundled::rate_limiting;
use plugins::host::Host as _;
use tokio::runtime::LocalRuntime;
use tokio::sync::{mpsc, watch};

use crate::core::{Core, Node};
use crate::host::CoreHost;
use crate::memory;
use crate::orders::{Orders, stopped};

/// Work for that core.
pub(crate) type Work = Box<dyn FnOnce(CoreHost) -> LocalBoxFuture<'static, ()> + Send>;

/// How long it may take, once the others have ended, to tell Redis what they had counted.
const LAST_COUNTS: Duration = Duration::from_secs(2);

/// Does the `work` of `node` until nobody holds a receiver of `cores`: each of those that serve clients does until it ends.
pub(crate) fn run(
    runtime: &LocalRuntime,
    node: Arc<Node>,
    mut work: mpsc::UnboundedReceiver<Work>,
    mut orders: watch::Receiver<Orders>,
    cores: watch::Sender<()>,
) {
    runtime.block_on(async move {
        let first = tokio::select! {
            biased;
            first = work.recv() => first,
            () = cores.closed() => return,
        };
        // What it counts is of nobody's requests.
        let core = Core::new(node, Arc::default());
        // It is the one that forgets the clients of all.
        tokio::task::spawn_local(memory::give_back(Rc::clone(&core), orders.clone()));
        let host = CoreHost::new(core);
        let begin = |work: Option<Work>| {
            if let Some(work) = work {
                host.spawn(work(host.clone()));
            }
        };
        begin(first);
        let mut stopping = false;
        loop {
            tokio::select! {
                more = work.recv() => begin(more),
                () = stopped(&mut orders), if !stopping => {
                    stopping = true;
                    // The nodes beside it, and a successor, hear of it before the last exchange has ended.
                    let host = host.clone();
                    tokio::task::spawn_local(async move { rate_limiting::flush(&host).await });
                }
                () = cores.closed() => break,
            }
        }
        let flushed = tokio::time::timeout(LAST_COUNTS, rate_limiting::flush(&host)).await;
        if flushed != Ok(0) {
            tracing::warn!("counts of rate limits are lost: Redis did not accept them in time");
        }
    });
}

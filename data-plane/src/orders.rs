//! What the node tells the tasks that serve its clients.

use tokio::sync::watch;

/// The standing orders.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Orders {
    /// Exchanges end; no more is begun.
    pub(crate) stopping: bool,
    /// Another process has the listening sockets: what waits in their queues is its.
    pub(crate) handed_over: bool,
    /// Grows when connections without a request are to be closed.
    pub(crate) shed: u32,
}

/// Waits until the node stops. A sender that is gone means the same.
pub(crate) async fn stopped(orders: &mut watch::Receiver<Orders>) {
    let _ = orders.wait_for(|orders| orders.stopping).await;
}

/// Waits until the node stops, or sheds connections after `seen` times.
pub(crate) async fn changed(mut orders: watch::Receiver<Orders>, seen: u32) -> Orders {
    let changed = orders
        .wait_for(|orders| orders.stopping || orders.shed != seen)
        .await;
    match changed {
        Ok(orders) => *orders,
        Err(_) => Orders {
            stopping: true,
            ..Orders::default()
        },
    }
}

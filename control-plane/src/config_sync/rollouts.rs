//! The way for the Admin API to see roll-outs and to command them.

use std::sync::Arc;

use shared::snapshot::Revision;
use tokio::sync::{mpsc, oneshot, watch};

use crate::rollout::{Journal, Plan};

/// What an operator wants of a roll-out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Nobody else is given it, whatever is written, until an operator says so.
    Halt,
    /// It goes on, whatever nodes have done so far; or all that was written since, in its place.
    Resume,
    /// Every node is led to it at once.
    Release,
    /// The state before it becomes a new revision.
    RollBack,
}

/// Why an order is not carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OrderError {
    /// There is no such roll-out.
    #[error("no such roll-out")]
    Unknown,
    /// It has ended.
    #[error("the roll-out has ended")]
    Ended,
    /// It is of several writes, or something waits behind it.
    #[error("several writes would be undone with the roll-out")]
    Several,
    /// There is no way back.
    #[error("the history does not reach back to the roll-out")]
    Forgotten,
    /// It could not be kept, or others were faster again and again.
    #[error("the roll-outs cannot be kept now")]
    Unkept,
    /// The process ends.
    #[error("the control plane stops")]
    Stopping,
}

/// An order on its way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: Revision,
    pub(super) order: Order,
    pub(super) answer: oneshot::Sender<Result<(), OrderError>>,
}

/// The roll-outs of a control plane.
#[derive(Clone, Debug)]
pub struct Rollouts {
    /// How they go; none: every change goes to every node at once.
    pub plan: Option<Plan>,
    pub(super) journal: watch::Receiver<Arc<Journal>>,
    pub(super) orders: mpsc::Sender<Request>,
}

impl Rollouts {
    /// Those that are remembered.
    pub fn journal(&self) -> Arc<Journal> {
        self.journal.borrow().clone()
    }

    /// Has `order` carried out on the roll-out that leads to `id`.
    pub async fn order(&self, id: Revision, order: Order) -> Result<(), OrderError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { id, order, answer };
        if self.orders.send(request).await.is_err() {
            return Err(OrderError::Stopping);
        }
        answered.await.unwrap_or(Err(OrderError::Stopping))
    }
}

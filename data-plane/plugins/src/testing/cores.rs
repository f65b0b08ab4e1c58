//! Several cores of one node.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::LocalSpawner;
use futures::future::{AbortHandle, LocalBoxFuture, abortable};
use futures::task::LocalSpawnExt as _;

use super::FakeHost;
use crate::state::CoreStates;

/// What a core has for itself.
#[derive(Default)]
pub(super) struct OfCore {
    pub(super) states: CoreStates,
    tasks: RefCell<Vec<AbortHandle>>,
}

impl OfCore {
    pub(super) fn spawn(&self, spawner: &LocalSpawner, task: LocalBoxFuture<'static, ()>) {
        let (task, handle) = abortable(task);
        self.tasks.borrow_mut().push(handle);
        spawner
            .spawn_local(task.map(drop))
            .expect("the pool lives as long as the host");
    }
}

impl FakeHost {
    /// Another core of this node.
    pub(crate) fn beside(&self) -> Self {
        Self(Rc::clone(&self.0), Rc::default())
    }

    /// Ends this core, and what it had spawned.
    pub(crate) fn end(self) {
        for task in self.1.tasks.take() {
            task.abort();
        }
    }

    /// Lets Redis take so long for an answer.
    pub(crate) fn redis_takes(&self, duration: Duration) {
        self.0.redis_takes.set(duration);
    }
}

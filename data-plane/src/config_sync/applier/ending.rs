//! How a process of this node ends, as whoever starts next is to know.

use std::sync::Arc;

use super::Applier;

impl Applier {
    /// How many crashes in a row the start of this process followed.
    pub(in super::super) fn crashes(&self) -> u64 {
        self.last_good.crashes()
    }

    /// Notes that this process runs, until it is `told` to stop.
    pub(in super::super) fn begins(&self, told: impl Future<Output = ()> + Send + 'static) {
        let last_good = Arc::clone(&self.last_good);
        last_good.running.begins();
        tokio::spawn(async move {
            told.await;
            last_good.running.ends();
        });
    }

    /// The process stops in good order.
    pub(in super::super) fn stops(&self) {
        self.last_good.marker.healthy();
        self.last_good.running.ends();
    }

    /// Leaves the last good file, and what was tried, to the process that has taken over.
    pub(in super::super) fn leave(&self) {
        // Before that one says so of itself.
        self.last_good.running.ends();
        self.last_good.leave();
    }
}

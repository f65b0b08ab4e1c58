//! What a control plane does not know that has just started: which work the process before it has given to nodes. They tell
//! when they come back, so nobody is given work before they have had the time for that.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::RETURNS;
use crate::fleet::Process;

/// The processes of nodes that are on their way back.
#[derive(Clone, Debug)]
pub(super) struct Returns {
    away: Arc<Mutex<Away>>,
    over: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
struct Away {
    /// Those that are known to be. One that gives way to its successor may be at something, too.
    processes: BTreeSet<Process>,
    /// Whether one has come.
    begun: bool,
}

impl Returns {
    /// There are such: `processes`, and maybe others.
    pub(super) fn of(processes: BTreeSet<Process>) -> Self {
        let away = Away {
            processes,
            begun: false,
        };
        Self {
            away: Arc::new(Mutex::new(away)),
            over: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Nobody is waited for.
    pub(super) fn none() -> Self {
        let returns = Self::of(BTreeSet::new());
        returns.over.send_replace(true);
        returns
    }

    fn away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `process` is back, and has told what it does. Once the first is, the others have as much time as nodes may take.
    pub(super) fn is_back(&self, process: &Process) {
        if self.are_over() {
            return;
        }
        let mut away = self.away();
        let is_last = away.processes.remove(process) && away.processes.is_empty();
        let begun = std::mem::replace(&mut away.begun, true);
        drop(away);
        if is_last {
            self.over.send_replace(true);
        } else if !begun {
            let over = Arc::clone(&self.over);
            tokio::spawn(async move {
                tokio::time::sleep(RETURNS).await;
                over.send_replace(true);
            });
        }
    }

    /// Whether nobody is waited for any more.
    pub(super) fn are_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Waits until nobody is waited for any more.
    pub(super) async fn over(&self) {
        // The sender lives as long as this.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}

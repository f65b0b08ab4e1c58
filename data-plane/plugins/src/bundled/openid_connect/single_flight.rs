//! One run of an operation at a time: whoever comes while it runs waits for its result, on any core.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;

/// The operations that run now, by key.
pub(super) struct Flights<K: Eq + Hash, V>(Mutex<HashMap<K, Vec<oneshot::Sender<V>>>>);

impl<K: Eq + Hash, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Flights<K, V> {
    /// Waits for the result of the operation `key`. If it does not run yet, the caller also gets a
    /// [`Pilot`]: it has to start it.
    pub(super) fn board(self: &Arc<Self>, key: &K) -> (oneshot::Receiver<V>, Option<Pilot<K, V>>) {
        let (sender, receiver) = oneshot::channel();
        let mut running = self.lock();
        if let Some(waiting) = running.get_mut(key) {
            waiting.push(sender);
            return (receiver, None);
        }
        running.insert(key.clone(), vec![sender]);
        let pilot = Pilot {
            flights: Arc::clone(self),
            key: key.clone(),
        };
        (receiver, Some(pilot))
    }

    /// Waits for the result of the operation `key`, if it runs.
    pub(super) fn join(&self, key: &K) -> Option<oneshot::Receiver<V>> {
        let (sender, receiver) = oneshot::channel();
        self.lock().get_mut(key)?.push(sender);
        Some(receiver)
    }

    /// Whether the operation `key` runs.
    pub(super) fn runs(&self, key: &K) -> bool {
        self.lock().contains_key(key)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Vec<oneshot::Sender<V>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duty to finish an operation. Dropped without a result, all that wait are told so.
pub(super) struct Pilot<K: Clone + Eq + Hash, V: Clone> {
    flights: Arc<Flights<K, V>>,
    key: K,
}

impl<K: Clone + Eq + Hash, V: Clone> Pilot<K, V> {
    /// Hands the result to all that wait.
    pub(super) fn land(self, result: &V) {
        let waiting = self.flights.lock().remove(&self.key).unwrap_or_default();
        for sender in waiting {
            // Who no longer waits has gone away.
            _ = sender.send(result.clone());
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Drop for Pilot<K, V> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn all_get_the_result_of_the_one_that_runs() {
        let flights: Arc<Flights<u8, u8>> = Arc::default();
        let (first, pilot) = flights.board(&1);
        let (second, none) = flights.board(&1);
        assert!(none.is_none());
        assert!(flights.board(&2).1.is_some());
        let third = flights.join(&1).unwrap();
        pilot.unwrap().land(&7);
        let landed = [first, second, third].map(block_on);
        assert_eq!(landed, [Ok(7); 3]);
        assert!(flights.join(&1).is_none());
        assert!(flights.board(&1).1.is_some());
    }

    #[test]
    fn a_run_that_is_given_up_leaves_nobody_waiting() {
        let flights: Arc<Flights<u8, u8>> = Arc::default();
        let (waiting, pilot) = flights.board(&1);
        drop(pilot);
        assert!(block_on(waiting).is_err());
        assert!(flights.board(&1).1.is_some());
    }
}

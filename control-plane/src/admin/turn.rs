//! Work that waits for the store, or takes a while: so much of it at a time, and who comes then is told to come back.
//! Else a crowd of writers would take every thread, also those by which data planes learn of changes.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::error::Refusal;

/// How many may wait for each other. The runtime has 512 threads for such work.
const WAITING: usize = 256;

/// Turns, to be taken one after the other.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WAITING)))
    }
}

impl Turns {
    /// Has `work` done where it may block, if not too many wait already. A panic of it is ours, and must not take the
    /// listener along.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = Arc::clone(&self.0).try_acquire_owned();
        let turn = turn.map_err(|_| Refusal::Busy)?;
        let working = tokio::task::spawn_blocking(move || {
            // Until the work is done, also if whoever asked has gone.
            let _turn = turn;
            work()
        });
        working.await.map_err(|_| Refusal::Unexpected)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn who_finds_too_many_waiting_is_told_and_panics_give_their_turn_back() {
        let turns = Turns(Arc::new(Semaphore::new(2)));
        let (go, gone) = mpsc::channel::<()>();
        let first = turns.clone();
        let waits = tokio::spawn(async move { first.take(move || gone.recv()).await.map(drop) });
        while turns.0.available_permits() > 1 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(turns.take(|| 1).await, Ok(1)));
        let panicked = turns.take(|| -> () { panic!("a bug") }).await;
        assert!(matches!(panicked, Err(Refusal::Unexpected)));
        let held = turns.0.try_acquire().unwrap();
        assert!(matches!(turns.take(|| 1).await, Err(Refusal::Busy)));
        drop(held);
        go.send(()).unwrap();
        waits.await.unwrap().unwrap();
        assert_eq!(turns.0.available_permits(), 2);
    }
}

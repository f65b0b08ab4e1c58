//! Limits how much work may wait for the store, or take long, at a time; whoever exceeds the limit is told to come
//! back. Otherwise a crowd of writers or readers could take every thread, including those that tell data planes about
//! changes.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::error::Refusal;

/// How many may wait for each other. The runtime has 512 threads for such work.
const WAITING: usize = 256;

/// How many may wait to read everything.
const READERS: usize = 64;

/// Turns, to be taken one after the other.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    waiting: Arc<Semaphore>,
    /// Held by the one whose turn it is, where what is to be done does not see to that by itself.
    own: Option<Arc<Semaphore>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self::of(WAITING)
    }
}

impl Turns {
    fn of(waiting: usize) -> Self {
        Self {
            waiting: Arc::new(Semaphore::new(waiting)),
            own: None,
        }
    }

    /// Those of who reads everything there is: one at a time, so that there is a core left for what cannot wait.
    pub(super) fn to_read() -> Self {
        Self {
            own: Some(Arc::new(Semaphore::new(1))),
            ..Self::of(READERS)
        }
    }

    /// Has `work` done where it may block, if not too many wait already. A panic of it is ours, and must not take the
    /// listener along.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = Arc::clone(&self.waiting).try_acquire_owned();
        let mut turn = vec![turn.map_err(|_| Refusal::Busy)?];
        if let Some(own) = &self.own {
            let own = Arc::clone(own).acquire_owned().await;
            turn.push(own.map_err(|_| Refusal::Unexpected)?);
        }
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
    async fn everything_is_read_by_one_at_a_time() {
        let turns = Turns::to_read();
        let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let reads = (0..20).map(|_| {
            let running = Arc::clone(&running);
            turns.take(move || {
                let others = running.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                others
            })
        });
        for others in futures::future::join_all(reads).await {
            assert_eq!(others.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn who_finds_too_many_waiting_is_told_and_panics_give_their_turn_back() {
        let turns = Turns::of(2);
        let (go, gone) = mpsc::channel::<()>();
        let first = turns.clone();
        let waits = tokio::spawn(async move { first.take(move || gone.recv()).await.map(drop) });
        while turns.waiting.available_permits() > 1 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(turns.take(|| 1).await, Ok(1)));
        let panicked = turns.take(|| -> () { panic!("a bug") }).await;
        assert!(matches!(panicked, Err(Refusal::Unexpected)));
        let held = turns.waiting.try_acquire().unwrap();
        assert!(matches!(turns.take(|| 1).await, Err(Refusal::Busy)));
        drop(held);
        go.send(()).unwrap();
        waits.await.unwrap().unwrap();
        assert_eq!(turns.waiting.available_permits(), 2);
    }
}

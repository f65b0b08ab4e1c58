//! Runs work that may panic or never end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use proto::v1::Fault;
use proto::v1::fault::Code;
use shared::clock::CoreTime;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{FAULTS, told};
use crate::compile::CompileFault;
use crate::config_sync::receiver::fault;

/// How many times its budget work is waited for: a node that is short of cores refuses nothing that it could run.
const WAITS: u32 = 12;
/// From one look at what the work has taken to the next, at least.
const LOOK: Duration = Duration::from_millis(10);

/// What comes of `work`, on a thread of its own, unless that panics or keeps a core busy for longer than the `budget`.
pub(super) async fn guarded<T: Send + 'static>(
    budget: Duration,
    work: impl FnOnce() -> Result<T, Vec<CompileFault>> + Send + 'static,
) -> Result<T, Vec<Fault>> {
    let (begins, begun) = oneshot::channel();
    let work = move || {
        let _ = begins.send(CoreTime::of_this_thread());
        catch_unwind(AssertUnwindSafe(work))
    };
    let work = tokio::task::spawn_blocking(work);
    let too_long = async {
        let Ok(taken) = begun.await else {
            return std::future::pending().await;
        };
        // By the clock, a node that stood still meanwhile would have waited for all of that time.
        let mut waited = Duration::ZERO;
        loop {
            let left = budget.saturating_sub(taken.elapsed());
            if left.is_zero() {
                return format!("compiling it took over {} s", budget.as_secs());
            }
            if waited >= budget.saturating_mul(WAITS) {
                let waited = waited.as_secs();
                return format!("compiling it was not done within {waited} s");
            }
            let look = left.max(LOOK);
            sleep(look).await;
            waited += look;
        }
    };
    tokio::select! {
        biased;
        done = work => match done {
            Ok(Ok(done)) => {
                done.map_err(|faults| faults.into_iter().take(FAULTS).map(told).collect())
            }
            Ok(Err(_)) | Err(_) => Err(vec![fault(Code::Panic, "compiling it panicked")]),
        },
        message = too_long => Err(vec![fault(Code::Timeout, message)]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_compiler_that_panics_or_does_not_end_is_a_refusal_that_says_so() {
        let long = Duration::from_mins(10);
        let refused = guarded::<()>(long, || panic!("a mistake in the compiler")).await;
        let faults = refused.unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].code(), Code::Panic);
        assert_eq!(faults[0].message, "compiling it panicked");
        // It is over once it is let go, and not before.
        let over = Arc::new(AtomicBool::new(false));
        let busy = Arc::clone(&over);
        let endless = move || {
            while !busy.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            Ok(())
        };
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let asleep = move || {
            let _ = gone.recv();
            Ok(())
        };
        let budget = Duration::from_millis(10);
        for refused in [
            guarded(budget, endless).await,
            guarded(budget, asleep).await,
        ] {
            let faults = refused.unwrap_err();
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert_eq!(faults[0].code(), Code::Timeout);
            over.store(true, Ordering::Relaxed);
        }
        drop(go);
        assert_eq!(guarded(long, || Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn a_compiler_that_gets_no_core_for_long_has_not_taken_that_long() {
        let slept = guarded(Duration::from_millis(500), || {
            std::thread::sleep(Duration::from_millis(1500));
            Ok(7)
        });
        assert_eq!(slept.await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stood_still_has_not_waited_meanwhile() {
        let budget = Duration::from_secs(5);
        let (begins, begun) = oneshot::channel();
        let (go, gone) = std::sync::mpsc::channel();
        let compiling = guarded(budget, move || {
            let _ = begins.send(());
            gone.recv().unwrap();
            Ok(7)
        });
        let standing = async {
            begun.await.unwrap();
            // It is waited for by now.
            tokio::task::yield_now().await;
            tokio::time::advance(budget * WAITS * 2).await;
            go.send(()).unwrap();
        };
        let (compiled, ()) = tokio::join!(biased; compiling, standing);
        assert_eq!(compiled, Ok(7));
    }
}

//! The revocations that a node knows: its own, and those that the control plane distributes.
//!
//! Writers replace a persistent map; a reader first compares a number and looks into the map only
//! after it has changed, so that a session that was looked at before costs one load.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::channel::oneshot;
use futures::future::select;
use shared::clock::UnixTime;
use shared::entity::Revocation;
use uuid::Uuid;

use crate::host::Host;

/// Most revocations that a node takes from its own requests. Those of the control plane it takes all:
/// one that is dropped lets somebody in.
const MOST: usize = 1_000_000;

/// How long what has expired stays at least if the control plane has told nothing of it: a clock may be wrong for a while.
const UNFORGOTTEN: Duration = Duration::from_hours(30 * 24);

/// After which time the data plane has on disk what no control plane has taken.
const KEPT: Duration = Duration::from_secs(1);

/// Ends what `revocation` names: here at once, on other nodes as soon as the control plane knows. Whatever does not reach
/// that at once, the data plane keeps and sends on. Returns once either has it, so that nobody is told of a logout that a
/// process which is killed would forget; a control plane that does not answer is not waited for. A client that goes away
/// meanwhile ends nothing of that.
pub(crate) async fn end_everywhere(host: &impl Host, revocation: Revocation) {
    // What is full is logged by the attempt.
    host.revocations().add_own([revocation], host.now());
    let its_host = host.clone();
    let (told, heard) = oneshot::channel();
    host.spawn(Box::pin(async move {
        _ = its_host.revoke(vec![revocation]).await;
        // Who no longer waits need not hear of it.
        _ = told.send(());
    }));
    _ = select(heard, pin!(host.sleep(KEPT))).await;
}

/// The revocations of one node, shared by its cores.
#[derive(Debug, Default)]
pub struct Revocations {
    known: ArcSwap<imbl::HashMap<Uuid, Revocation>>,
    version: AtomicU64,
    /// Whether nobody can say any more which sessions are over.
    unknown: AtomicBool,
    /// Held by the one that writes.
    writer: Mutex<()>,
}

impl Revocations {
    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Says that no control plane has been heard for longer than sessions are to go on without, or that
    /// one is heard again.
    pub fn lose(&self, lost: bool) {
        self.unknown.store(lost, Ordering::Relaxed);
    }

    /// Whether sessions that others may have ended are not to go on.
    pub fn are_unknown(&self) -> bool {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Whether what bears one of `names` and began at `began_at` is over.
    pub fn end(&self, names: &[Uuid], began_at: UnixTime) -> bool {
        let known = self.known.load();
        !known.is_empty()
            && names.iter().any(|name| {
                known
                    .get(name)
                    .is_some_and(|found| began_at.as_millis() <= found.before)
            })
    }

    /// The `before` of what ends `name`; 0: nothing does. It grows with each such end: what noted it as it began is told
    /// from what began later, whatever the clocks of two machines say.
    pub fn epoch(&self, name: Uuid) -> u64 {
        self.known.load().get(&name).map_or(0, |found| found.before)
    }

    /// All that is known.
    pub fn all(&self) -> Vec<Revocation> {
        self.known.load().values().copied().collect()
    }

    /// Takes over what the control plane distributes, whatever the clock says here: it knows those of others as well.
    pub fn add(&self, revocations: impl IntoIterator<Item = Revocation>, now: UnixTime) {
        self.change(revocations, now, usize::MAX);
    }

    /// The control plane distributes `names` no more. So what has expired by the clock here as well is forgotten.
    pub fn forget(&self, names: impl IntoIterator<Item = Uuid>, now: UnixTime) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = imbl::HashMap::clone(&self.known.load());
        for name in names {
            if known.get(&name).is_some_and(|found| expired(found, now)) {
                known.remove(&name);
            }
        }
        // Nobody who looked needs to look again: nothing is over that was not.
        self.known.store(known.into());
    }

    /// Takes over what a request of this node asks for. Whether there was room.
    pub fn add_own(
        &self,
        revocations: impl IntoIterator<Item = Revocation>,
        now: UnixTime,
    ) -> bool {
        let lasting = revocations.into_iter();
        let lasting = lasting.filter(|revocation| !expired(revocation, now));
        self.change(lasting, now, MOST)
    }

    fn change(
        &self,
        revocations: impl IntoIterator<Item = Revocation>,
        now: UnixTime,
        most: usize,
    ) -> bool {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = imbl::HashMap::clone(&self.known.load());
        let mut changed = false;
        for revocation in revocations {
            let merged = match known.get(&revocation.id) {
                Some(found) => found.merge(revocation),
                None => revocation,
            };
            changed |= known.insert(revocation.id, merged) != Some(merged);
        }
        if !changed {
            return true;
        }
        if known.len() > most {
            known.retain(|_, found| !expired(found, now));
            if known.len() > most {
                return false;
            }
        } else if known.len().is_power_of_two() {
            // Those that the control plane would have told to forget while the clock here was behind.
            known.retain(|_, found| now < end(found).saturating_add(UNFORGOTTEN));
        }
        self.known.store(known.into());
        self.version.fetch_add(1, Ordering::Release);
        true
    }
}

/// When nothing that it has ended could be alive any more.
fn end(revocation: &Revocation) -> UnixTime {
    UnixTime::from_secs(revocation.expires_at)
}

fn expired(revocation: &Revocation, now: UnixTime) -> bool {
    end(revocation) <= now
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::testing::FakeHost;

    const NOW: UnixTime = UnixTime::from_secs(1_000);

    fn revocation(id: u128, before: u64, expires_at: u64) -> Revocation {
        Revocation {
            id: Uuid::from_u128(id),
            before: before * 1000,
            expires_at,
        }
    }

    #[test]
    fn what_began_before_is_over_and_what_begins_later_is_not() {
        let revocations = Revocations::default();
        let ends = |id, at| revocations.end(&[Uuid::from_u128(9), Uuid::from_u128(id)], at);
        assert!(!ends(1, UnixTime::from_secs(900)));
        let version = revocations.version();
        revocations.add([revocation(1, 1_000, 2_000)], NOW);
        assert_ne!(revocations.version(), version);
        assert!(ends(1, UnixTime::from_secs(900)) && ends(1, NOW));
        assert!(!ends(1, UnixTime::from_secs(1_001)));
        assert!(!ends(2, UnixTime::from_secs(900)));
    }

    #[test]
    fn a_logout_is_told_of_though_its_client_goes_away() {
        let host = FakeHost::default();
        let ending = end_everywhere(&host, revocation(1, 500, 9_999_999_999));
        assert!(ending.now_or_never().is_none());
        assert_eq!(host.last_stored(), None);
        host.run(std::future::ready(()));
        assert_eq!(host.last_stored(), Some(revocation(1, 500, 9_999_999_999)));
    }

    #[test]
    fn a_repeat_never_weakens_and_costs_no_look() {
        let revocations = Revocations::default();
        revocations.add([revocation(1, 1_000, 2_000)], NOW);
        let version = revocations.version();
        revocations.add([revocation(1, 900, 1_500)], NOW);
        assert_eq!(revocations.version(), version);
        assert!(revocations.end(&[Uuid::from_u128(1)], NOW));
    }

    #[test]
    fn rule_104_one_clock_that_is_ahead_for_a_while_forgets_nothing() {
        let revocations = Revocations::default();
        let ends = || revocations.end(&[Uuid::from_u128(1)], UnixTime::from_secs(900));
        let ahead = UnixTime::from_secs(90_000);
        revocations.add([revocation(1, 1_000, 2_000)], ahead);
        revocations.add([revocation(2, 1_000, 2_000)], ahead);
        assert!(ends());
        revocations.forget([Uuid::from_u128(1)], NOW);
        assert!(ends());
        // Nor does one that is behind keep all for ever.
        revocations.forget([Uuid::from_u128(1)], ahead);
        assert!(!ends());
        let much_later = UnixTime::from_secs(90_000_000);
        revocations.add([revocation(3, 1_000, 99_000_000)], much_later);
        assert_eq!(revocations.epoch(Uuid::from_u128(2)), 0);
    }

    #[test]
    fn a_full_node_says_so_and_forgets_what_has_expired() {
        let revocations = Revocations::default();
        let add = |ids: std::ops::Range<u128>, now, most| {
            let all = ids.map(|id| revocation(id, 1_000, 2_000));
            revocations.change(all, now, most)
        };
        assert!(add(0..10, NOW, 10));
        assert!(!add(10..11, NOW, 10));
        assert!(!revocations.end(&[Uuid::from_u128(10)], NOW));
        let later = UnixTime::from_secs(3_000);
        let fresh = (20..25).map(|id| revocation(id, 3_000, 4_000));
        assert!(revocations.change(fresh, later, 10));
        assert!(!revocations.end(&[Uuid::from_u128(1)], NOW));
        assert!(revocations.end(&[Uuid::from_u128(20)], later));
    }
}

//! The proofs of possession that a node has seen: each serves once (RFC 9449 §11.1).

use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::clock::UnixTime;

use crate::expiring::Expiring;
use crate::succession::{Succeeded, chunk, number};

/// Most of them: with more, none is accepted.
const MOST: usize = 100_000;

/// What a proof is known by.
type Name = [u8; 32];

/// Proofs that were used.
#[derive(Debug, Default)]
pub(crate) struct UsedProofs(Mutex<Expiring<Name, (), MOST>>);

impl UsedProofs {
    fn lock(&self) -> MutexGuard<'_, Expiring<Name, (), MOST>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a proof. `false`: it was used before, or no more can be remembered.
    pub(super) fn note(&self, proof: Name, until: UnixTime, now: UnixTime) -> bool {
        let mut used = self.lock();
        used.get(&proof, now).is_none() && used.keep(proof, (), until, now)
    }
}

impl Succeeded for UsedProofs {
    fn give(&self, now: UnixTime) -> Vec<u8> {
        let mut given = Vec::new();
        for (proof, until, ()) in self.lock().iter(now) {
            given.extend(proof);
            given.extend(until.as_millis().to_be_bytes());
        }
        given
    }

    fn take(&self, mut given: &[u8], now: UnixTime) {
        let given = &mut given;
        while let (Some(proof), Some(until)) = (chunk(given), number(given)) {
            self.note(proof, UnixTime::from_millis(until), now);
        }
    }
}

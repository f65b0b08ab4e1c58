//! What the filters of a node go on with when another process takes the place of theirs: proofs and requests that have been
//! counted, and forms that browsers are to get back.

use shared::clock::UnixTime;

use crate::bundled::openid_connect::forms::Forms;
use crate::bundled::openid_connect::used_proofs::UsedProofs;
use crate::bundled::rate_limiting::Counters;
use crate::state::NodeStates;

/// Of how many kinds it is.
pub const KINDS: usize = 3;

/// State of a node that its next process goes on with.
pub(crate) trait Succeeded: Default + Send + Sync + 'static {
    /// What it holds, for [`Self::take`].
    fn give(&self, now: UnixTime) -> Vec<u8>;

    /// Holds what is `given` as well, which may be given again with what has come up since. What cannot be read is left.
    fn take(&self, given: &[u8], now: UnixTime);
}

/// What there is of each kind.
pub fn give(states: &NodeStates, now: UnixTime) -> [Vec<u8>; KINDS] {
    fn kind<T: Succeeded>(states: &NodeStates, now: UnixTime) -> Vec<u8> {
        let state = states.find::<T>();
        state.map(|state| state.give(now)).unwrap_or_default()
    }
    [
        kind::<UsedProofs>(states, now),
        kind::<Counters>(states, now),
        kind::<Forms>(states, now),
    ]
}

/// Goes on with what [`give`] has told.
pub fn take(states: &NodeStates, given: &[Vec<u8>; KINDS], now: UnixTime) {
    fn kind<T: Succeeded>(states: &NodeStates, given: &[u8], now: UnixTime) {
        if !given.is_empty() {
            states.of::<T>().take(given, now);
        }
    }
    let [proofs, counters, forms] = given;
    kind::<UsedProofs>(states, proofs, now);
    kind::<Counters>(states, counters, now);
    kind::<Forms>(states, forms, now);
}

/// Takes a number from the front of `bytes`.
pub(crate) fn number(bytes: &mut &[u8]) -> Option<u64> {
    chunk(bytes).map(u64::from_be_bytes)
}

/// Takes so many bytes from the front of `bytes`.
pub(crate) fn chunk<const LENGTH: usize>(bytes: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (chunk, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*chunk)
}

/// Takes as many bytes from the front of `bytes` as the number there says.
pub(crate) fn counted<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let (counted, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(counted)
}

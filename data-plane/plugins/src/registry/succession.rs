//! Which state the next process of a node goes on with: proofs and requests that have been counted, and forms that browsers
//! are to get back.

use shared::clock::UnixTime;

use crate::bundled::openid_connect::forms::Forms;
use crate::bundled::openid_connect::used_proofs::UsedProofs;
use crate::bundled::rate_limiting::Counters;
use crate::state::NodeStates;
use crate::succession::Succeeded;

/// Of how many kinds it is.
pub const KINDS: usize = 3;

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

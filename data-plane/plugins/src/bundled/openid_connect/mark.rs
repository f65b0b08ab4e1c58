//! The `state` of a sign-in: random, and sealed, so that every node knows it for one of its own even
//! after the sign-in's cookie is gone. It tells whether a code in a URL is ours to take out of it, and where the sign-in
//! leads: the provider brings that back, so that no cookie has to hold it.

use shared::clock::UnixTime;

use super::rules::Rules;
use crate::host::Host;
use crate::sessions::seal::{self, SealError, Sizes};
use crate::sessions::session_keys::KeyRing;

/// What the state is sealed as. No cookie has such a name.
const NAME: &str = "=state";

/// Random bytes in a state, besides the 12 that sealing draws: 160 bits together (RFC 6749 §10.10).
const RANDOM: usize = 8;

/// A state is as long as it is.
const SIZES: Sizes = Sizes {
    chunk: 768,
    most: 1,
};

/// Longest addresses in a state, packed: there are providers that take no state of any length.
const LONGEST_ADDRESSES: usize = 480;

/// What a state says to those who can open it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mark {
    /// When it was made.
    pub(super) made_at: UnixTime,
    /// How many sign-ins came right before it whose cookies the browser did not keep.
    pub(super) round: u8,
}

/// A new state, which holds `addresses` if they are short enough.
pub(super) fn make(
    rules: &Rules,
    ring: &KeyRing,
    host: &impl Host,
    round: u8,
    addresses: &[u8],
) -> Result<String, SealError> {
    let now = host.now().as_secs();
    let (mut random, mut nonce) = ([0; RANDOM], [0; 12]);
    host.random(&mut random);
    host.random(&mut nonce);
    let mut plaintext = vec![round];
    plaintext.extend_from_slice(&now.to_be_bytes());
    plaintext.extend_from_slice(&random);
    if addresses.len() <= LONGEST_ADDRESSES {
        plaintext.extend_from_slice(addresses);
    }
    seal::seal(ring, &rules.binding, NAME, &plaintext, SIZES, now, nonce)
}

/// Whether `state` looks as one of a gateway does, though it may open for nobody any more.
pub(super) fn is_likely(state: &str) -> bool {
    seal::claims(state.as_bytes()).is_some()
}

/// What `state` says, if it is one of this plugin's.
pub(super) fn read(rules: &Rules, ring: &KeyRing, state: &str, now: UnixTime) -> Option<Mark> {
    said(rules, ring, state, now).map(|(mark, _)| mark)
}

/// The same, and the addresses that it holds; none if they were too long.
pub(super) fn said(
    rules: &Rules,
    ring: &KeyRing,
    state: &str,
    now: UnixTime,
) -> Option<(Mark, Vec<u8>)> {
    if state.len() > SIZES.chunk {
        return None;
    }
    let opened = seal::open(ring, &rules.binding, NAME, state, now.as_secs())?;
    let (round, rest) = opened.plaintext.split_first()?;
    let (made_at, rest) = rest.split_first_chunk()?;
    let mark = Mark {
        made_at: UnixTime::from_secs(u64::from_be_bytes(*made_at)),
        round: *round,
    };
    Some((mark, rest.get(RANDOM..)?.to_vec()))
}

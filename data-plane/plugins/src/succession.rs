//! State that the filters of a node go on with when another process takes the place of theirs.

use shared::clock::UnixTime;

/// State of a node that its next process goes on with.
pub(crate) trait Succeeded: Default + Send + Sync + 'static {
    /// What it holds, for [`Self::take`].
    fn give(&self, now: UnixTime) -> Vec<u8>;

    /// Holds what is `given` as well, which may be given again with what has come up since. What cannot be read is left.
    fn take(&self, given: &[u8], now: UnixTime);
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

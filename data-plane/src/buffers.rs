//! Buffers of a core that nobody needs for the moment. Whoever reads or writes next takes the one that was given back
//! last: its memory is in the processor's caches, where a buffer of each connection's own would no longer be. And a
//! connection that waits holds none.

use std::cell::RefCell;

use bytes::BytesMut;

/// How long each is: so much that a usual head, and a small body behind it, are read or written at once.
pub(crate) const LENGTH: usize = 8 * 1024;

/// Most that a core keeps.
const KEPT: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
pub(crate) fn take() -> BytesMut {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| BytesMut::with_capacity(LENGTH))
}

/// Gives an empty `buffer` back, unless parts of what was in it are still in use, or it has grown: then it stays where it
/// is.
pub(crate) fn give_back(buffer: &mut BytesMut) {
    let whole = buffer.is_empty() && buffer.try_reclaim(LENGTH) && buffer.capacity() == LENGTH;
    if !whole {
        return;
    }
    let buffer = std::mem::take(buffer);
    // At the end of a thread nothing is kept.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_from_one_to_the_next_once_nobody_needs_it() {
        let mut first = take();
        let place = first.as_ptr();
        first.extend_from_slice(b"head body");
        give_back(&mut first);
        assert_eq!(first, "head body", "what has something in it stays");
        let head = first.split_to(5).freeze();
        let body = first.split().freeze();
        give_back(&mut first);
        drop(body);
        give_back(&mut first);
        assert!(first.capacity() > 0, "what is in use elsewhere stays");
        drop(head);
        give_back(&mut first);
        assert_eq!(first.capacity(), 0);
        let second = take();
        assert!(second.is_empty() && second.capacity() == LENGTH);
        assert_eq!(second.as_ptr(), place);
        assert_ne!(take().as_ptr(), place, "it has one owner");
    }

    #[test]
    fn a_buffer_that_has_grown_stays_where_it_is() {
        let mut large = take();
        large.reserve(LENGTH + 1);
        let place = large.as_ptr();
        give_back(&mut large);
        assert!(large.capacity() > LENGTH && large.as_ptr() == place);
        let mut nothing = BytesMut::new();
        give_back(&mut nothing);
        assert_eq!(take().capacity(), LENGTH);
    }

    #[test]
    fn a_core_keeps_so_many_and_no_more() {
        let mut all: Vec<_> = (0..KEPT + 5).map(|_| take()).collect();
        for buffer in &mut all {
            give_back(buffer);
        }
        assert_eq!(SPARE.with_borrow(Vec::len), KEPT);
    }
}

//! A core's free buffers. Whoever reads or writes next takes the one returned last, whose memory is still in the
//! processor's caches; a buffer of the connection's own would not be. A connection that waits holds none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use bytes::BytesMut;

/// How long each is: so much that a usual head, and a small body behind it, are read or written at once.
pub(crate) const LENGTH: usize = 8 * 1024;

/// Least free space that a read is given. Larger than a usual request, so that one read takes it
/// whole and leaves the socket known to be empty: the next read then costs no system call.
const SPARE: usize = 4 * 1024;

/// Most free space that a read is given, of a connection that carries big bodies.
pub(crate) const LARGEST: usize = 64 * 1024;

/// Most that a core keeps.
const KEPT: usize = 64;

thread_local! {
    static SPARE_BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
pub(crate) fn take() -> BytesMut {
    let spare = SPARE_BUFFERS.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| BytesMut::with_capacity(LENGTH))
}

/// Gives an empty `buffer` back, unless parts of what was in it are still in use, or it has grown: then it stays where it
/// is. One that parts were taken of must not have grown before. Says whether it has gone.
pub(crate) fn give_back(buffer: &mut BytesMut) -> bool {
    let whole = buffer.is_empty() && buffer.try_reclaim(LENGTH) && buffer.capacity() == LENGTH;
    if !whole {
        return false;
    }
    let buffer = std::mem::take(buffer);
    // At the end of a thread nothing is kept.
    let _ = SPARE_BUFFERS.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(buffer);
        }
    });
    true
}

/// What has arrived on a connection and is not taken yet, with room for more.
#[derive(Debug, Default)]
pub(crate) struct Input {
    bytes: BytesMut,
    /// How long the memory behind `bytes` is, which does not tell; 0 if there is none.
    length: usize,
    /// How much room the next read gets. Doubled by each read that has filled what it had.
    wanted: usize,
}

impl Input {
    /// Makes room for a read.
    pub(crate) fn make_room(&mut self) {
        let room = self.room();
        if room >= SPARE && (room >= self.wanted / 2 || !self.bytes.is_empty()) {
            return;
        }
        if !self.bytes.is_empty() {
            let more = (self.bytes.capacity() * 2).clamp(LENGTH, LARGEST);
            self.bytes.reserve(more);
            self.length = self.bytes.capacity();
        } else if self.wanted > LENGTH {
            // What came before has mostly been passed on by now.
            if !self.bytes.try_reclaim(self.wanted) {
                self.give_back();
                self.bytes = BytesMut::with_capacity(self.wanted);
                self.length = self.wanted;
            }
        } else {
            self.give_back();
            self.bytes = take();
            self.length = LENGTH;
        }
    }

    /// How much room there is.
    pub(crate) fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// A read for which there was `room` has brought `count` bytes.
    pub(crate) fn has_read(&mut self, count: usize, room: usize) {
        if count >= room {
            self.wanted = (self.length * 2).clamp(LENGTH, LARGEST);
        } else {
            self.wanted = (count * 2).clamp(LENGTH, self.wanted.max(LENGTH));
        }
    }

    /// Gives the memory back, if nothing is in it. Parts that are in use elsewhere keep what has grown for themselves.
    pub(crate) fn give_back(&mut self) {
        if self.length == 0 {
            return;
        }
        if self.length <= LENGTH {
            if give_back(&mut self.bytes) {
                self.length = 0;
            }
        } else if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
            self.length = 0;
        }
    }

    /// What has arrived.
    pub(crate) fn into_bytes(self) -> BytesMut {
        self.bytes
    }
}

impl From<BytesMut> for Input {
    fn from(bytes: BytesMut) -> Self {
        Self {
            length: bytes.capacity(),
            bytes,
            wanted: LENGTH,
        }
    }
}

impl Deref for Input {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.bytes
    }
}

impl DerefMut for Input {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `count` bytes into `input`, and gives the room that there was for them.
    fn read(input: &mut Input, count: usize) -> usize {
        input.make_room();
        let room = input.room();
        let count = count.min(room);
        let end = input.len() + count;
        input.resize(end, b'x');
        input.has_read(count, room);
        room
    }

    #[test]
    fn reads_of_a_large_body_grow_and_those_of_small_messages_do_not() {
        let mut input = Input::default();
        let rooms: Vec<usize> = (0..6)
            .map(|_| {
                let room = read(&mut input, usize::MAX);
                drop(input.split());
                room / 1024
            })
            .collect();
        assert_eq!(rooms, [8, 16, 32, 64, 64, 64]);
        // What is passed on slowly is not waited for.
        read(&mut input, usize::MAX);
        let waits = input.split().freeze();
        assert_eq!(read(&mut input, usize::MAX), LARGEST);
        drop((input.split(), waits));
        // A wait takes the memory, and no more.
        input.give_back();
        assert_eq!(input.capacity(), 0);
        assert_eq!(read(&mut input, SPARE), LARGEST);
        drop(input.split());
        // The end of the body, and a message after it.
        read(&mut input, 100);
        drop(input.split());
        input.give_back();
        for _ in 0..3 {
            assert_eq!(read(&mut input, 1000), LENGTH);
            drop(input.split());
            input.give_back();
        }
    }

    #[test]
    fn a_large_buffer_is_none_of_the_core_s() {
        SPARE_BUFFERS.with_borrow_mut(Vec::clear);
        let mut input = Input::default();
        // A head that is longer than a buffer, and a body.
        for _ in 0..3 {
            read(&mut input, LENGTH);
        }
        assert_eq!(input.len(), 3 * LENGTH);
        let head = input.split_to(20_000).freeze();
        drop(input.split());
        input.give_back();
        assert_eq!(input.capacity(), 0, "what is in use is not held");
        drop(head);
        read(&mut input, usize::MAX);
        drop(input.split());
        input.give_back();
        let kept = SPARE_BUFFERS.with_borrow(Vec::len);
        assert!(kept <= 1, "{kept}");
        let length = |buffer: &mut BytesMut| buffer.try_reclaim(LENGTH + 1);
        assert!(!SPARE_BUFFERS.with_borrow_mut(|all| all.iter_mut().any(length)));
    }

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
        assert_eq!(SPARE_BUFFERS.with_borrow(Vec::len), KEPT);
    }
}

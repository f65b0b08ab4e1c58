//! What a core has verified before and need not verify again. It has a limit in bytes, which is lower where the node
//! has little memory.

use std::cell::RefCell;
use std::rc::Rc;

use foldhash::fast::RandomState;
use quick_cache::Weighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};

use crate::host::Host;
use crate::sessions::seal::NAME_CHARACTERS;

/// Most bytes of one kind that a core remembers.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Names what was found: the configuration that did, and the part of its text that differs from all others.
pub(super) type Name = (u64, [u8; NAME_CHARACTERS]);

/// What is found in a text that a client brings.
pub(super) trait Found {
    /// The text, which what follows from it is a few times as long as.
    fn text(&self) -> &str;
}

/// What a core remembers of one kind.
pub(super) struct Memory<T: Found>(RefCell<Known<T>>);

/// Nothing gets in by a name that a client has made up: the hash need not withstand that.
type Known<T> = Cache<Name, Rc<T>, Weight, RandomState>;

impl<T: Found> Memory<T> {
    pub(super) fn get(&self, name: &Name) -> Option<Rc<T>> {
        self.0.borrow().get(name).cloned()
    }

    pub(super) fn insert(&self, host: &impl Host, name: Name, found: &Rc<T>) {
        let mut known = self.0.borrow_mut();
        let room = capacity(host.room_of_core(MOST_BYTES));
        if known.capacity() != room {
            known.set_capacity(room);
        }
        known.insert(name, Rc::clone(found));
    }
}

impl<T: Found> Default for Memory<T> {
    fn default() -> Self {
        let (hasher, lifecycle) = (RandomState::default(), DefaultLifecycle::default());
        let known = Cache::with(1024, capacity(MOST_BYTES), Weight, hasher, lifecycle);
        Self(RefCell::new(known))
    }
}

fn capacity(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[derive(Clone, Debug)]
struct Weight;

impl<T: Found> Weighter<Name, Rc<T>> for Weight {
    fn weight(&self, _: &Name, found: &Rc<T>) -> u64 {
        // The text, the tokens in it, headers made of them, and cookies that go with it or take its place.
        1024 + 6 * u64::try_from(found.text().len()).unwrap_or(u64::MAX / 8)
    }
}

//! The opened sessions that a core remembers.

use std::cell::RefCell;
use std::rc::Rc;

use foldhash::fast::RandomState;
use quick_cache::Weighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};

use super::Opened;
use crate::host::Host;
use crate::openid_connect::rules::Rules;
use crate::openid_connect::seal::NAME_CHARACTERS;

/// Most bytes of opened sessions that a core remembers.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// Names a sealed value: the configuration that opened it, and the value's random start.
type Name = (u64, [u8; NAME_CHARACTERS]);

#[derive(Debug)]
struct OpenedSessions(RefCell<Known>);

/// Nothing gets in by a name that a client has made up: the hash need not withstand that.
type Known = Cache<Name, Rc<Opened>, Weight, RandomState>;

impl Default for OpenedSessions {
    fn default() -> Self {
        let (hasher, lifecycle) = (RandomState::default(), DefaultLifecycle::default());
        let known = Cache::with(1024, MOST_BYTES, Weight, hasher, lifecycle);
        Self(RefCell::new(known))
    }
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Name, Rc<Opened>> for Weight {
    fn weight(&self, _: &Name, opened: &Rc<Opened>) -> u64 {
        // The sealed text, the tokens in it, headers made of them, and what may take its place.
        1024 + 6 * u64::try_from(opened.sealed.len()).unwrap_or(u64::MAX / 8)
    }
}

/// Names a sealed value.
fn name(rules: &Rules, value: &[u8]) -> Option<Name> {
    let start = value.first_chunk::<NAME_CHARACTERS>()?;
    Some((rules.compilation, *start))
}

/// What was opened before from a value that began like `value`.
pub(super) fn remembered(rules: &Rules, host: &impl Host, value: &[u8]) -> Option<Rc<Opened>> {
    let name = name(rules, value)?;
    let sessions = host.core_state::<OpenedSessions>();
    sessions.0.borrow().get(&name).cloned()
}

/// What was opened from this very value before.
pub(super) fn known(rules: &Rules, host: &impl Host, value: &str) -> Option<Rc<Opened>> {
    remembered(rules, host, value.as_bytes()).filter(|known| known.sealed == value)
}

/// Remembers what was opened.
pub(super) fn remember(rules: &Rules, host: &impl Host, opened: &Rc<Opened>) {
    if let Some(name) = name(rules, opened.sealed.as_bytes()) {
        let sessions = host.core_state::<OpenedSessions>();
        sessions.0.borrow_mut().insert(name, Rc::clone(opened));
    }
}

//! A limit on retries after servers have failed: it bounds the extra load when all of them fail.

use std::cell::RefCell;
use std::net::SocketAddr;

use foldhash::HashMap;

/// Most further attempts in a row that a server may cause by failing, or bear for others that do, in tenths of one; each exchange
/// earns a fifth of one. So where all fail, none is asked much more often than if none did.
const MOST: u32 = 1000;
const EARNED: u32 = 2;
const COST: u32 = 10;
/// Most servers of an origin that are remembered, as many as an answer of DNS has room for: a name leads to others in time.
const REMEMBERED: usize = 4096;

/// What has been used up by the servers of one origin.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    /// Only of those that have not earned it again: while nothing fails, nothing is counted.
    used: RefCell<HashMap<SocketAddr, u32>>,
}

impl Retries {
    /// An exchange with `server` begins.
    pub(crate) fn earn(&self, server: SocketAddr) {
        self.give(server, EARNED);
    }

    /// Takes one further attempt from what `server` has left, if that is enough: of a request that it, or the one asked before it,
    /// has failed.
    pub(crate) fn take(&self, server: SocketAddr) -> bool {
        let mut all = self.used.borrow_mut();
        if all.len() == REMEMBERED
            && !all.contains_key(&server)
            && let Some(any) = all.keys().next().copied()
        {
            all.remove(&any);
        }
        let used = all.entry(server).or_default();
        let is_left = *used + COST <= MOST;
        if is_left {
            *used += COST;
        }
        is_left
    }

    /// Such an attempt, at a server that had not failed the request before, has led to an answer: it was none too many.
    pub(crate) fn give_back(&self, server: SocketAddr) {
        self.give(server, COST);
    }

    fn give(&self, server: SocketAddr, tenths: u32) {
        let mut all = self.used.borrow_mut();
        let Some(used) = all.get_mut(&server) else {
            return;
        };
        *used = used.saturating_sub(tenths);
        if *used == 0 {
            all.remove(&server);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_a_hundred_and_a_fifth_of_its_exchanges() {
        let retries = Retries::default();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let [one, other] = [1, 2].map(at);
        retries.earn(one);
        for _ in 0..100 {
            assert!(retries.take(one));
        }
        assert!(!retries.take(one));
        assert!(retries.take(other), "it has its own");
        for _ in 0..5 {
            assert!(!retries.take(one));
            retries.earn(one);
        }
        assert!(retries.take(one) && !retries.take(one));
        retries.give_back(one);
        assert!(retries.take(one) && !retries.take(one));
        // Who has all has no more by what follows, and is not listed.
        retries.give_back(other);
        retries.earn(other);
        assert_eq!(*retries.used.borrow(), HashMap::from_iter([(one, MOST)]));
    }

    #[test]
    fn none_of_as_many_servers_as_a_name_has_is_forgotten() {
        let retries = Retries::default();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let all = || (0..4096).map(at);
        for _ in 0..100 {
            assert!(all().all(|server| retries.take(server)));
        }
        assert!(all().all(|server| !retries.take(server)));
        // Beyond that others make room.
        assert!((4096..5000).all(|port| retries.take(at(port))));
        assert_eq!(retries.used.borrow().len(), 4096);
    }
}

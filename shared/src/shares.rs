//! Counts how many of something each client has, so that no single client can have all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::network::client_of;

/// Counts by address; of IPv6, by the network that one client is given.
#[derive(Clone, Debug)]
pub struct Shares {
    most: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of those that an address has, until it is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    address: IpAddr,
}

impl Shares {
    /// So many for each address.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            taken: Arc::default(),
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `address` may have another.
    pub fn allow(&self, address: IpAddr) -> bool {
        self.taken()
            .get(&client_of(address))
            .is_none_or(|taken| *taken < self.most)
    }

    /// Another one for `address`, if it may have that.
    pub fn take(&self, address: IpAddr) -> Option<Share> {
        let address = client_of(address);
        let mut taken = self.taken();
        let own = taken.entry(address).or_default();
        if *own >= self.most {
            return None;
        }
        *own += 1;
        Some(Share {
            shares: self.clone(),
            address,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        if let Some(own) = taken.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_has_more_than_its_share() {
        let shares = Shares::new(2);
        let [one, other] = [[127, 0, 0, 1], [127, 0, 0, 2]].map(IpAddr::from);
        let (first, second) = (shares.take(one), shares.take(one));
        assert!(first.is_some() && second.is_some());
        assert!(shares.take(one).is_none() && !shares.allow(one));
        assert!(shares.take(other).is_some() && shares.allow(other));
        drop(first);
        assert!(shares.allow(one) && shares.take(one).is_some());
        drop(second);
        assert!(shares.taken().is_empty());
    }
}

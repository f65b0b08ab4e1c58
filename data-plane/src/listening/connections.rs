//! Which clients may connect: so many in all, and so many from one address; and how much those of one address ask for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shared::network::client_of;

/// The open connections of a node's clients.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, Own>,
}

/// What one address has.
#[derive(Debug, Default)]
struct Own {
    connections: usize,
    requests: Requests,
}

/// The requests that clients of one address have under way, as far as a connection may have several.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<AtomicUsize>);

impl Requests {
    /// One more, if there are fewer than `most`. Whoever took it puts it back.
    pub(crate) fn take(&self, most: usize) -> bool {
        let fits = self.0.fetch_add(1, Ordering::Relaxed) < most;
        if !fits {
            self.put();
        }
        fits
    }

    /// Puts one back.
    pub(crate) fn put(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Full {
    /// The node has as many as it may have.
    Node,
    /// The client's address has.
    Address,
    /// Memory runs short.
    Memory,
}

impl Connections {
    /// Takes a connection from `address`, unless there are `most` already, or `most_each` from there.
    /// Where `most_each` is `None`, the address is not counted.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        most: usize,
        most_each: Option<usize>,
    ) -> Result<Admission, Full> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= most {
            return Err(Full::Node);
        }
        let mut counted = None;
        if let Some(most_each) = most_each {
            let place = client_of(address);
            let own = open.by_address.entry(place).or_default();
            if own.connections >= most_each {
                return Err(Full::Address);
            }
            own.connections += 1;
            counted = Some((place, own.requests.clone()));
        }
        open.total += 1;
        Ok(Admission {
            connections: Arc::clone(self),
            counted,
        })
    }
}

/// A connection that was taken; it counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    connections: Arc<Connections>,
    counted: Option<(IpAddr, Requests)>,
}

impl Admission {
    /// What its address has under way; none where that is not counted.
    pub(crate) fn requests(&self) -> Option<Requests> {
        let (_, requests) = self.counted.as_ref()?;
        Some(requests.clone())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let open = &self.connections.0;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        let Some((place, _)) = &self.counted else {
            return;
        };
        if let Some(own) = open.by_address.get_mut(place) {
            own.connections -= 1;
            if own.connections == 0 {
                open.by_address.remove(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_taken_in_all_and_from_each_address() {
        let connections = Arc::new(Connections::default());
        let admit = |address: &str| connections.admit(address.parse().unwrap(), 3, Some(2));
        let first = admit("192.0.2.1").unwrap();
        let _second = admit("192.0.2.1").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), Full::Address);
        let _third = admit("192.0.2.2").unwrap();
        assert_eq!(admit("192.0.2.3").unwrap_err(), Full::Node);
        drop(first);
        let _again = admit("192.0.2.1").unwrap();
    }

    #[test]
    fn requests_are_those_of_all_connections_of_an_address() {
        let connections = Arc::new(Connections::default());
        let admit = |address: &str, each| connections.admit(address.parse().unwrap(), 9, each);
        let (one, two) = (admit("192.0.2.1", Some(5)), admit("192.0.2.1", Some(5)));
        let [one, two] = [one, two].map(|admission| admission.unwrap().requests().unwrap());
        assert!(one.take(2) && two.take(2));
        assert!(!one.take(2) && !two.take(2));
        let other = admit("192.0.2.2", Some(5)).unwrap();
        assert!(other.requests().unwrap().take(2));
        one.put();
        assert!(two.take(2) && !one.take(2));
        let trusted = admit("192.0.2.3", None).unwrap();
        assert!(trusted.requests().is_none());
    }

    #[test]
    fn a_network_of_64_bits_is_one_client() {
        let connections = Arc::new(Connections::default());
        let admit = |address: &str| connections.admit(address.parse().unwrap(), 9, Some(1));
        let _one = admit("2001:db8::1").unwrap();
        assert_eq!(admit("2001:db8::ffff:2").unwrap_err(), Full::Address);
        let _other = admit("2001:db8:0:1::1").unwrap();
    }

    #[test]
    fn who_is_not_counted_is_limited_by_the_total_alone() {
        let connections = Arc::new(Connections::default());
        let admit = || connections.admit("192.0.2.1".parse().unwrap(), 2, None);
        let (_one, two) = (admit().unwrap(), admit().unwrap());
        assert_eq!(admit().unwrap_err(), Full::Node);
        drop(two);
        assert!(admit().is_ok());
        assert!(connections.0.lock().unwrap().by_address.is_empty());
    }
}

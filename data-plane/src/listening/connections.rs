//! Which clients may connect: so many in all, and so many from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use shared::network::client_of;

/// The open connections of a node's clients.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
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
            let count = open.by_address.get(&place).copied().unwrap_or_default();
            if count >= most_each {
                return Err(Full::Address);
            }
            open.by_address.insert(place, count + 1);
            counted = Some(place);
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
    counted: Option<IpAddr>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let open = &self.connections.0;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        let Some(place) = self.counted else { return };
        if let Some(count) = open.by_address.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&place);
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

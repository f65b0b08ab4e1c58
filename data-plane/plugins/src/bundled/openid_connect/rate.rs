//! How often one client address may do what costs us something and needs no credential. Counted per
//! node, in windows; addresses of IPv6 count by their network.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::clock::UnixTime;
use shared::network::client_of;

use crate::expiring::Expiring;
use crate::host::Host;

/// The window in which is counted.
const WINDOW: Duration = Duration::from_mins(1);

/// Most addresses that are counted at a time. Beyond, nobody new is, and who is counted already goes on being so: this only slows
/// floods down.
const MOST: usize = 100_000;

/// What is counted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Deed {
    /// A sign-in begins.
    SignIn,
    /// A logout that names a session of the provider's, without a session of ours.
    Logout,
    /// A password or a client's secret is tried, until the provider takes it.
    Guess,
}

/// What, at which configuration, from where.
type Counted = (Deed, u64, IpAddr);

/// Since when, and how often.
type Count = (UnixTime, u32);

#[derive(Debug, Default)]
struct Counts(Mutex<Expiring<Counted, Count, MOST>>);

/// Counts one `deed` from `address` at the configuration `of`, and tells since when it is counted. `Err` tells how long to
/// wait, if there were `most` already.
pub(super) fn count(
    host: &impl Host,
    deed: Deed,
    of: u64,
    address: IpAddr,
    most: u32,
) -> Result<UnixTime, Duration> {
    let now = host.now();
    let counts = host.node_state::<Counts>();
    let mut counts = counts.0.lock().unwrap_or_else(PoisonError::into_inner);
    let counted = (deed, of, client_of(address));
    if most == 0 {
        return Err(WINDOW);
    }
    // A clock that was set back ends a window.
    let running = counts.get_mut(&counted, now);
    let Some((since, count)) = running.filter(|(since, _)| *since <= now) else {
        counts.keep(counted, (now, 1), now.saturating_add(WINDOW), now);
        return Ok(now);
    };
    if *count >= most {
        return Err(WINDOW.saturating_sub(now.saturating_since(*since)));
    }
    *count += 1;
    Ok(*since)
}

/// Takes one `deed` back that was counted in the window `counted_since`, unless that is over.
pub(super) fn take_back(
    host: &impl Host,
    deed: Deed,
    of: u64,
    address: IpAddr,
    counted_since: UnixTime,
) {
    let now = host.now();
    let counts = host.node_state::<Counts>();
    let mut counts = counts.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((since, count)) = counts.get_mut(&(deed, of, client_of(address)), now)
        && *since == counted_since
    {
        *count = count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;

    #[test]
    fn an_address_waits_for_its_window_and_others_do_not() {
        let host = FakeHost::default();
        let ask = |address: &str| count(&host, Deed::SignIn, 1, address.parse().unwrap(), 2);
        assert!(ask("192.0.2.1").is_ok() && ask("192.0.2.1").is_ok());
        assert_eq!(ask("192.0.2.1"), Err(WINDOW));
        assert!(ask("192.0.2.2").is_ok());
        assert!(ask("2001:db8::1").is_ok() && ask("2001:db8::2").is_ok());
        assert!(ask("2001:db8::3").is_err());
        let first = host.now();
        let take_back =
            |since| take_back(&host, Deed::SignIn, 1, "192.0.2.1".parse().unwrap(), since);
        take_back(first);
        assert!(ask("192.0.2.1").is_ok() && ask("192.0.2.1").is_err());
        host.advance(60.0);
        assert!(ask("192.0.2.1").is_ok());
        // What was counted before concerns this window no more.
        take_back(first);
        assert!(ask("192.0.2.1").is_ok() && ask("192.0.2.1").is_err());
    }

    #[test]
    fn who_is_counted_stays_so_while_more_come_than_there_is_room_for() {
        let host = FakeHost::default();
        let most = u32::try_from(MOST).unwrap();
        let ask = |number: u32| {
            let address = IpAddr::V4(number.into());
            count(&host, Deed::SignIn, 1, address, 1)
        };
        for number in 0..most {
            assert!(ask(number).is_ok());
        }
        // There is no room for this one, which is not counted.
        assert!(ask(most).is_ok() && ask(most).is_ok());
        assert!(ask(0).is_err() && ask(most - 1).is_err());
        host.advance(60.0);
        assert!(ask(most).is_ok() && ask(most).is_err());
    }
}

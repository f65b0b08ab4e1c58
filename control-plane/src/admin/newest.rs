//! Which state a request is answered from, where other control planes commit to the same store. A write sees everything
//! that was committed before it arrived. A read sees what is known here, which may be a tenth of a second old, or no
//! earlier revision than it names in `X-Wardgate-Revision`.
//!
//! Whoever is not known to the Admin API learns nothing of the revision, neither from the answer nor from how long it
//! takes.

use http::HeaderMap;
use shared::snapshot::Revision;

use super::access::{Access, Caller};
use super::error::Refusal;
use crate::config::Config;
use crate::publisher::Publisher;

/// What an answer names its revision by, and a request the one that it wants to see.
pub(super) const REVISION: &str = "x-wardgate-revision";

/// The state for a request that `writes` or not, and who asks.
pub(super) async fn state(
    publisher: &Publisher,
    access: &Access,
    headers: &HeaderMap,
    writes: bool,
) -> Result<(Config, Caller), Refusal> {
    let wanted = headers.get(REVISION).map(|value| {
        let number = value.to_str().ok().and_then(|text| text.parse().ok());
        let refused = || Refusal::Argument("X-Wardgate-Revision is no revision".to_owned());
        number.map(Revision).ok_or_else(refused)
    });
    let wanted = wanted.transpose();
    let mut config = publisher.config();
    let mut caller = access.identify(headers, &config);
    let looks = match (&caller, &wanted) {
        (Ok(_), Ok(wanted)) => writes || wanted.is_some_and(|wanted| config.revision() < wanted),
        // The token may be newer than what is known here.
        (Err(_), Ok(wanted)) => (writes || wanted.is_some()) && Access::shows_token(headers),
        // What is no revision is refused, once it is known to whom.
        (_, Err(_)) => false,
    };
    if looks {
        publisher.look().await;
        config = publisher.config();
        caller = access.identify(headers, &config);
    }
    let caller = caller?;
    match wanted? {
        Some(wanted) if config.revision() < wanted => Err(Refusal::Behind(wanted)),
        _ => Ok((config, caller)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::HeaderValue;

    use super::*;
    use crate::history::Entry;
    use crate::publisher::{Journal, JournalFault, Newer};

    /// A journal that others commit to as well, and how often it was asked for what they did.
    struct Shared(Arc<AtomicUsize>);

    impl Journal for Shared {
        fn commit(&mut self, _: &Entry) -> Result<(), JournalFault> {
            Ok(())
        }

        fn is_shared(&self) -> bool {
            true
        }

        fn newer(&mut self) -> Result<Newer, JournalFault> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Newer::Changes(Vec::new()))
        }
    }

    #[test]
    fn what_was_not_looked_at_for_long_may_be_stale() {
        use std::time::Duration;
        let publisher = Publisher::new(Config::default(), 1, Box::new(Shared(Arc::default())));
        publisher.catch_up().unwrap();
        let now = shared::clock::monotonic();
        assert!(!publisher.is_stale_at(now));
        let later = now + Duration::from_secs(2);
        assert!(publisher.is_stale_at(later), "it stood still");
    }

    #[tokio::test]
    async fn a_stranger_learns_nothing_of_the_revision() {
        let looks = Arc::new(AtomicUsize::new(0));
        let journal = Shared(looks.clone());
        let config = Config::default();
        let config = config.evolve(&crate::config::Change::default(), Revision(7));
        let publisher = Publisher::new(config, 1, Box::new(journal));
        let access = Access::enforced(Some("owner"));
        for (token, wanted, writes, expected, looked) in [
            ("", "", false, "401", 0),
            ("", "7", false, "401", 0),
            ("", "8", false, "401", 0),
            ("", "7", true, "401", 0),
            ("wrong", "", false, "401", 0),
            ("wrong", "7", false, "401", 1),
            ("wrong", "8", false, "401", 1),
            ("wrong", "8", true, "401", 1),
            ("", "seven", true, "401", 0),
            ("wrong", "seven", false, "401", 0),
            ("owner", "seven", true, "400", 0),
            ("owner", "", false, "7", 0),
            ("owner", "7", false, "7", 0),
            ("owner", "8", false, "behind", 1),
            ("owner", "", true, "7", 1),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("kong-admin-token", token), (REVISION, wanted)] {
                if !value.is_empty() {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            looks.store(0, Ordering::Relaxed);
            let got = match state(&publisher, &access, &headers, writes).await {
                Ok((config, _)) => config.revision().0.to_string(),
                Err(Refusal::Credentials) => "401".to_owned(),
                Err(Refusal::Behind(_)) => "behind".to_owned(),
                Err(Refusal::Argument(_)) => "400".to_owned(),
                Err(other) => panic!("{other:?}"),
            };
            let seen = (got.as_str(), looks.load(Ordering::Relaxed));
            assert_eq!(seen, (expected, looked), "{token} {wanted} {writes}");
        }
    }
}

//! The key ring: which session key seals now, and which may still open.

use std::time::Duration;

use shared::secret::Secret;

use crate::config::values::Number;

/// As long as a browser keeps a cookie (RFC 6265bis §5.5).
pub const LONGEST: Duration = Duration::from_hours(400 * 24);

/// How long what a plugin seals may be good by `limits`, of which a zero is none.
pub(crate) fn first_of(limits: &[&Number]) -> Duration {
    let limits = limits.iter().filter_map(|limit| limit.limit());
    limits.min().unwrap_or(LONGEST).min(LONGEST)
}

/// The session keys of one snapshot, newest activation first.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    /// All usable keys.
    pub keys: Vec<SessionKey>,
}

/// One key, as the control plane made it.
#[derive(Clone, Debug)]
pub struct SessionKey {
    /// Names the key inside a cookie.
    pub id: [u8; 8],
    /// Key material; each use derives its own key from it.
    pub secret: Secret<[u8; 32]>,
    /// Unix seconds from which on it may seal.
    pub activate_at: u64,
    /// Unix seconds until which it may open; `None`: no end known yet.
    pub decrypt_until: Option<u64>,
}

impl KeyRing {
    /// The key that seals at `now` (Unix seconds): the newest that is active. If none is active yet,
    /// which a node whose clock lags may see of a cluster's first key, the first that will be.
    pub fn sealing(&self, now: u64) -> Option<&SessionKey> {
        let usable = || self.keys.iter().filter(|key| key.opens(now));
        usable()
            .filter(|key| key.activate_at <= now)
            .max_by_key(|key| key.activate_at)
            .or_else(|| usable().min_by_key(|key| key.activate_at))
    }

    /// How long the control plane has a key open beyond its time to seal: no session lives longer without being sealed anew.
    /// `None`: no key has taken another's place yet.
    pub(crate) fn opens_for(&self) -> Option<Duration> {
        let (newer, older) = (self.keys.iter(), self.keys.iter().skip(1));
        let spans = newer.zip(older).filter_map(|(newer, older)| {
            let end = older.decrypt_until?;
            Some(end.saturating_sub(newer.activate_at))
        });
        spans.max().map(Duration::from_secs)
    }

    /// The key of this id, if it may still open at `now` (Unix seconds).
    pub fn opening(&self, id: [u8; 8], now: u64) -> Option<&SessionKey> {
        self.keys.iter().find(|key| key.id == id && key.opens(now))
    }
}

impl SessionKey {
    /// Whether it may still open at `now` (Unix seconds).
    fn opens(&self, now: u64) -> bool {
        self.decrypt_until.is_none_or(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u8, activate_at: u64, decrypt_until: Option<u64>) -> SessionKey {
        SessionKey {
            id: [id; 8],
            secret: Secret::new([id; 32]),
            activate_at,
            decrypt_until,
        }
    }

    fn ring() -> KeyRing {
        KeyRing {
            keys: vec![key(3, 300, None), key(2, 200, None), key(1, 100, Some(250))],
        }
    }

    #[test]
    fn the_newest_active_key_seals() {
        let ring = ring();
        let sealing = |now| ring.sealing(now).unwrap().id[0];
        assert_eq!(sealing(150), 1);
        assert_eq!(sealing(200), 2);
        assert_eq!(sealing(299), 2);
        assert_eq!(sealing(300), 3);
    }

    #[test]
    fn a_lagging_clock_seals_with_the_first_key_to_come() {
        assert_eq!(ring().sealing(5).unwrap().id[0], 1);
    }

    #[test]
    fn a_key_opens_before_its_activation_and_not_after_its_end() {
        let ring = ring();
        assert!(ring.opening([3; 8], 0).is_some());
        assert!(ring.opening([1; 8], 249).is_some());
        assert!(ring.opening([1; 8], 250).is_none());
        assert!(ring.opening([9; 8], 0).is_none());
    }

    #[test]
    fn an_empty_ring_seals_nothing() {
        assert!(KeyRing::default().sealing(1).is_none());
        assert_eq!(KeyRing::default().opens_for(), None);
    }

    #[test]
    fn a_ring_tells_how_long_sessions_may_live() {
        assert_eq!(ring().opens_for(), Some(Duration::from_secs(50)));
        let mut ring = ring();
        ring.keys.push(key(0, 50, Some(240)));
        assert_eq!(ring.opens_for(), Some(Duration::from_secs(140)));
    }
}

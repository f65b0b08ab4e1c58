//! How long a logout is remembered: for as long as a cookie of what it has ended could be shown.

use std::time::Duration;

use shared::clock::UnixTime;

use super::Rules;
use crate::host::Host;
use crate::sessions::session_keys::{KeyRing, LONGEST};

const ONE_DAY: Duration = Duration::from_hours(24);

/// What sessions of one plugin are remembered for at least: it may be changed to let them live longer.
const OWN: Duration = Duration::from_hours(7 * 24);

/// What those of others are remembered for at least, whose limits are not known here.
const OF_OTHERS: Duration = Duration::from_hours(30 * 24);

/// Clocks differ.
const LEEWAY: Duration = Duration::from_hours(1);

/// What a logout ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::bundled::openid_connect) enum Ends {
    /// One session of this plugin, or of those that it shares its sessions with.
    Session,
    /// What began within a session of the provider's, or all of a user's, at whatever plugin.
    AtProvider,
    /// What began within a session of the provider's that anybody may have named: it is not to fill what the cluster
    /// remembers.
    OnHearsay,
}

impl Rules {
    /// The epoch that a sign-in at `host` begins in: how often all sessions of the provider were ended. `None`: that ends
    /// none of this plugin's, since their secret is its own.
    pub(in crate::bundled::openid_connect) fn epoch(&self, host: &impl Host) -> Option<u64> {
        let own = self.config.session.session_secret.is_some();
        (!own).then(|| host.revocations().epoch(self.issuer_name))
    }

    /// When, in seconds since 1970, no cookie of what was ended at `now` can be good any more, nor a key of `ring` that has
    /// sealed it: the revocation may be forgotten then.
    pub(in crate::bundled::openid_connect) fn forgotten_at(
        &self,
        ends: Ends,
        ring: &KeyRing,
        now: UnixTime,
    ) -> u64 {
        let session = &self.config.session;
        let others = || ring.opens_for().unwrap_or_default().max(OF_OTHERS);
        let least = match ends {
            Ends::OnHearsay => ONE_DAY,
            Ends::Session if session.session_secret.is_none() => OWN,
            Ends::Session | Ends::AtProvider => others(),
        };
        let longest = session.session_absolute_timeout.limit();
        let mut longest = longest.unwrap_or(OF_OTHERS).max(session.sealed_for());
        if session.session_remember {
            let remembered = session.session_remember_absolute_timeout.limit();
            longest = longest.max(remembered.unwrap_or(LONGEST));
        }
        now.saturating_add(longest.max(least) + LEEWAY).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{key_ring, session_key};

    #[test]
    fn rule_104_a_logout_is_remembered_for_as_long_as_its_sessions_could_live_anywhere() {
        let check_with = |ring: &KeyRing, more: &Value, ends: Ends, days: u64| {
            let mut config = json!({ "issuer": "https://idp.example" });
            let members = config.as_object_mut().unwrap();
            members.extend(more.as_object().unwrap().clone());
            let config = serde_json::from_value(config).unwrap();
            let rules = Rules::new(config, Uuid::nil()).unwrap();
            let now = UnixTime::from_secs(1_000);
            let remembered = rules.forgotten_at(ends, ring, now) - 1_000 - 3_600;
            assert_eq!(remembered, days * 86_400, "{more} {ends:?}");
        };
        let check = |more: &Value, ends: Ends, days: u64| {
            check_with(&key_ring(), more, ends, days);
        };
        check(&json!({}), Ends::Session, 7);
        check(&json!({}), Ends::AtProvider, 30);
        check(&json!({}), Ends::OnHearsay, 1);
        check(&json!({ "session_secret": "shared" }), Ends::Session, 30);
        let long = json!({ "session_absolute_timeout": 50 * 86_400 });
        check(&long, Ends::Session, 50);
        check(&long, Ends::AtProvider, 50);
        check(&long, Ends::OnHearsay, 50);
        check(&json!({ "session_absolute_timeout": 0 }), Ends::Session, 30);
        check(&json!({ "session_remember": true }), Ends::Session, 30);
        let forever = json!({ "session_remember": true, "session_remember_absolute_timeout": 0 });
        check(&forever, Ends::Session, 400);
        // Without any limit but that of a use.
        let rolling = json!({
            "session_absolute_timeout": 0, "session_rolling_timeout": 90 * 86_400,
            "session_idling_timeout": 0,
        });
        check(&rolling, Ends::Session, 90);
        // Keys are kept for the sessions of some other plugin.
        let [mut older, mut newer] = [session_key(1), session_key(2)];
        (newer.activate_at, older.decrypt_until) = (500, Some(500 + 60 * 86_400));
        let keys = vec![newer, older];
        let ring = KeyRing { keys };
        check_with(&ring, &json!({}), Ends::AtProvider, 60);
        check_with(&ring, &json!({}), Ends::Session, 7);
        check_with(&ring, &json!({}), Ends::OnHearsay, 1);
        let shared = json!({ "session_secret": "shared" });
        check_with(&ring, &shared, Ends::Session, 60);
    }
}

//! How long what a plugin seals may be good: session keys open for as long.

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;

use crate::bundled::openid_connect::OpenidConnect;
use crate::bundled::openid_connect::config::session::Session as OpenidConnectSession;
use crate::bundled::session::Session;
use crate::filter::Plugin as _;

/// How long what the plugin `name` seals once with `config` may be good, if nobody renews it. `None`: it seals nothing.
pub fn sealed_for(name: &str, config: &Value) -> Option<Duration> {
    match name {
        OpenidConnect::NAME => {
            let session = OpenidConnectSession::deserialize(config);
            session.ok().map(|session| session.sealed_for())
        }
        Session::NAME => Session::deserialize(config)
            .ok()
            .map(|session| session.sealed_for()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sessions::session_keys::LONGEST;

    #[test]
    fn what_is_sealed_is_good_until_the_first_of_its_limits() {
        let day = 86_400;
        let (rolling, idling) = ("session_rolling_timeout", "session_idling_timeout");
        let absolute = "session_absolute_timeout";
        let check = |name: &str, mut config: Value, seconds: u64| {
            config["issuer"] = "https://idp.example".into();
            if name == Session::NAME {
                let fields = config.as_object_mut().unwrap();
                fields.remove("issuer");
                let fields = std::mem::take(fields).into_iter();
                let short = |name: String| name.trim_start_matches("session_").to_owned();
                config = fields.map(|(name, value)| (short(name), value)).collect();
            }
            let config = crate::registry::check(name, &config).unwrap();
            let found = sealed_for(name, &config).unwrap();
            assert_eq!(found.as_secs(), seconds, "{name} {config}");
        };
        for name in [OpenidConnect::NAME, Session::NAME] {
            check(name, json!({}), 900);
            check(name, json!({ idling: 0 }), 3600);
            let long = json!({ idling: 0, rolling: 90 * day, absolute: 40 * day });
            check(name, long, 40 * day);
            let none = json!({ idling: 0, rolling: 0, absolute: 0 });
            check(name, none, LONGEST.as_secs());
            let years = json!({ idling: 0, rolling: 0, absolute: 1_000 * day });
            check(name, years, LONGEST.as_secs());
            check(name, json!({ "session_remember": true }), 7 * day);
            let long = json!({
                "session_remember": true, "session_remember_rolling_timeout": 90 * day,
                "session_remember_absolute_timeout": 60 * day,
            });
            check(name, long, 60 * day);
        }
        assert_eq!(sealed_for("key-auth", &json!({})), None);
    }
}

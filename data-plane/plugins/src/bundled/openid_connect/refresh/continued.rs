//! Whether the ID token of a refresh goes on with the sign-in of the one before (OpenID Connect Core §12.2).

use serde_json::Value;

use crate::bundled::openid_connect::failure::{Failure, OTHER_USER};
use crate::bundled::openid_connect::jws::{self, Claims};

/// Holds what `new` says against `old`; the nonce only if `asks_nonce`.
///
/// # Errors
///
/// If it is older, of another user or of another authentication.
pub(super) fn check(old: &Claims, new: &Claims, asks_nonce: bool) -> Result<(), Failure> {
    let issued = |claims: &Claims| jws::time(claims, "iat").ok().flatten();
    if issued(new) < issued(old) {
        let detail = "the refreshed ID token is older than the one before";
        let refused = Failure::refused(OTHER_USER, detail).with("iat", shown(new.get("iat")));
        return Err(refused.with("earliest iat", shown(old.get("iat"))));
    }
    for (name, expected, detail, counts) in [
        (
            "iss",
            "expected iss",
            "the refreshed ID token is of another issuer",
            true,
        ),
        (
            "sub",
            "expected sub",
            "the refreshed ID token is of another user",
            true,
        ),
        (
            "auth_time",
            "expected auth_time",
            "the refreshed ID token is of another authentication of the user (auth_time)",
            new.contains_key("auth_time"),
        ),
        // It should have none, and none but the first.
        (
            "nonce",
            "expected nonce",
            "the refreshed ID token is of another sign-in (nonce)",
            asks_nonce && new.contains_key("nonce"),
        ),
    ] {
        if counts && old.contains_key(name) && new.get(name) != old.get(name) {
            let refused = Failure::refused(OTHER_USER, detail);
            let refused = refused.with(name, shown(new.get(name)));
            return Err(refused.with(expected, shown(old.get(name))));
        }
    }
    Ok(())
}

fn shown(claim: Option<&Value>) -> String {
    match claim {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rule_40_what_a_refreshed_id_token_says_otherwise_is_told_and_shown() {
        let old = json!({ "iss": "i", "sub": "u", "iat": 5, "auth_time": 4, "nonce": "n" });
        let differs = |name: &str, value: Value, asks_nonce: bool| {
            let [old, mut new] = [&old, &old].map(|claims| claims.as_object().unwrap().clone());
            new.insert(name.to_owned(), value);
            let failure = check(&old, &new, asks_nonce).err();
            failure.map(|failure| (failure.code, failure.detail.into_owned(), failure.facts))
        };
        for (name, value, word, expected) in [
            ("iss", json!("j"), "issuer", "i"),
            ("sub", json!("v"), "user", "u"),
            ("auth_time", json!(6), "auth_time", "4"),
            ("nonce", json!("m"), "nonce", "n"),
            ("iat", json!(4), "older", "5"),
        ] {
            let (code, detail, facts) = differs(name, value.clone(), true).unwrap();
            assert_eq!(code, OTHER_USER);
            assert!(detail.contains(word), "{detail}");
            let [(told, now), (_, before)] = &facts[..] else {
                panic!("{facts:?}");
            };
            assert_eq!((*told, &**before), (name, expected));
            assert_eq!(*now, shown(Some(&value)));
        }
        assert!(differs("nonce", json!("m"), false).is_none());
        assert!(differs("iat", json!(6), true).is_none());
    }
}

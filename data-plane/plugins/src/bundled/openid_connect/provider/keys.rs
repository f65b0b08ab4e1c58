//! A provider's signing keys (RFC 7517).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::warn;

use crate::bundled::openid_connect::config::SigningAlgorithm;
use crate::bundled::openid_connect::jws::Header;
use crate::bundled::openid_connect::key::PublicKey;

/// Most keys of one set that are read.
const MOST: usize = 100;

/// Most keys that are tried for one token.
const MOST_TRIED: usize = 5;

/// Members that a key must not show.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Longest key that is shown in a header, in bytes of base64.
const LONGEST_SHOWN: usize = 8 * 1024;

/// The usable keys of a set.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(from = "Published", into = "Published")]
pub(in crate::bundled::openid_connect) struct Keys {
    all: Vec<Key>,
    /// Whether there are keys on Ed448, which cannot be used.
    ed448: bool,
    /// Whether there are more than are read.
    is_cut: bool,
}

/// The usable keys of a set, as they were published.
#[derive(Deserialize, Serialize)]
struct Published {
    keys: Vec<Map<String, Value>>,
    ed448: bool,
}

impl From<Keys> for Published {
    fn from(keys: Keys) -> Self {
        Self {
            keys: keys.all.into_iter().map(|key| key.jwk).collect(),
            ed448: keys.ed448,
        }
    }
}

impl From<Published> for Keys {
    fn from(published: Published) -> Self {
        let keys = published.keys.into_iter().map(Value::Object);
        Self {
            all: keys.filter_map(|key| Key::read(&key)).collect(),
            ed448: published.ed448,
            is_cut: false,
        }
    }
}

/// One public key.
#[derive(Clone, Debug)]
pub(in crate::bundled::openid_connect) struct Key {
    kid: Option<String>,
    thumbprints: [Option<String>; 2],
    algorithm: Option<SigningAlgorithm>,
    pub(in crate::bundled::openid_connect) public: PublicKey,
    /// As it was published.
    jwk: Map<String, Value>,
}

impl Keys {
    /// Reads the keys of a JWKS document. Those that cannot verify a signature, that are weak or that
    /// show their private part are left out.
    pub(in crate::bundled::openid_connect) fn read(document: &Value) -> Option<Self> {
        let keys = document.get("keys")?.as_array()?;
        let ed448 = keys.iter().take(MOST).any(is_ed448);
        if ed448 {
            warn!(
                "the provider has a key on the curve Ed448, which is not supported; it is not used"
            );
        }
        Some(Self {
            all: keys.iter().take(MOST).filter_map(Key::read).collect(),
            ed448,
            is_cut: keys.len() > MOST,
        })
    }

    /// Whether the set has more than are read.
    pub(in crate::bundled::openid_connect) fn are_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether no token's signature can be verified by them.
    pub(in crate::bundled::openid_connect) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds the keys of another set.
    pub(in crate::bundled::openid_connect) fn extend(&mut self, other: Self) {
        self.all.extend(other.all);
        self.ed448 |= other.ed448;
        self.is_cut |= other.is_cut;
    }

    /// Why none of the keys fits a token with this header.
    pub(in crate::bundled::openid_connect) fn lack(&self, header: &Header) -> &'static str {
        if self.ed448 && header.algorithm == SigningAlgorithm::EdDSA {
            "no key fits the token: those on the curve Ed448 are not supported, use Ed25519"
        } else {
            "no key fits the token"
        }
    }

    /// Whether one of them is the key that a token with this header names: none is where it names none.
    pub(in crate::bundled::openid_connect) fn has_named_by(&self, header: &Header) -> bool {
        let mut suitable = self.all.iter().filter(|key| key.suits(header.algorithm));
        suitable.any(|key| key.is_named_by(header))
    }

    /// The keys that may have signed a token with this header, at most five: those of its `kid`, or of
    /// its certificate, or, without either, all that suit the algorithm; and those that have no name, which rules none
    /// out (RFC 7517 §4.5).
    pub(in crate::bundled::openid_connect) fn candidates<'a, 'h>(
        &'a self,
        header: &'h Header,
    ) -> impl Iterator<Item = &'a Key> + use<'a, 'h> {
        let named = self.all.iter().filter(|key| key.is_eligible_for(header));
        let nameless = |key: &&Key| key.kid.is_none() && !key.is_eligible_for(header);
        named
            .chain(self.all.iter().filter(nameless))
            .filter(|key| key.suits(header.algorithm))
            .take(MOST_TRIED)
    }
}

fn is_ed448(jwk: &Value) -> bool {
    jwk.get("crv").and_then(Value::as_str) == Some("Ed448")
}

impl Key {
    fn read(jwk: &Value) -> Option<Self> {
        let members = jwk.as_object()?;
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let owned = |name: &str| text(name).map(str::to_owned);
        if PRIVATE.iter().any(|name| members.contains_key(*name)) {
            if text("kty") != Some("oct") {
                warn!("the provider shows a private key; it is not used");
            }
            return None;
        }
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        if let Some(operations) = jwk.get("key_ops").and_then(Value::as_array)
            && !operations.iter().any(|operation| operation == "verify")
        {
            return None;
        }
        let algorithm = match jwk.get("alg") {
            None | Some(Value::Null) => None,
            // A key for something that we do not know is none for us.
            Some(name) => Some(serde_json::from_value(name.clone()).ok()?),
        };
        Some(Self {
            kid: owned("kid"),
            thumbprints: [owned("x5t"), owned("x5t#S256")],
            algorithm,
            public: PublicKey::read(jwk)?,
            jwk: members.clone(),
        })
    }

    /// Whether it is the key that a token with this header names, by its `kid` or its certificate.
    fn is_named_by(&self, header: &Header) -> bool {
        let of_certificate = header
            .thumbprints
            .iter()
            .zip(&self.thumbprints)
            .any(|(wanted, own)| wanted.is_some() && wanted == own);
        of_certificate || (header.kid.is_some() && self.kid == header.kid)
    }

    /// Whether a token with this header may be meant for it: it names this key, or says too little to rule it out.
    fn is_eligible_for(&self, header: &Header) -> bool {
        let unnamed = header.kid.is_none() && header.thumbprints.iter().all(Option::is_none);
        // A certificate that no key mentions names none, but does not rule any out.
        let unmentioned = header.kid.is_none() && self.thumbprints.iter().all(Option::is_none);
        self.is_named_by(header) || unnamed || unmentioned
    }

    fn suits(&self, algorithm: SigningAlgorithm) -> bool {
        self.public.suits(algorithm) && self.algorithm.is_none_or(|own| own == algorithm)
    }

    /// The key as headers show it: base64 of its JSON.
    pub(in crate::bundled::openid_connect) fn shown(&self) -> Option<String> {
        let text = STANDARD.encode(serde_json::to_vec(&self.jwk).ok()?);
        (text.len() <= LONGEST_SHOWN).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair};
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    fn key(kid: &str, more: &Value) -> Value {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        let coordinate = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let mut key = json!({
            "kty": "EC", "crv": "P-256", "kid": kid, "x": coordinate(&point[1..33]),
            "y": coordinate(&point[33..]),
        });
        let members = key.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        key
    }

    fn read(keys: &[Value]) -> Keys {
        Keys::read(&json!({ "keys": keys })).unwrap()
    }

    fn header(kid: Option<&str>, algorithm: SigningAlgorithm) -> Header {
        Header {
            algorithm,
            kid: kid.map(str::to_owned),
            thumbprints: [None, None],
            typ: None,
            jwk: None,
            for_graph: false,
        }
    }

    #[test]
    fn rule_80_a_key_is_used_for_what_it_is_for_unless_its_secret_is_shown() {
        for (more, used) in [
            (json!({}), true),
            (json!({ "use": "sig", "alg": "ES256" }), true),
            (json!({ "key_ops": ["verify"] }), true),
            (json!({ "alg": null }), true),
            (json!({ "use": "enc" }), false),
            (json!({ "use": "" }), false),
            (json!({ "key_ops": ["encrypt", "sign"] }), false),
            (json!({ "key_ops": [] }), false),
            (json!({ "alg": "ECDH-ES" }), false),
            (json!({ "alg": 256 }), false),
            (json!({ "d": "AAAA" }), false),
            (json!({ "oth": [] }), false),
            (json!({ "k": "AAAA" }), false),
        ] {
            assert_eq!(read(&[key("one", &more)]).is_empty(), !used, "{more}");
        }
        // Nor is a secret that everybody can read.
        let secret = json!({ "kty": "oct", "kid": "one", "k": "c2VjcmV0", "alg": "HS256" });
        assert!(read(&[secret]).is_empty());
    }

    #[test]
    fn rule_80_of_keys_with_one_name_each_that_suits_the_algorithm_is_tried() {
        let other = json!({ "alg": "ES384" });
        let none = json!({});
        let keys = read(&[
            key("one", &none),
            key("one", &json!({ "alg": "ES256" })),
            key("one", &other),
            key("two", &none),
        ]);
        let tried = |kid, algorithm| keys.candidates(&header(kid, algorithm)).count();
        assert_eq!(tried(Some("one"), SigningAlgorithm::ES256), 2);
        assert_eq!(tried(Some("one"), SigningAlgorithm::RS256), 0);
        assert_eq!(tried(Some("three"), SigningAlgorithm::ES256), 0);
        assert_eq!(tried(None, SigningAlgorithm::ES256), 3);
    }

    #[test]
    fn a_token_without_a_name_names_no_key() {
        let none = json!({});
        let mut nameless = key("one", &json!({ "x5t": "a" }));
        nameless.as_object_mut().unwrap().remove("kid");
        let keys = read(&[key("one", &none), nameless]);
        let named = |kid, thumbprint: Option<&str>| {
            let mut header = header(kid, SigningAlgorithm::ES256);
            header.thumbprints[0] = thumbprint.map(str::to_owned);
            keys.has_named_by(&header)
        };
        assert!(named(Some("one"), None) && named(None, Some("a")));
        assert!(!named(None, None) && !named(None, Some("b")) && !named(Some("two"), None));
    }

    #[test]
    fn rules_32_and_74_no_more_than_five_keys_are_tried_and_a_hundred_read() {
        let none = json!({});
        let keys: Vec<_> = (0..101).map(|n| key(&format!("k{n}"), &none)).collect();
        let keys = read(&keys);
        let tried = |kid| {
            keys.candidates(&header(kid, SigningAlgorithm::ES256))
                .count()
        };
        assert_eq!(tried(None), 5);
        assert_eq!((tried(Some("k99")), tried(Some("k100"))), (1, 0));
    }
}

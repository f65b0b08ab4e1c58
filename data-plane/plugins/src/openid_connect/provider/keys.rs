//! A provider's signing keys (RFC 7517).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use openidconnect::core::CoreJsonWebKey;
use serde_json::Value;
use tracing::warn;

/// Most keys of one set that are read.
const MOST: usize = 100;

/// Most keys that are tried for one token.
const MOST_TRIED: usize = 5;

/// The usable keys of a set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys(Vec<Key>);

/// One public key, in the forms that both verifiers take.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    kid: Option<String>,
    algorithm: Option<String>,
    curve: Option<String>,
    pub(crate) decoding: DecodingKey,
    pub(crate) core: CoreJsonWebKey,
}

impl Keys {
    /// Reads the keys of a JWKS document. Those that cannot verify a signature, that are weak or that
    /// show their private part are left out.
    pub(crate) fn read(document: &Value) -> Option<Self> {
        let keys = document.get("keys")?.as_array()?;
        Some(Self(keys.iter().take(MOST).filter_map(Key::read).collect()))
    }

    /// Adds the keys of another set.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The keys that may have signed a token with this header, at most five: those of its `kid`, or,
    /// without one, all that suit the algorithm.
    pub(crate) fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &Key> {
        self.0
            .iter()
            .filter(move |key| kid.is_none() || key.kid.as_deref() == kid)
            .filter(move |key| key.suits(algorithm))
            .take(MOST_TRIED)
    }
}

impl Key {
    fn read(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if jwk.get("d").is_some() || jwk.get("p").is_some() {
            warn!("the provider shows a private key; it is not used");
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
        let decoding = match text("kty")? {
            "RSA" => {
                let modulus = URL_SAFE_NO_PAD.decode(text("n")?).ok()?;
                let bytes = modulus.iter().skip_while(|byte| **byte == 0).count();
                if !(256..=1024).contains(&bytes) {
                    return None;
                }
                DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()?
            }
            "EC" if matches!(text("crv")?, "P-256" | "P-384") => {
                DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?
            }
            "OKP" if text("crv")? == "Ed25519" => {
                DecodingKey::from_ed_components(text("x")?).ok()?
            }
            // Symmetric keys are no business of a public document.
            _ => return None,
        };
        Some(Self {
            kid: text("kid").map(str::to_owned),
            algorithm: text("alg").map(str::to_owned),
            curve: text("crv").map(str::to_owned),
            decoding,
            core: serde_json::from_value(jwk.clone()).ok()?,
        })
    }

    fn suits(&self, algorithm: Algorithm) -> bool {
        let family = self.decoding.family();
        let curve = match algorithm {
            Algorithm::ES256 => Some("P-256"),
            Algorithm::ES384 => Some("P-384"),
            _ => None,
        };
        let named = format!("{algorithm:?}");
        family == algorithm.family()
            && family != AlgorithmFamily::Hmac
            && curve.is_none_or(|curve| self.curve.as_deref() == Some(curve))
            && self.algorithm.as_deref().is_none_or(|own| own == named)
    }
}

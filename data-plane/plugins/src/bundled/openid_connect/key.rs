//! Public keys that verify signatures (RFC 7517, RFC 7518 §6, RFC 8037), and their names.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::config::SigningAlgorithm;

/// Sizes of an RSA modulus that are accepted, in bytes: 2,048 to 8,192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// A public key.
#[derive(Clone, Eq, PartialEq)]
pub(super) enum PublicKey {
    /// RSA: modulus and exponent.
    Rsa(Vec<u8>, Vec<u8>),
    /// A point on a curve of NIST, uncompressed.
    Ec(Curve, Vec<u8>),
    /// A point on Ed25519.
    Ed25519(Vec<u8>),
}

/// A curve of NIST.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey").finish_non_exhaustive()
    }
}

impl Curve {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "P-256" => Self::P256,
            "P-384" => Self::P384,
            "P-521" => Self::P521,
            _ => return None,
        })
    }

    /// Bytes of a coordinate.
    const fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    const fn verifier(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::P521 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }

    const fn algorithm(self) -> SigningAlgorithm {
        match self {
            Self::P256 => SigningAlgorithm::ES256,
            Self::P384 => SigningAlgorithm::ES384,
            Self::P521 => SigningAlgorithm::ES512,
        }
    }
}

impl PublicKey {
    /// Reads the public part of a JWK. None: it is none that could verify a signature safely.
    pub(super) fn read(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        // RFC 7518 §2 wants base64url without padding; some providers' libraries write the other alphabet, or pad.
        let decoded = |name: &str| {
            let text = text(name)?.trim_end_matches('=');
            let plain = text.replace('+', "-").replace('/', "_");
            URL_SAFE_NO_PAD.decode(plain).ok()
        };
        let number = |name: &str| {
            let bytes = decoded(name)?;
            let start = bytes.iter().take_while(|byte| **byte == 0).count();
            Some(bytes.get(start..)?.to_vec())
        };
        let key = match text("kty")? {
            "RSA" => {
                let (modulus, exponent) = (number("n")?, number("e")?);
                if !MODULUS.contains(&modulus.len()) || !(1..=8).contains(&exponent.len()) {
                    return None;
                }
                Self::Rsa(modulus, exponent)
            }
            "EC" => {
                let curve = Curve::named(text("crv")?)?;
                let mut point = vec![4];
                for name in ["x", "y"] {
                    let coordinate = decoded(name)?;
                    if coordinate.len() != curve.size() {
                        return None;
                    }
                    point.extend(coordinate);
                }
                // A point that is not on its curve gives an attacker room.
                ParsedPublicKey::new(curve.verifier(), &point).ok()?;
                Self::Ec(curve, point)
            }
            "OKP" if text("crv")? == "Ed25519" => {
                let point = decoded("x")?;
                ParsedPublicKey::new(&signature::ED25519, &point).ok()?;
                Self::Ed25519(point)
            }
            // Symmetric keys are no business of a public document.
            _ => return None,
        };
        Some(key)
    }

    /// Whether it can have made signatures by `algorithm`.
    pub(super) fn suits(&self, algorithm: SigningAlgorithm) -> bool {
        match self {
            Self::Rsa(..) => rsa_parameters(algorithm).is_some(),
            Self::Ec(curve, _) => curve.algorithm() == algorithm,
            Self::Ed25519(_) => algorithm == SigningAlgorithm::EdDSA,
        }
    }

    /// Whether it made `signature` of `message` by `algorithm`.
    pub(super) fn verifies(
        &self,
        algorithm: SigningAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        match self {
            Self::Rsa(n, e) => rsa_parameters(algorithm).is_some_and(|parameters| {
                let key = PublicKeyComponents { n, e };
                key.verify(parameters, message, signature).is_ok()
            }),
            Self::Ec(curve, point) => {
                curve.algorithm() == algorithm
                    && UnparsedPublicKey::new(curve.verifier(), point)
                        .verify(message, signature)
                        .is_ok()
            }
            Self::Ed25519(point) => {
                algorithm == SigningAlgorithm::EdDSA
                    && UnparsedPublicKey::new(&signature::ED25519, point)
                        .verify(message, signature)
                        .is_ok()
            }
        }
    }
}

/// How it signs with a secret, if it does.
pub(super) fn of_secrets(algorithm: SigningAlgorithm) -> Option<hmac::Algorithm> {
    Some(match algorithm {
        SigningAlgorithm::HS256 => hmac::HMAC_SHA256,
        SigningAlgorithm::HS384 => hmac::HMAC_SHA384,
        SigningAlgorithm::HS512 => hmac::HMAC_SHA512,
        _ => return None,
    })
}

const fn rsa_parameters(algorithm: SigningAlgorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        SigningAlgorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        SigningAlgorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        SigningAlgorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        SigningAlgorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        SigningAlgorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        SigningAlgorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    #[test]
    fn rule_80_weak_and_broken_keys_are_left_out() {
        let refused = |jwk: Value| assert!(PublicKey::read(&jwk).is_none(), "{jwk}");
        refused(json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" }));
        refused(json!({ "kty": "oct", "k": "c2VjcmV0" }));
        let zero = URL_SAFE_NO_PAD.encode([0; 32]);
        let one = URL_SAFE_NO_PAD.encode([1; 32]);
        refused(json!({ "kty": "EC", "crv": "P-256", "x": zero, "y": one }));
        refused(json!({ "kty": "EC", "crv": "secp256k1", "x": one, "y": one }));
        refused(json!({ "kty": "OKP", "crv": "Ed448", "x": one }));
        refused(json!({ "kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ" }));
        refused(json!({}));
    }

    #[test]
    fn a_key_is_read_however_its_base64_is_written() {
        let pair =
            signature::EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = signature::KeyPair::public_key(&pair).as_ref().to_vec();
        let read = |encode: fn(&[u8]) -> String| {
            let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
            PublicKey::read(&json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y }))
        };
        let plain = read(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        assert!(plain.is_some());
        for encode in [
            |bytes: &[u8]| STANDARD.encode(bytes),
            |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes) + "=",
        ] {
            assert_eq!(read(encode), plain);
        }
        assert_eq!(read(|bytes| format!("{} ", STANDARD.encode(bytes))), None);
        let n = STANDARD.encode([0xfb; 256]);
        let key = PublicKey::read(&json!({ "kty": "RSA", "n": n, "e": "AQAB=" }));
        assert_eq!(key, Some(PublicKey::Rsa(vec![0xfb; 256], vec![1, 0, 1])));
    }

    #[test]
    fn a_signature_by_p_521_verifies() {
        let pair =
            signature::EcdsaKeyPair::generate(&signature::ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
        let point = signature::KeyPair::public_key(&pair).as_ref().to_vec();
        let jwk = json!({
            "kty": "EC", "crv": "P-521", "x": URL_SAFE_NO_PAD.encode(&point[1..67]),
            "y": URL_SAFE_NO_PAD.encode(&point[67..]),
        });
        let key = PublicKey::read(&jwk).unwrap();
        let random = aws_lc_rs::rand::SystemRandom::new();
        let signature = pair.sign(&random, b"message").unwrap();
        let verifies =
            |algorithm, message: &[u8]| key.verifies(algorithm, message, signature.as_ref());
        assert!(verifies(SigningAlgorithm::ES512, b"message"));
        assert!(!verifies(SigningAlgorithm::ES512, b"other"));
        assert!(!verifies(SigningAlgorithm::ES256, b"message"));
    }
}

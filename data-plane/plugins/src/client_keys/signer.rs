//! What a client signs with towards a provider: a key, or its secret.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaEncoding, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shared::entity::SigningAlgorithm;

/// What signs a client's assertions and requests.
pub(crate) struct Signer {
    algorithm: SigningAlgorithm,
    kid: Option<String>,
    key: Key,
}

/// What it signs with.
pub(crate) enum Key {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Box<hmac::Key>),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Signs with a client's secret: HS256, or what `algorithm` says if that is one for secrets.
    pub(crate) fn of_secret(secret: &str, algorithm: Option<SigningAlgorithm>) -> Self {
        let (algorithm, hash) = match algorithm {
            Some(SigningAlgorithm::HS384) => (SigningAlgorithm::HS384, hmac::HMAC_SHA384),
            Some(SigningAlgorithm::HS512) => (SigningAlgorithm::HS512, hmac::HMAC_SHA512),
            _ => (SigningAlgorithm::HS256, hmac::HMAC_SHA256),
        };
        Self {
            algorithm,
            kid: None,
            key: Key::Secret(Box::new(hmac::Key::new(hash, secret.as_bytes()))),
        }
    }

    /// Signs by `algorithm` with `key`, which suits it, under the name `kid`.
    pub(crate) fn of_key(algorithm: SigningAlgorithm, kid: Option<String>, key: Key) -> Self {
        Self {
            algorithm,
            kid,
            key,
        }
    }

    /// Signs with a private key in PKCS #8.
    ///
    /// # Errors
    ///
    /// If the key is none, or does not suit `algorithm`.
    pub(crate) fn of_pkcs8(
        kid: &str,
        algorithm: SigningAlgorithm,
        pkcs8: &[u8],
    ) -> Result<Self, &'static str> {
        let unusable = "the key is not of the kind that its algorithm needs";
        let curve = match algorithm {
            SigningAlgorithm::ES256 => Some(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            SigningAlgorithm::ES384 => Some(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            SigningAlgorithm::ES512 => Some(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
            _ => None,
        };
        let key = if let Some(curve) = curve {
            Key::Ec(EcdsaKeyPair::from_pkcs8(curve, pkcs8).map_err(|_| unusable)?)
        } else if algorithm == SigningAlgorithm::EdDSA {
            Key::Ed(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| unusable)?)
        } else {
            let encoding = rsa_encoding(algorithm).ok_or(unusable)?;
            Key::Rsa(
                RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| unusable)?,
                encoding,
            )
        };
        Ok(Self {
            algorithm,
            kid: Some(kid.to_owned()),
            key,
        })
    }

    /// Whether it signs by `algorithm`.
    pub(crate) fn signs_by(&self, algorithm: SigningAlgorithm) -> bool {
        self.algorithm == algorithm
    }

    /// A JWT of the type `typ` with these claims. `None`: it cannot be signed.
    pub(crate) fn sign_claims(&self, typ: &str, claims: &Value) -> Option<String> {
        let mut header = json!({ "alg": self.algorithm, "typ": typ });
        if let (Some(kid), Some(members)) = (&self.kid, header.as_object_mut()) {
            members.insert("kid".to_owned(), json!(kid));
        }
        let mut text = URL_SAFE_NO_PAD.encode(header.to_string());
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut text);
        let signature = self.sign(text.as_bytes())?;
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut text);
        Some(text)
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        Some(match &self.key {
            Key::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature)
                    .ok()?;
                signature
            }
            Key::Ec(pair) => pair.sign(&random, message).ok()?.as_ref().to_vec(),
            Key::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Key::Secret(key) => hmac::sign(key, message).as_ref().to_vec(),
        })
    }
}

/// How RSA signs by `algorithm`, if it does.
pub(crate) fn rsa_encoding(algorithm: SigningAlgorithm) -> Option<&'static dyn RsaEncoding> {
    Some(match algorithm {
        SigningAlgorithm::RS256 => &signature::RSA_PKCS1_SHA256,
        SigningAlgorithm::RS384 => &signature::RSA_PKCS1_SHA384,
        SigningAlgorithm::RS512 => &signature::RSA_PKCS1_SHA512,
        SigningAlgorithm::PS256 => &signature::RSA_PSS_SHA256,
        SigningAlgorithm::PS384 => &signature::RSA_PSS_SHA384,
        SigningAlgorithm::PS512 => &signature::RSA_PSS_SHA512,
        _ => return None,
    })
}

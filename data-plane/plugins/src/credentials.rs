//! What consumers prove who they are with, indexed when the snapshot is compiled.

pub(crate) mod arguments;
pub(crate) mod authentication;
pub(crate) mod cookies;
pub(crate) mod identity_headers;
pub mod secret_names;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imbl::HashMap;
use shared::clock::UnixTime;
use shared::secret::Secret;
use uuid::Uuid;

/// All credentials of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// API keys by their hash: the time that a lookup takes says nothing about the keys that exist.
    keys: HashMap<[u8; 32], ApiKey>,
    /// Passwords by user name.
    pub basic: HashMap<String, Password>,
    /// Secrets for signatures by user name.
    pub hmac: HashMap<String, SigningSecret>,
    /// Keys of JWTs by the claim that names them.
    pub jwt: HashMap<String, JwtKey>,
}

/// An API key, without the key.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// The credential's id.
    pub id: Uuid,
    /// Whose it is.
    pub consumer: Uuid,
    /// When it is gone.
    pub expires_at: Option<UnixTime>,
}

/// A password, as its hash.
#[derive(Clone, Debug)]
pub struct Password {
    /// Whose it is.
    pub consumer: Uuid,
    /// SHA-1 of the password and the consumer's id, in hexadecimal digits (Kong 3.9, basic-auth).
    pub hash: Secret<String>,
}

/// A secret that requests are signed with.
#[derive(Clone, Debug)]
pub struct SigningSecret {
    /// Whose it is.
    pub consumer: Uuid,
    /// The secret.
    pub secret: Secret<String>,
}

/// A key that JWTs are verified with.
#[derive(Clone, Debug)]
pub struct JwtKey {
    /// Whose it is.
    pub consumer: Uuid,
    /// The name of the algorithm (RFC 7518 §3.1).
    pub algorithm: &'static str,
    /// The secret of an HS algorithm.
    pub secret: Secret<String>,
    /// The public key of another one.
    pub public: Option<PublicKey>,
}

/// A public key and what it verifies.
#[derive(Clone, Debug)]
pub struct PublicKey(UnparsedPublicKey<Vec<u8>>);

impl Credentials {
    /// Adds an API key.
    pub fn add_key(&mut self, key: &str, credential: ApiKey) {
        self.keys
            .insert(*blake3::hash(key.as_bytes()).as_bytes(), credential);
    }

    /// Takes an API key away.
    pub fn remove_key(&mut self, key: &str) {
        self.keys.remove(blake3::hash(key.as_bytes()).as_bytes());
    }

    /// The credential whose key this is.
    pub(crate) fn key(&self, key: &str, now: UnixTime) -> Option<&ApiKey> {
        let found = self.keys.get(blake3::hash(key.as_bytes()).as_bytes());
        found.filter(|found| found.expires_at.is_none_or(|end| now < end))
    }
}

impl PublicKey {
    /// Reads a key in PEM for `algorithm`; `None` if it is none.
    pub fn read(algorithm: &str, pem: &str) -> Option<Self> {
        let algorithm: &'static dyn VerificationAlgorithm = match algorithm {
            "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
            "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
            "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
            "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
            "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
            "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
            "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
            "ES384" => &signature::ECDSA_P384_SHA384_FIXED,
            "ES512" => &signature::ECDSA_P521_SHA512_FIXED,
            "EdDSA" => &signature::ED25519,
            _ => return None,
        };
        Some(Self(UnparsedPublicKey::new(algorithm, der(pem)?)))
    }

    /// Whether `signature` is one of `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verify(message, signature).is_ok()
    }
}

/// What stands between the lines of PEM (RFC 7468 §3).
fn der(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    if !label.ends_with("PUBLIC KEY") {
        return None;
    }
    let (text, _) = rest.split_once("-----END ")?;
    let text: String = text
        .chars()
        .filter(|character| !character.is_whitespace())
        .collect();
    STANDARD.decode(text).ok()
}

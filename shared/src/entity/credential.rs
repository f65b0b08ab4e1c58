//! The credentials of consumers.

use std::fmt::Display;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Consumer, Entity, conditional, required};
use crate::clock::UnixTime;
use crate::hexadecimal::hexadecimal;
use crate::schema::FieldErrors;
use crate::types::pem::is_public_key;
use crate::types::{Ref, SecretText, Set, Tag};

/// An API key, for `key-auth`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct KeyauthCredential {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Whose it is.
    pub consumer: Ref<Consumer>,
    /// The key. Made if it is left out.
    #[schemars(extend("x-auto" = true, "x-unique" = true))]
    pub key: SecretText,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
    /// Seconds after which it is gone.
    #[schemars(range(min = 0, max = 100_000_000))]
    pub ttl: Option<u64>,
}

impl Entity for KeyauthCredential {
    const KIND: &'static str = "keyauth_credentials";
    const PATH: &'static str = "key-auths";
    const NAME_FIELD: Option<&'static str> = Some("key");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["key"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("consumer", "key-auth")];
    const EXPIRES: bool = true;
}

/// A user name and a password, for `basic-auth`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct BasicauthCredential {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Whose it is.
    pub consumer: Ref<Consumer>,
    /// The user's name.
    #[schemars(length(min = 1), extend("x-unique" = true))]
    pub username: String,
    /// The password; stored and shown as the SHA-1 of itself and the consumer's id, in hexadecimal
    /// digits.
    #[schemars(length(min = 1))]
    pub password: SecretText,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

impl Entity for BasicauthCredential {
    const KIND: &'static str = "basicauth_credentials";
    const PATH: &'static str = "basic-auths";
    const NAME_FIELD: Option<&'static str> = Some("username");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["username"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("consumer", "basic-auth")];

    const WRITE_ONLY: &'static [&'static str] = &["skip_hash"];

    /// A password that is said to be hashed already has to look like it: the password itself would be stored.
    fn expand(record: &mut Map<String, Value>, errors: &mut FieldErrors) {
        let password = record.get("password").and_then(Value::as_str);
        let hashed =
            |text: &str| text.len() == 40 && text.bytes().all(|sign| sign.is_ascii_hexdigit());
        if skips_hash(record) && password.is_some_and(|text| !hashed(text)) {
            let message = "with skip_hash or _transform: false it must be the hash: 40 hexadecimal digits of SHA-1";
            errors.add(&["password"], message);
        }
    }

    /// Hashes a password that was given; a stored one is hashed already.
    fn derive(record: &mut Map<String, Value>, given: &Map<String, Value>) {
        if skips_hash(given) {
            return;
        }
        let Some(password) = given.get("password").and_then(Value::as_str) else {
            return;
        };
        let consumer = record
            .get("consumer")
            .and_then(|consumer| consumer.get("id")?.as_str())
            .unwrap_or_default();
        let hash = basic_auth_hash(password, consumer);
        record.insert("password".to_owned(), hash.into());
    }
}

/// Whether a body says that its password is hashed already.
fn skips_hash(body: &Map<String, Value>) -> bool {
    let said = body.get("skip_hash");
    said.is_some_and(|said| *said == true || *said == "true")
}

/// A password as `basic-auth` stores it: SHA-1 of the password and the consumer's id, in hexadecimal digits
/// (Kong 3.9, basic-auth).
pub fn basic_auth_hash(password: &str, consumer: impl Display) -> String {
    let salted = format!("{password}{consumer}");
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes());
    hexadecimal(digest.as_ref())
}

/// A name and a secret to sign requests with, for `hmac-auth`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct HmacauthCredential {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Whose it is.
    pub consumer: Ref<Consumer>,
    /// The name in the signature.
    #[schemars(length(min = 1), extend("x-unique" = true))]
    pub username: String,
    /// The secret. Made if it is left out.
    #[schemars(extend("x-auto" = true))]
    pub secret: SecretText,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

impl Entity for HmacauthCredential {
    const KIND: &'static str = "hmacauth_credentials";
    const PATH: &'static str = "hmac-auths";
    const NAME_FIELD: Option<&'static str> = Some("username");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["username"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("consumer", "hmac-auth")];
}

/// A key that a consumer's JWTs are verified with, for `jwt`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct JwtSecret {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Whose it is.
    pub consumer: Ref<Consumer>,
    /// What the claim that names the key holds. Made if it is left out.
    #[schemars(extend("x-auto" = true, "x-unique" = true))]
    pub key: String,
    /// The secret of the HS algorithms. Made if it is left out.
    #[schemars(extend("x-auto" = true))]
    pub secret: SecretText,
    /// The public key of the other algorithms, in PEM.
    pub rsa_public_key: Option<String>,
    /// The algorithm of the signatures.
    #[serde(default = "hs256")]
    #[schemars(extend("x-null-is-default" = true))]
    pub algorithm: SigningAlgorithm,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

/// Signing algorithm of a JWT (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are those of the RFCs")]
pub enum SigningAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    ES256,
    ES384,
    ES512,
    PS256,
    PS384,
    PS512,
    // The key says which curve; RFC 9864 §2.2 has the other name.
    #[serde(alias = "Ed25519")]
    EdDSA,
}

impl SigningAlgorithm {
    /// Whether who verifies a signature could make it: HMAC with a secret that both know.
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

fn hs256() -> SigningAlgorithm {
    SigningAlgorithm::HS256
}

impl Entity for JwtSecret {
    const KIND: &'static str = "jwt_secrets";
    const PATH: &'static str = "jwts";
    const NAME_FIELD: Option<&'static str> = Some("key");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["key"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("consumer", "jwt")];

    fn check(record: &Map<String, Value>, _: UnixTime, errors: &mut FieldErrors) {
        let algorithm = record.get("algorithm").and_then(Value::as_str);
        let symmetric = algorithm.is_none_or(|name| name.starts_with("HS"));
        if symmetric || errors.by_field.contains_key("algorithm") {
            return;
        }
        match record.get("rsa_public_key").and_then(Value::as_str) {
            None => required(record, "rsa_public_key", "algorithm", errors),
            Some(pem) if is_public_key(pem) => {}
            Some(_) => {
                errors.replace("rsa_public_key", "invalid key".to_owned());
                conditional("algorithm", errors);
            }
        }
    }
}

/// A client of the gateway's own authorization server, for `oauth2`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Oauth2Credential {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Whose it is.
    pub consumer: Ref<Consumer>,
    /// The application's name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// The client's id. Made if it is left out.
    #[schemars(extend("x-auto" = true, "x-unique" = true))]
    pub client_id: String,
    /// The client's secret. Made if it is left out.
    #[schemars(extend("x-auto" = true))]
    pub client_secret: SecretText,
    /// Whether only a hash of the secret is stored.
    #[serde(default)]
    #[schemars(extend("x-not-yet" = true))]
    pub hash_secret: bool,
    /// Where users may be sent back to.
    pub redirect_uris: Option<Vec<RedirectUri>>,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
    /// Whether the client can keep a secret.
    #[serde(default = "confidential")]
    pub client_type: ClientType,
}

/// Where a user is sent back to.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(transparent)]
#[schemars(inline)]
pub struct RedirectUri(#[schemars(extend("format" = "kong-redirect-uri"))] pub String);

/// Whether a client can keep a secret.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientType {
    /// It can.
    Confidential,
    /// It cannot.
    Public,
}

fn confidential() -> ClientType {
    ClientType::Confidential
}

impl Entity for Oauth2Credential {
    const KIND: &'static str = "oauth2_credentials";
    const PATH: &'static str = "oauth2";
    const NAME_FIELD: Option<&'static str> = Some("client_id");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["client_id"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("consumer", "oauth2")];
}

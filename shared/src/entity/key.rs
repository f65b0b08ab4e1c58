//! Keys that plugins verify or sign with, and sets of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Entity, is_empty};
use crate::clock::UnixTime;
use crate::schema::FieldErrors;
use crate::types::{Ref, SecretText, Set, Tag, is_reference, pem};

/// A set of keys.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct KeySet {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Unique name.
    #[schemars(extend("x-unique" = true))]
    pub name: Option<String>,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
}

impl Entity for KeySet {
    const KIND: &'static str = "key_sets";
    const PATH: &'static str = "key-sets";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"]];
}

/// A key.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Key {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// The set that it is in.
    pub set: Option<Ref<KeySet>>,
    /// Unique name.
    #[schemars(extend("x-unique" = true))]
    pub name: Option<String>,
    /// Its id where it is used; unique in its set.
    pub kid: String,
    /// The key as the JSON of a JWK (RFC 7517).
    #[schemars(extend("x-referenceable" = true))]
    pub jwk: Option<SecretText>,
    /// The key in PEM.
    pub pem: Option<PemPair>,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
}

/// The halves of a key in PEM.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct PemPair {
    /// The private half.
    #[schemars(extend("format" = "kong-key", "x-referenceable" = true))]
    pub private_key: Option<SecretText>,
    /// The public half.
    #[schemars(extend("format" = "kong-public-key", "x-referenceable" = true))]
    pub public_key: Option<String>,
}

impl Entity for Key {
    const KIND: &'static str = "keys";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"], &["kid", "set"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("set", "keys")];

    fn check(record: &Map<String, Value>, _: UnixTime, errors: &mut FieldErrors) {
        match (is_empty(record, "jwk"), is_empty(record, "pem")) {
            (true, true) => {
                errors.add_rule("at least one of these fields must be non-empty: 'jwk', 'pem'");
            }
            (false, false) => {
                errors.add_rule("only one or none of these fields must be set: 'jwk', 'pem'");
            }
            _ => {}
        }
        let kid = record.get("kid").and_then(Value::as_str);
        if let Some(text) = record.get("jwk").and_then(Value::as_str)
            && !is_reference(text)
            && let Err(message) = check_jwk(text, kid)
        {
            errors.add_rule(message);
        }
        if let Some(pem) = record.get("pem").and_then(Value::as_object)
            && let Some(public) = pem.get("public_key").and_then(Value::as_str)
            && let Some(private) = pem.get("private_key").and_then(Value::as_str)
            && !pem::pair(public, private)
        {
            errors.add(&["pem"], "public key does not match private key");
        }
        let no_half =
            |pem: &Map<String, Value>| is_empty(pem, "private_key") && is_empty(pem, "public_key");
        if record
            .get("pem")
            .and_then(Value::as_object)
            .is_some_and(no_half)
        {
            errors.add_rule("need to supply a PEM formatted public and/or private key.");
        }
    }
}

/// What each type of key must have (RFC 7518 §6, RFC 8037 §2).
const JWK_MEMBERS: &[(&str, &[&str])] = &[
    ("RSA", &["n", "e"]),
    ("EC", &["crv", "x", "y"]),
    ("OKP", &["crv", "x"]),
    ("oct", &["k"]),
];

fn check_jwk(text: &str, kid: Option<&str>) -> Result<(), String> {
    let Ok(Value::Object(jwk)) = serde_json::from_str(text) else {
        return Err("could not json decode jwk string".to_owned());
    };
    if jwk.get("kid").and_then(Value::as_str) != kid {
        return Err("kid in jwk.kid must be equal to keys.kid".to_owned());
    }
    let kty = jwk.get("kty").and_then(Value::as_str).unwrap_or_default();
    let members = JWK_MEMBERS.iter().find(|(name, _)| *name == kty);
    let complete = members.is_some_and(|(_, members)| {
        members
            .iter()
            .all(|member| jwk.get(*member).is_some_and(Value::is_string))
    });
    if complete {
        Ok(())
    } else {
        Err("could not load JWK, likely not a valid key".to_owned())
    }
}

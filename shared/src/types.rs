//! Values that are valid once they exist, and the checks that decide it, in Kong's words.
//!
//! A type's JSON schema carries a `format`; [`check_format`] finds the check by that name, so that the
//! schema walker and serde judge by the same function.

mod hosts;
mod paths;
pub mod patterns;
pub mod pem;
mod reference;

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::Hash;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use hosts::with_target_port;
pub(crate) use paths::{check_path_quantifiers, normal_prefix};
pub use reference::{Reference, is_reference};

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::entity::Entity;

/// Judges a text; the error is what Kong says.
type Check = fn(&str) -> Result<(), String>;

/// Every format that a schema may name.
const FORMATS: &[(&str, Check)] = &[
    ("uuid", check_uuid),
    ("kong-name", check_name),
    ("kong-tag", check_tag),
    ("kong-host", hosts::check_host),
    ("kong-host-header", hosts::check_host_header),
    ("kong-route-host", hosts::check_route_host),
    ("kong-upstream-name", hosts::check_upstream_name),
    ("kong-target", hosts::check_target),
    ("kong-ip-or-cidr", hosts::check_ip_or_cidr),
    ("kong-path", paths::check_path),
    ("kong-route-path", paths::check_route_path),
    ("kong-method", check_method),
    ("kong-header-name", check_header_name),
    ("kong-cookie-name", check_cookie_name),
    ("kong-sni", hosts::check_sni),
    ("kong-server-name", hosts::check_server_name),
    ("kong-url", check_url),
    ("kong-redirect-uri", check_redirect_uri),
    ("kong-certificate", pem::check_certificate),
    ("kong-key", pem::check_key),
    ("kong-public-key", pem::check_public_key),
    ("kong-vault-prefix", check_vault_prefix),
    ("kong-env-prefix", check_environment_prefix),
    ("kong-vault-directory", check_vault_directory),
];

/// Judges `text` by a named format. An unknown format accepts everything.
pub fn check_format(format: &str, text: &str) -> Result<(), String> {
    FORMATS
        .iter()
        .find(|(name, _)| *name == format)
        .map_or(Ok(()), |(_, check)| check(text))
}

/// Defines a text that satisfies one check.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $format:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes `text` if it is one.
            pub fn parse(text: impl Into<String>) -> Result<Self, String> {
                let text = text.into();
                $check(&text)?;
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format })
            }
        }
    };
}

text! {
    /// A unique name: ASCII letters, digits and `.-_~`, or any other UTF-8.
    Name, "kong-name", check_name
}
text! {
    /// A label to select records by: no comma, no slash.
    Tag, "kong-tag", check_tag
}
text! {
    /// A DNS name, an IP address or the name of an upstream, without a port.
    Host, "kong-host", hosts::check_host
}
text! {
    /// A host that requests are matched by: a name, at most one wildcard label at either end, a port.
    RouteHost, "kong-route-host", hosts::check_route_host
}
text! {
    /// An absolute path.
    Path, "kong-path", paths::check_path
}
text! {
    /// A path prefix, or a regular expression after `~`.
    RoutePath, "kong-route-path", paths::check_route_path
}
text! {
    /// An HTTP method in capitals.
    Method, "kong-method", check_method
}
text! {
    /// A TLS server name.
    Sni, "kong-sni", hosts::check_sni
}

/// A text that is a secret, or refers to one: stored sealed, wiped when dropped, `[redacted]` wherever
/// it would be printed.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// The text. Each call is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl JsonSchema for SecretText {
    fn schema_name() -> Cow<'static, str> {
        "SecretText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "x-encrypted": true })
    }
}

/// A list in which every value stands once, in the order of its first appearance.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Set<T>(Vec<T>);

impl<T> Set<T> {
    /// The values.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// The values.
    pub(crate) fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T: Eq + Hash> FromIterator<T> for Set<T> {
    /// Takes each value once. Hashed, so that nobody can make a long list cost the square of its length.
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let all: Vec<T> = values.into_iter().collect();
        let mut seen = HashSet::with_capacity(all.len());
        let first: Vec<bool> = all.iter().map(|value| seen.insert(value)).collect();
        let kept = all.into_iter().zip(first).filter(|(_, first)| *first);
        Self(kept.map(|(value, _)| value).collect())
    }
}

impl<'de, T: Deserialize<'de> + Eq + Hash> Deserialize<'de> for Set<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

impl<T: JsonSchema> JsonSchema for Set<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Set_of_{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        json_schema!({ "type": "array", "uniqueItems": true, "items": items })
    }
}

/// A foreign key, in JSON `{"id": "…"}`.
pub struct Ref<E> {
    /// The id of the record that is pointed to.
    pub id: Uuid,
    entity: PhantomData<fn() -> E>,
}

impl<E> Ref<E> {
    /// Points to the record `id`.
    pub const fn new(id: Uuid) -> Self {
        Self {
            id,
            entity: PhantomData,
        }
    }
}

impl<E> Clone for Ref<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Ref<E> {}

impl<E> PartialEq for Ref<E> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<E> std::fmt::Debug for Ref<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

/// The JSON of a [`Ref`].
#[derive(Deserialize, Serialize)]
struct Id {
    id: Uuid,
}

impl<E> Serialize for Ref<E> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Id { id: self.id }.serialize(serializer)
    }
}

impl<'de, E> Deserialize<'de> for Ref<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(Id::deserialize(deserializer)?.id))
    }
}

impl<E: Entity> JsonSchema for Ref<E> {
    fn schema_name() -> Cow<'static, str> {
        format!("Ref_to_{}", E::KIND).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-foreign": Value::from(E::KIND) })
    }
}

fn check_uuid(text: &str) -> Result<(), String> {
    // Only the hyphenated form: ids are compared as text by clients.
    if text.len() == 36 && Uuid::try_parse(text).is_ok() {
        Ok(())
    } else {
        Err("expected a valid UUID".to_owned())
    }
}

fn check_name(text: &str) -> Result<(), String> {
    let accepted = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || ".-_~".contains(c);
    if text.chars().all(accepted) {
        return Ok(());
    }
    Err(format!(
        "invalid value '{text}': the only accepted ascii characters are alphanumerics or ., -, _, and ~"
    ))
}

fn check_tag(text: &str) -> Result<(), String> {
    let accepted = |c: char| !c.is_ascii() || ((' '..='~').contains(&c) && c != ',' && c != '/');
    if !text.is_empty() && text.chars().all(accepted) {
        return Ok(());
    }
    Err(format!(
        "invalid tag '{text}': expected printable ascii (except `,` and `/`) or valid utf-8 sequences"
    ))
}

fn check_method(text: &str) -> Result<(), String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(())
    } else {
        Err(format!("invalid value: {text}"))
    }
}

/// Whether `text` has ASCII letters, digits, `-` and `_` only.
fn is_word(text: &str) -> bool {
    let accepted = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    text.bytes().all(accepted)
}

fn check_header_name(text: &str) -> Result<(), String> {
    check_field_name("header", text)
}

fn check_cookie_name(text: &str) -> Result<(), String> {
    check_field_name("cookie", text)
}

fn check_field_name(what: &str, text: &str) -> Result<(), String> {
    if !text.is_empty() && is_word(text) {
        Ok(())
    } else {
        Err(format!(
            "bad {what} name '{text}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"
        ))
    }
}

/// A vault's prefix may not be taken for a backend.
fn check_vault_prefix(text: &str) -> Result<(), String> {
    if BACKENDS.contains(&text) {
        return Err(format!("must not be one of: {text}"));
    }
    let accepted = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let valid = text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(accepted);
    if valid {
        Ok(())
    } else {
        Err(format!("invalid value: {text}"))
    }
}

/// Backends of vaults: ours, and those of Kong that a prefix must not be mistaken for.
const BACKENDS: [&str; 7] = ["env", "file", "aws", "azure", "conjur", "gcp", "hcv"];

fn check_environment_prefix(text: &str) -> Result<(), String> {
    if is_word(text) && !text.starts_with(|c: char| c.is_ascii_digit()) {
        Ok(())
    } else {
        Err(format!("invalid value: {text}"))
    }
}

/// A directory below another one, never above it.
fn check_vault_directory(text: &str) -> Result<(), String> {
    let inside = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
    if text.split('/').all(inside) {
        Ok(())
    } else {
        Err(format!("invalid value: {text}"))
    }
}

fn check_redirect_uri(text: &str) -> Result<(), String> {
    match url::Url::parse(text) {
        Ok(url) if url.fragment().is_some() => Err(format!("fragment not allowed in '{text}'")),
        Ok(url) if url.has_host() => Ok(()),
        _ => Err(format!("cannot parse '{text}'")),
    }
}

fn check_url(text: &str) -> Result<(), String> {
    match url::Url::parse(text) {
        Ok(url) if url.has_host() => Ok(()),
        Ok(_) => Err("missing host in url".to_owned()),
        Err(_) if text.starts_with("//") => Err("missing scheme in url".to_owned()),
        Err(url::ParseError::RelativeUrlWithoutBase | url::ParseError::EmptyHost) => {
            Err("missing host in url".to_owned())
        }
        Err(error) => Err(format!("invalid url: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: &str, cases: &[(&str, Option<&str>)]) {
        for (text, expected) in cases {
            assert_eq!(
                check_format(format, text).err().as_deref(),
                *expected,
                "{format} {text}"
            );
        }
    }

    #[test]
    fn hosts_are_judged_in_kongs_words() {
        check(
            "kong-host",
            &[
                ("example.com", None),
                ("my_upstream", None),
                ("::1", None),
                ("example.com:80", Some("must not have a port")),
                ("exa mple", Some("invalid value: exa mple")),
                ("http://x", Some("invalid value: http://x")),
            ],
        );
        let dotted = Some("invalid value: a.");
        check("kong-server-name", &[("a", None), ("a.", dotted)]);
        let misplaced = "invalid wildcard: must be placed at leftmost or rightmost label";
        check(
            "kong-route-host",
            &[
                ("*.example.com", None),
                ("example.*", None),
                ("example.com:8080", None),
                ("a.*.com", Some(misplaced)),
                ("*example.com", Some(misplaced)),
                (
                    "*.example.*",
                    Some("invalid wildcard: must have at most one wildcard"),
                ),
            ],
        );
    }

    #[test]
    fn paths_are_judged_in_kongs_words() {
        check(
            "kong-path",
            &[
                ("/", None),
                ("/a/b%20c", None),
                ("a", Some("should start with: /")),
                ("/a//b", Some("must not have empty segments")),
                ("/%zz", Some("invalid url-encoded value: '%zz'")),
            ],
        );
        check(
            "kong-route-path",
            &[
                ("~/a/(?<id>\\d+)$", None),
                (
                    "a",
                    Some("should start with: / (fixed path) or ~/ (regex path)"),
                ),
                (
                    "~a",
                    Some("should start with: / (fixed path) or ~/ (regex path)"),
                ),
            ],
        );
        check(
            "kong-url",
            &[
                ("http://a/b", None),
                ("a", Some("missing host in url")),
                ("http://", Some("missing host in url")),
                ("//x", Some("missing scheme in url")),
            ],
        );
        assert!(
            check_format("kong-route-path", "~/(")
                .unwrap_err()
                .starts_with("invalid regex: '/('")
        );
    }

    #[test]
    fn a_set_keeps_the_first_of_equal_values() {
        let set: Set<u8> = [3, 1, 3, 2, 1].into_iter().collect();
        assert_eq!(set.as_slice(), [3, 1, 2]);
        // As many as a body may hold.
        let many: Set<u32> = (0..200_000).chain(0..200_000).collect();
        assert_eq!(many.as_slice().len(), 200_000);
    }
}

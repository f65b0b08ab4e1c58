//! Signed tokens in their compact form, taken apart with care (RFC 7515, RFC 8725).

use aws_lc_rs::hmac;
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};
use shared::clock::UnixTime;
use std::time::Duration;

use super::config::SigningAlgorithm;
use super::key::{PublicKey, of_secrets};
use super::strict_json;

/// The claims of a token.
pub(super) type Claims = Map<String, Value>;

/// Why a text is no token that could be verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum JwsError {
    /// More than is read.
    #[error("the token has {length} bytes, and no more than {limit} are read")]
    Long {
        /// Bytes that it has.
        length: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// Not a JWS in compact form.
    #[error("the token is not a signed JWT")]
    Shape,
    /// A JWE: five parts, and a header that says how they are encrypted.
    #[error("the token is encrypted, which the gateway does not read")]
    Encrypted,
    /// `none`, or an algorithm that we do not know.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// The header demands an extension.
    #[error("the token demands an extension that is not supported")]
    Critical,
}

/// A token taken apart, not verified.
pub(super) struct Jws<'a> {
    pub(super) header: Header,
    pub(super) claims: Claims,
    message: &'a str,
    signature: &'a str,
}

shared::unsaid!(Jws<'a>);

/// The parts of a header that count. `jku`, `x5u` and `x5c` choose no key (RFC 8725 §3.10), and
/// `jwk` none of a token.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) algorithm: SigningAlgorithm,
    pub(super) kid: Option<String>,
    /// Digests of a certificate that has the key, by SHA-1 and by SHA-256.
    pub(super) thumbprints: [Option<String>; 2],
    pub(super) typ: Option<String>,
    /// A key that the token itself shows: for DPoP proofs only.
    pub(super) jwk: Option<Value>,
    /// Whether it has a nonce: only Microsoft Graph can tell who signed such a token.
    pub(super) for_graph: bool,
}

impl Header {
    /// The type in lower case, without `application/`, which may be left out (RFC 7515 §4.1.9).
    pub(super) fn kind(&self) -> Option<String> {
        let typ = self.typ.as_deref()?.to_ascii_lowercase();
        Some(typ.strip_prefix("application/").unwrap_or(&typ).to_owned())
    }
}

#[derive(Deserialize)]
struct RawHeader {
    alg: Value,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    x5t: Option<String>,
    #[serde(default, rename = "x5t#S256")]
    x5t_s256: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    jwk: Option<Value>,
    #[serde(default)]
    nonce: Option<Value>,
    #[serde(default)]
    crit: Option<Value>,
    #[serde(default)]
    b64: Option<bool>,
}

impl<'a> Jws<'a> {
    /// Takes `token` apart, if it is no longer than `limit`.
    pub(super) fn parse(token: &'a str, limit: usize) -> Result<Self, JwsError> {
        let length = token.len();
        if length > limit {
            return Err(JwsError::Long { length, limit });
        }
        let (message, signature) = token.rsplit_once('.').ok_or(JwsError::Shape)?;
        let (head, body) = message.split_once('.').ok_or(JwsError::Shape)?;
        if body.contains('.') {
            return Err(if is_encrypted(token) {
                JwsError::Encrypted
            } else {
                JwsError::Shape
            });
        }
        let raw: RawHeader = decode(head)?;
        if raw.crit.is_some() || raw.b64 == Some(false) {
            return Err(JwsError::Critical);
        }
        let algorithm = SigningAlgorithm::deserialize(raw.alg).map_err(|_| JwsError::Algorithm)?;
        let claims = URL_SAFE_NO_PAD.decode(body).ok();
        let claims = claims.and_then(|claims| strict_json::object(&claims));
        let claims = claims.ok_or(JwsError::Shape)?;
        Ok(Self {
            header: Header {
                algorithm,
                kid: raw.kid,
                thumbprints: [raw.x5t, raw.x5t_s256],
                typ: raw.typ,
                jwk: raw.jwk,
                for_graph: raw.nonce.is_some(),
            },
            claims,
            message,
            signature,
        })
    }

    /// Whether `key` made the signature.
    pub(super) fn signed_by(&self, key: &PublicKey) -> bool {
        URL_SAFE_NO_PAD
            .decode(self.signature)
            .is_ok_and(|signature| {
                key.verifies(self.header.algorithm, self.message.as_bytes(), &signature)
            })
    }

    /// Whether the signature was made with `secret`.
    pub(super) fn signed_with(&self, secret: &str) -> bool {
        let Some(algorithm) = of_secrets(self.header.algorithm) else {
            return false;
        };
        let key = hmac::Key::new(algorithm, secret.as_bytes());
        URL_SAFE_NO_PAD
            .decode(self.signature)
            .is_ok_and(|tag| hmac::verify(&key, self.message.as_bytes(), &tag).is_ok())
    }
}

/// Whether a token looks like a JWS in compact form: three parts, the first of which begins an object.
pub(super) fn has_shape(token: &str) -> bool {
    token.starts_with("ey") && token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Whether a token is a JWE in compact form (RFC 7516 §9).
fn is_encrypted(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Encryption {
        #[serde(rename = "enc")]
        _enc: String,
    }
    let mut parts = token.split('.');
    let header = parts.next().unwrap_or_default();
    parts.count() == 4 && decode::<Encryption>(header).is_ok()
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, JwsError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::Shape)?;
    let text = str::from_utf8(&bytes).map_err(|_| JwsError::Shape)?;
    // An array would be read by position (RFC 7515 §4).
    if !text.trim_ascii_start().starts_with('{') {
        return Err(JwsError::Shape);
    }
    serde_json::from_str(text).map_err(|_| JwsError::Shape)
}

/// A claim that is a time, in milliseconds since 1970: `Err` if it is there but is none.
pub(super) fn time(claims: &Claims, name: &str) -> Result<Option<UnixTime>, ()> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = value
        .as_f64()
        .filter(|seconds| (0.0..=1e11).contains(seconds))
        .ok_or(())?;
    let since = Duration::try_from_secs_f64(seconds).map_err(|_| ())?;
    Ok(Some(UnixTime::from_millis(0).saturating_add(since)))
}

/// When `token` ends by its own word, which nobody has verified: good for nothing but to have it end sooner.
pub(super) fn own_end(token: &str) -> Option<UnixTime> {
    let parsed = Jws::parse(token, token.len()).ok()?;
    time(&parsed.claims, "exp").ok().flatten()
}

/// Whether `name` (`exp`) lies in the future, with `leeway`; a token without it never ends.
pub(super) fn unexpired(claims: &Claims, now: UnixTime, leeway: Duration) -> bool {
    time(claims, "exp").is_ok_and(|end| end.is_none_or(|end| now < end.saturating_add(leeway)))
}

/// What `token` says, whoever has signed it; none if it is no JWT.
pub(super) fn claims(token: &str) -> Option<Claims> {
    Some(Jws::parse(token, token.len()).ok()?.claims)
}

/// What `token` says, whatever its header does; none if it is no JWT.
///
/// # Errors
///
/// If it is one whose claims no two readers need read alike.
pub(super) fn payload(token: &str) -> Result<Option<Claims>, Ambiguous> {
    let parts: Vec<_> = token.split('.').collect();
    let [_, body, _] = parts[..] else {
        return Ok(None);
    };
    let is_object = |body: &[u8]| body.trim_ascii_start().starts_with(b"{");
    match URL_SAFE_NO_PAD.decode(body.trim_end_matches('=')) {
        Ok(body) if is_object(&body) => strict_json::object(&body).map(Some).ok_or(Ambiguous),
        _ if is_object(&leniently(body)) => Err(Ambiguous),
        _ => Ok(None),
    }
}

/// Also takes what has bits behind its last byte.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// A byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// What the most lenient of readers makes of `part`: one that takes either alphabet of base64, passes over what is in none,
/// over bits that say nothing and over a byte order mark.
fn leniently(part: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'+' => Some(b'-'),
        b'/' => Some(b'_'),
        b'-' | b'_' => Some(byte),
        _ => Some(byte).filter(u8::is_ascii_alphanumeric),
    };
    let mut digits: Vec<u8> = part.bytes().filter_map(digit).collect();
    // The last one alone is no byte.
    if digits.len() % 4 == 1 {
        digits.pop();
    }
    let bytes = LENIENT.decode(digits).unwrap_or_default();
    bytes
        .strip_prefix(MARK)
        .map(<[u8]>::to_vec)
        .unwrap_or(bytes)
}

/// Claims that are an object only to some readers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ambiguous;

/// Whether `name` (`nbf`, `iat`) lies in the past, with `leeway`, or is not there.
pub(super) fn begun(claims: &Claims, name: &str, now: UnixTime, leeway: Duration) -> bool {
    time(claims, name)
        .is_ok_and(|start| start.is_none_or(|start| start <= now.saturating_add(leeway)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn token(header: &Value, body: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(header), part(body))
    }

    #[test]
    fn rule_32c_only_plain_signed_tokens_are_taken_apart() {
        let check = |header: Value, expected: Option<JwsError>| {
            let token = token(&header, &json!({"sub": "x"}));
            assert_eq!(Jws::parse(&token, 4096).err(), expected, "{header}");
        };
        check(json!({"alg": "RS256"}), None);
        check(json!({"alg": "Ed25519"}), None);
        check(json!({"alg": "none"}), Some(JwsError::Algorithm));
        check(json!({"alg": "NONE"}), Some(JwsError::Algorithm));
        check(
            json!({"alg": "RS256", "crit": ["x"]}),
            Some(JwsError::Critical),
        );
        check(
            json!({"alg": "RS256", "b64": false}),
            Some(JwsError::Critical),
        );
        check(json!({"alg": "RSA1_5"}), Some(JwsError::Algorithm));
        check(json!({"alg": 5}), Some(JwsError::Algorithm));
        check(json!({}), Some(JwsError::Shape));
        check(json!("RS256"), Some(JwsError::Shape));
        check(json!(["RS256", "kid"]), Some(JwsError::Shape));
        let body = URL_SAFE_NO_PAD.encode(r#"{"sub":"x"}"#);
        let head = URL_SAFE_NO_PAD.encode(b"{\"alg\":\"RS256\",\"x\":\"\xff\"}");
        let refused = Jws::parse(&format!("{head}.{body}.c2ln"), 4096).err();
        assert_eq!(refused, Some(JwsError::Shape));
        assert_eq!(Jws::parse("a.b.c.d.e", 99).err(), Some(JwsError::Shape));
        assert_eq!(Jws::parse("", 99).err(), Some(JwsError::Shape));
        let long = JwsError::Long {
            length: 5,
            limit: 4,
        };
        assert_eq!(Jws::parse("a.b.c", 4).err(), Some(long));
    }

    #[test]
    fn rule_32h_absurd_times_are_no_times() {
        let check = |value: Value, valid: bool| {
            let claims: Claims = serde_json::from_value(json!({"exp": value})).unwrap();
            assert_eq!(time(&claims, "exp").is_ok(), valid, "{claims:?}");
        };
        check(json!(1_700_000_000), true);
        check(json!(1_700_000_000.5), true);
        check(json!(-1), false);
        check(json!(1e300), false);
        check(json!("1700000000"), false);
        check(json!(null), false);
    }

    #[test]
    fn rule_88_a_payload_is_read_whatever_its_header_says() {
        let of = |payload: &str| {
            let payload = URL_SAFE_NO_PAD.encode(payload);
            ["eyJhbGciOiJub25lIn0", "no header", ""].map(|header| format!("{header}.{payload}.x"))
        };
        let check = |tokens: [String; 3], expected: Result<bool, Ambiguous>| {
            for token in tokens {
                let read = payload(&token).map(|claims| claims.is_some());
                assert_eq!(read, expected, "{token}");
            }
        };
        check(of("{\"a\":1}"), Ok(true));
        check(
            of(" {\"a\":1}").map(|token| token.replace(".x", "=.x")),
            Ok(true),
        );
        check(of("{\"a\":1,\"a\":2}"), Err(Ambiguous));
        check(of("{\"a\":1"), Err(Ambiguous));
        check(of("[1]"), Ok(false));
        // No two readers need take these alike.
        check(of("\u{feff}{\"a\":1}"), Err(Ambiguous));
        let plain = of("{\"a\":\">>>>???\",\"b\":10}");
        assert_eq!(payload(&plain[0]).map(|claims| claims.is_some()), Ok(true));
        let standard = plain
            .clone()
            .map(|token| token.replace('-', "+").replace('_', "/"));
        assert_ne!(standard, plain);
        check(standard, Err(Ambiguous));
        check(
            plain.map(|token| token.replace(".ey", ".e y")),
            Err(Ambiguous),
        );
        let bits = of("{\"a\":1}").map(|token| token.replace("fQ.", "fR."));
        assert!(bits[0].ends_with("fR.x"));
        check(bits, Err(Ambiguous));
        check(["a.b", "a.b.c.d", "a.{}.c"].map(str::to_owned), Ok(false));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,120}") {
            let _ = (Jws::parse(&text, 4096), payload(&text));
        }
    }
}

//! What in a request makes another answer of it (RFC 9111 §4.1).

use http::header::{ACCEPT_ENCODING, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use shared::digest::sha256;

/// The encodings that a request takes, in one form: their order and their weights say nothing of who can read what,
/// but for the weight that refuses one.
pub(super) fn encodings(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let encodings = texts.flat_map(|text| text.split(',')).map(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        let name = name.trim().to_ascii_lowercase();
        let weight = weight.trim().to_ascii_lowercase();
        let weight = weight.strip_prefix("q=").map(str::trim);
        let refused = weight.and_then(|weight| weight.parse::<f64>().ok());
        if refused.is_some_and(|weight| weight <= 0.0) {
            format!("{name};q=0")
        } else {
            name
        }
    });
    let mut encodings: Vec<_> = encodings.filter(|one| !one.is_empty()).collect();
    encodings.sort_unstable();
    encodings.dedup();
    encodings
}

/// The fields of a request that an answer with these `headers` depends on, beside its encodings, which every key
/// tells. `None`: it depends on more.
pub(super) fn varies_by(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for value in headers.get_all(VARY) {
        let all = value.to_str().ok()?.split(',').map(str::trim);
        for name in all.filter(|name| !name.is_empty()) {
            if name == "*" {
                return None;
            }
            names.push(HeaderName::try_from(name).ok()?);
        }
    }
    names.retain(|name| *name != ACCEPT_ENCODING);
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Some(names)
}

/// What `headers` say under each of `names`.
pub(super) fn values<'a>(
    names: &'a [HeaderName],
    headers: &'a HeaderMap,
) -> Vec<(&'a str, Vec<&'a [u8]>)> {
    let fields = names.iter().map(|name| {
        let values = headers.get_all(name).iter();
        (name.as_str(), values.map(HeaderValue::as_bytes).collect())
    });
    fields.collect()
}

/// The key of the answer to a request with these `headers` among all that are kept under `key`, which differ by
/// `names`.
pub(super) fn variant(key: &[u8; 32], names: &[HeaderName], headers: &HeaderMap) -> [u8; 32] {
    digested(&json!([key, values(names, headers)]))
}

/// A key of all these `parts`.
pub(super) fn digested(parts: &Value) -> [u8; 32] {
    sha256(parts.to_string().as_bytes())
}

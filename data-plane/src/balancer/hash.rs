//! The part of a request that consistent hashing uses (Kong 3.9, `hash_on`).

use std::net::IpAddr;

use http::{HeaderName, HeaderValue, header};
use plugins::exchange::{Captures, Identity};

use super::table::mix;
use crate::http1::headers::View;
use crate::http1::kind::Kind;
use crate::pipeline::Put;

/// What is hashed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum HashInput {
    /// Nothing.
    #[default]
    None,
    /// The consumer, or else the credential.
    Consumer,
    /// The client's address.
    Ip,
    /// A header field.
    Header(HeaderName),
    /// A cookie, which is set if there is none.
    Cookie(String),
    /// The path, with nothing encoded in it.
    Path,
    /// A query argument.
    QueryArg(String),
    /// A capture of the route's path, by number or name.
    UriCapture(String),
}

/// What there is to hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hashable<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) client: IpAddr,
    pub(crate) headers: View<'a>,
    /// What filters have put in place of some of them.
    pub(crate) put: Put<'a>,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) captures: &'a Captures,
}

impl<'a> Hashable<'a> {
    /// All values of the field `name`.
    fn values(&self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let came = self.headers.values(Kind::of(name), name);
        self.put.values(name).chain(came)
    }
}

/// The hash of a request, with the cookie to set that has been made for it.
#[derive(Debug, Default)]
pub(crate) struct Hashed {
    pub(crate) hash: Option<u32>,
    pub(crate) cookie: Option<HeaderValue>,
}

/// Hashes a request by `input`, or by `fallback` if it does not have what that names. `random` makes the
/// value of a cookie for `path`.
pub(crate) fn hash(
    input: &HashInput,
    fallback: &HashInput,
    cookie_path: &str,
    request: &Hashable<'_>,
    random: impl Fn() -> String,
) -> Hashed {
    for input in [input, fallback] {
        if let Some(text) = value(input, request) {
            return Hashed {
                hash: Some(of(&text)),
                cookie: None,
            };
        }
        if let HashInput::Cookie(name) = input {
            let made = random();
            return Hashed {
                hash: Some(of(made.as_bytes())),
                cookie: HeaderValue::from_str(&format!("{name}={made}; Path={cookie_path}")).ok(),
            };
        }
    }
    Hashed::default()
}

fn of(text: &[u8]) -> u32 {
    mix(crc32fast::hash(text))
}

fn value(input: &HashInput, request: &Hashable<'_>) -> Option<Vec<u8>> {
    let found = match input {
        HashInput::None => None,
        HashInput::Consumer => {
            let consumer = request.identity.consumer.as_ref();
            consumer
                .map(|consumer| consumer.id.as_bytes().to_vec())
                .or_else(|| {
                    let credential = request.identity.credential.as_ref();
                    credential.map(|credential| credential.as_bytes().to_vec())
                })
        }
        HashInput::Ip => Some(request.client.to_string().into_bytes()),
        HashInput::Header(name) => {
            let all: Vec<&[u8]> = request.values(name).collect();
            (!all.is_empty()).then(|| all.concat())
        }
        HashInput::Cookie(name) => cookie(request, name),
        HashInput::Path => Some(percent_encoding::percent_decode_str(request.path).collect()),
        HashInput::QueryArg(name) => argument(request.query?, name),
        HashInput::UriCapture(name) => capture(request.captures, name).map(String::into_bytes),
    };
    found.filter(|text| !text.is_empty())
}

fn cookie(request: &Hashable<'_>, name: &str) -> Option<Vec<u8>> {
    request
        .values(&header::COOKIE)
        .flat_map(|value| value.split(|byte| *byte == b';'))
        .find_map(|pair| {
            let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
            rest.strip_prefix(b"=").map(<[u8]>::to_vec)
        })
}

/// All values of an argument, in an order of their own; one without a value is `true`.
fn argument(query: &str, name: &str) -> Option<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = query
        .split('&')
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let decoded = |text: &str| -> Vec<u8> {
                let spaced = text.replace('+', " ");
                percent_encoding::percent_decode_str(&spaced).collect()
            };
            (decoded(key) == name.as_bytes()).then(|| decoded(value))
        })
        .collect();
    all.sort_unstable();
    (!all.is_empty()).then(|| all.join(&b','))
}

fn capture(captures: &Captures, name: &str) -> Option<String> {
    match name.parse::<usize>() {
        Ok(number) => captures.numbered.get(number.checked_sub(1)?).cloned(),
        Err(_) => captures
            .named
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone()),
    }
}

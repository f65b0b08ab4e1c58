//! Header fields that belong to filters: neither a client nor a server can set them.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use plugins::filter::Filter as _;
use plugins::glance::{Known, Pass};
use plugins::sessions::sealed_cookies;
use plugins::sessions::session_keys::KeyRing;

use super::request::Added;
use crate::compile::{CompiledRoute, CompiledSnapshot};
use crate::forward::fields;
use crate::http1::headers::{Headers, View};
use crate::http1::kind::Kind;
use crate::http1::writer::field;

static COOKIE: HeaderName = header::COOKIE;

/// Removes what only filters may say of a request, and what only a `trusted` proxy may.
pub(super) fn remove_identity(headers: &mut HeaderMap, route: &CompiledRoute, trusted: bool) {
    let owned = &route.filters.owned_headers;
    let kinds = if trusted {
        Kind::IDENTITY
    } else {
        Kind::IDENTITY.and(Kind::PROXIES)
    };
    fields::remove_where(headers, |name| {
        let text = name.as_str().as_bytes();
        Kind::of(name).is_any_of(kinds) || owned.iter().any(|owned| same_field(owned, text))
    });
}

/// The same of a request that nobody trusted has sent; also what speaks of its connection.
pub(super) fn leave_out(headers: &mut Headers, route: &CompiledRoute) {
    let fields = match headers {
        Headers::Raw(fields) => fields,
        Headers::Map(map) => return remove_identity(map, route, false),
    };
    fields.leave_out(Kind::HOP_BY_HOP.and(Kind::IDENTITY).and(Kind::PROXIES));
    let owned = &route.filters.owned_headers;
    if !owned.is_empty() {
        fields.leave_out_named(|name| owned.iter().any(|owned| same_field(owned, name)));
    }
}

/// Leaves out the fields in whose place something is put by filters that let a request `pass`.
pub(super) fn make_room(headers: &mut Headers, pass: &Pass) {
    let removed = pass.known.as_ref().map_or(&[][..], |known| &known.removed);
    let fields = match headers {
        Headers::Raw(fields) => fields,
        Headers::Map(map) => {
            let cookie = pass.cookies.is_some().then_some(&header::COOKIE);
            for name in removed.iter().chain(cookie) {
                map.remove(name);
            }
            return;
        }
    };
    let mut kinds = if pass.cookies.is_some() {
        Kind::COOKIE
    } else {
        Kind::OTHER
    };
    let mut named = false;
    for name in removed {
        if *name == header::AUTHORIZATION {
            kinds = kinds.and(Kind::AUTHORIZATION);
        } else if *name == header::COOKIE {
            kinds = kinds.and(Kind::COOKIE);
        } else {
            named = true;
        }
    }
    fields.leave_out(kinds);
    if named {
        fields.leave_out_named(|name| {
            let mut removed = removed.iter();
            removed.any(|removed| removed.as_str().as_bytes() == name)
        });
    }
}

/// Takes what the gateway itself has sealed out of the cookies of a request that a filter lets `pass`, whichever route it
/// was sealed for.
pub(super) fn withhold_cookies(pass: &mut Pass, headers: View<'_>, ring: &KeyRing) {
    let left = match &pass.cookies {
        Some(left) if left.is_empty() => None,
        Some(left) => sealed_cookies::without(|| std::iter::once(&left[..]), ring),
        None if headers.may_have(Kind::COOKIE) => {
            sealed_cookies::without(|| headers.values(Kind::COOKIE, &COOKIE), ring)
        }
        None => None,
    };
    if let Some(left) = left {
        pass.cookies = Some(left.into());
    }
}

/// The same of a request that filters have seen whole.
pub(super) fn remove_sealed_cookies(headers: &mut HeaderMap, ring: &KeyRing) {
    let cookies = headers.get_all(header::COOKIE);
    let values = || cookies.iter().map(HeaderValue::as_bytes);
    let Some(left) = sealed_cookies::without(values, ring) else {
        return;
    };
    headers.remove(header::COOKIE);
    if !left.is_empty()
        && let Ok(left) = HeaderValue::from_maybe_shared(Bytes::from(left))
    {
        headers.insert(header::COOKIE, left);
    }
}

/// What goes upstream in place of fields that filters have left out: nothing, of a request that they have seen whole.
#[derive(Clone, Copy, Default)]
pub(crate) struct Put<'a> {
    known: Option<&'a Known>,
    cookies: Option<&'a [u8]>,
    fields: &'a [(HeaderName, HeaderValue)],
}

shared::unsaid!(Put<'a>);

impl<'a> Put<'a> {
    /// What is put there as a request `pass`es.
    pub(crate) fn of(pass: &'a Pass) -> Self {
        Self {
            known: pass.known.as_deref(),
            cookies: pass.cookies.as_deref().filter(|left| !left.is_empty()),
            fields: &pass.fields,
        }
    }

    /// What is the same each time, as lines.
    pub(super) fn lines(self) -> &'a [u8] {
        let write = |fields: &[(HeaderName, HeaderValue)]| {
            let mut lines = BytesMut::new();
            for (name, value) in fields {
                field(&mut lines, name.as_str(), value.as_bytes());
            }
            lines.to_vec().into()
        };
        self.known.map_or(&[], |known| known.lines(write))
    }

    /// The rest.
    pub(super) fn others(self) -> impl Iterator<Item = Added<'a>> {
        let cookies = self.cookies.map(|left| (header::COOKIE.as_str(), left));
        let fields = self.fields.iter();
        cookies
            .into_iter()
            .chain(fields.map(|(name, value)| (name.as_str(), value.as_bytes())))
            .map(|(name, value)| (name, Cow::Borrowed(value)))
    }

    /// The values of the fields `name` among all of it.
    pub(crate) fn values(self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let known = self.known.map_or(&[][..], |known| &known.fields);
        let fields = known.iter().chain(self.fields);
        let fields = fields.filter(move |(put, _)| put == name);
        let cookies = self.cookies.filter(|_| *name == header::COOKIE);
        fields.map(|(_, value)| value.as_bytes()).chain(cookies)
    }
}

/// Removes fields and cookies of an upstream's answer whose names belong to a filter.
pub(super) fn remove_owned(
    headers: &mut Headers,
    snapshot: &CompiledSnapshot,
    route: &CompiledRoute,
) {
    let owned = &route.filters.owned_response_headers;
    if !owned.is_empty() {
        fields::remove_where(headers.map(), |name| {
            owned
                .iter()
                .any(|owned| same_field(owned, name.as_str().as_bytes()))
        });
    }
    remove_owned_cookies(headers, snapshot, route);
}

fn remove_owned_cookies(headers: &mut Headers, snapshot: &CompiledSnapshot, route: &CompiledRoute) {
    if route.filters.all.is_empty() || !headers.has(Kind::SET_COOKIE, &header::SET_COOKIE) {
        return;
    }
    let headers = headers.map();
    let owned = |value: &HeaderValue| {
        str::from_utf8(name_sent_back(value.as_bytes())).is_ok_and(|name| {
            let mut all = route.filters.all.iter();
            all.any(|filter| {
                let filter = snapshot.filters.get(*filter);
                filter.is_some_and(|filter| filter.owns_cookie(name))
            })
        })
    };
    if !headers.get_all(header::SET_COOKIE).iter().any(owned) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter(|value| !owned(value))
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

/// The name that a server reads once a browser sends back what `cookie` sets. Of one that has none, browsers send the value
/// alone, and what stands in that before a `=` is read as its name (RFC 6265bis §5.6, §5.8.3).
fn name_sent_back(cookie: &[u8]) -> &[u8] {
    fn before(text: &[u8], end: u8) -> &[u8] {
        let part = text.split(|byte| *byte == end).next();
        part.unwrap_or_default().trim_ascii()
    }
    let pair = before(cookie, b';');
    before(pair.strip_prefix(b"=").unwrap_or(pair), b'=')
}

/// Equal but for `_` in place of `-`.
fn same_field(owned: &HeaderName, name: &[u8]) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let owned = owned.as_str().bytes().map(plain);
    owned.len() == name.len() && owned.eq(name.iter().copied().map(plain))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use plugins::exchange::Identity;

    use super::*;

    #[test]
    fn rule_69_a_cookie_has_the_name_that_it_is_read_by() {
        for (cookie, name) in [
            ("session=a=b; Path=/", "session"),
            (" session =a", "session"),
            ("session", "session"),
            ("session; Path=/", "session"),
            ("=session=a; Path=/", "session"),
            ("= session =a", "session"),
            ("=session", "session"),
            ("theme==session=a", "theme"),
            ("==session=a", ""),
            ("; session=a", ""),
            ("", ""),
        ] {
            assert_eq!(
                name_sent_back(cookie.as_bytes()),
                name.as_bytes(),
                "{cookie}"
            );
        }
    }

    #[test]
    fn what_is_put_is_all_that_filters_let_pass() {
        let field = |name: &'static str, value: &'static str| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        let known = vec![field("authorization", "Bearer a"), field("x-userinfo", "b")];
        let known = Known::new(Identity::default(), vec![header::AUTHORIZATION], known);
        let pass = Pass {
            known: Some(Rc::new(known)),
            fields: vec![field("x-trace", "1")],
            cookies: Some(Rc::from(&b"c=d"[..])),
            ..Pass::default()
        };
        for _ in 0..2 {
            let lines = Put::of(&pass).lines();
            assert_eq!(lines, b"authorization: Bearer a\r\nx-userinfo: b\r\n");
        }
        let others: Vec<_> = Put::of(&pass).others().collect();
        let expected = [("cookie", &b"c=d"[..]), ("x-trace", b"1")];
        assert_eq!(others, expected.map(|(name, value)| (name, value.into())));
        for (name, expected) in [
            ("authorization", &["Bearer a"][..]),
            ("cookie", &["c=d"]),
            ("x-trace", &["1"]),
            ("x-other", &[]),
        ] {
            let name = HeaderName::from_static(name);
            let found: Vec<_> = Put::of(&pass).values(&name).collect();
            let expected: Vec<_> = expected.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(found, expected, "{name}");
        }
        let nothing = Pass {
            cookies: Some(Rc::from(&b""[..])),
            ..Pass::default()
        };
        for put in [Put::of(&nothing), Put::default()] {
            assert!(put.lines().is_empty() && put.others().next().is_none());
            assert_eq!(put.values(&header::COOKIE).next(), None);
        }
    }
}

//! The gateway's own cookies in a request's `Cookie` header and in `Set-Cookie`.

mod glimpse;

use std::cell::Cell;
use std::ops::Range;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

pub(super) use self::glimpse::Glimpse;
use super::config::OpenidConnect;
use super::rules::Methods;
use crate::credentials::cookies::{Cookie, split};
use crate::sessions::cookie::HOST_PREFIX;
pub(super) use crate::sessions::cookie::{Attributes, CHUNK};
use crate::sessions::seal::claimed_chunks;

/// Most chunks of a session (Kong 3.9: nine).
pub(super) const MOST_CHUNKS: u8 = 9;

/// How many characters of its digest name an audience. No chunk has as many.
pub(super) const AUDIENCE: usize = 16;

/// The names that are ours.
#[derive(Debug)]
pub(super) struct Names {
    session: Name,
    remember: Name,
    authorization: Name,
    trail: String,
    list: String,
    used: Used,
}

/// Which cookies a configuration makes and reads. Of others only the names are ours, and an application may
/// have cookies of these names itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    session: bool,
    remember: bool,
    sign_in: bool,
}

/// A name as it is configured, without a prefix.
#[derive(Debug)]
struct Name {
    bare: String,
    /// The same without an audience.
    plain: String,
    /// Whether it is sent with the prefix: on plain requests, on requests over TLS.
    prefixed: [bool; 2],
}

/// Which of the cookies that may be cut into chunks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Family {
    /// The session.
    Session,
    /// What restores it after the browser was closed.
    Remember,
}

/// What a cookie of ours is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A chunk, counted from 1.
    Chunk(Family, u8),
    /// That there are sign-ins under way.
    Begun,
    /// A chunk of a sign-in under way, counted from 1.
    SignIn(u8),
    /// Sign-ins that succeeded a moment ago.
    Trail,
    /// Sign-ins that began a moment ago.
    List,
    /// A chunk of a session of another audience, counted from 1: never read, never sent upstream, where it could be replayed.
    Elsewhere(Family, u8),
    /// A name of ours as it would be sent over the other scheme: never believed, never sent upstream.
    Stray,
}

impl Used {
    pub(super) const fn of(config: &OpenidConnect, methods: Methods) -> Self {
        Self {
            session: methods.session,
            remember: config.session.session_remember,
            sign_in: methods.authorization_code,
        }
    }
}

impl Name {
    fn new(configured: &str, attributes: &Attributes) -> Self {
        let (bare, prefixed) = match configured.strip_prefix(HOST_PREFIX) {
            Some(bare) => (bare, [true, true]),
            None => (
                configured,
                [attributes.is_prefixed(false), attributes.is_prefixed(true)],
            ),
        };
        Self {
            bare: bare.to_owned(),
            plain: bare.to_owned(),
            prefixed,
        }
    }

    /// The number of the chunk that `name` is, counted from 1.
    fn chunk(&self, name: &str) -> Option<u8> {
        number(name.strip_prefix(&self.bare)?)
    }

    /// The number of the chunk that `name` is of a session of any audience, counted from 1.
    fn chunk_of_any(&self, name: &str) -> Option<u8> {
        let rest = name.strip_prefix(&self.plain)?;
        let of_audience = rest
            .strip_prefix('-')
            .and_then(|rest| rest.split_at_checked(AUDIENCE));
        match of_audience {
            Some((digest, rest)) if digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                number(rest)
            }
            _ => number(rest),
        }
    }
}

/// The number of the chunk whose name ends like this.
fn number(end: &str) -> Option<u8> {
    match end.as_bytes() {
        [] => Some(1),
        [digit @ b'2'..=b'9'] => Some(digit - b'0'),
        _ => None,
    }
}

impl Names {
    pub(super) fn new(
        (session, session_cookie): (&str, &Attributes),
        remember: &str,
        (authorization, authorization_cookie): (&str, &Attributes),
        used: Used,
    ) -> Self {
        let authorization = Name::new(authorization, authorization_cookie);
        Self {
            used,
            session: Name::new(session, session_cookie),
            remember: Name::new(remember, session_cookie),
            trail: format!("{}_trail", authorization.bare),
            list: format!("{}_list", authorization.bare),
            authorization,
        }
    }

    /// The same where sessions are those of an audience, with the first characters of its `digest`.
    pub(super) fn of_audience(mut self, digest: &str) -> Self {
        for name in [&mut self.session, &mut self.remember] {
            name.bare = format!("{}-{digest}", name.plain);
        }
        self
    }

    /// The name of the first chunk.
    pub(super) fn of(&self, family: Family) -> &str {
        match family {
            Family::Session => &self.session.bare,
            Family::Remember => &self.remember.bare,
        }
    }

    /// The name of a chunk, counted from 1.
    pub(super) fn chunk(&self, family: Family, number: u8) -> String {
        let name = self.of(family);
        if number == 1 {
            name.to_owned()
        } else {
            format!("{name}{number}")
        }
    }

    /// The name of the cookie of the sign-in whose state hashes to `suffix`.
    pub(super) fn sign_in(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.authorization.bare)
    }

    /// The name of the cookie of sign-ins that succeeded a moment ago.
    pub(super) fn trail(&self) -> &str {
        &self.trail
    }

    /// The name of the cookie of sign-ins that began a moment ago.
    pub(super) fn list(&self) -> &str {
        &self.list
    }

    /// The name of the cookie that says that sign-ins are under way.
    pub(super) fn begun(&self) -> &str {
        &self.authorization.bare
    }

    /// Whether the cookie `name` is ours, on whatever connection.
    pub(super) fn own(&self, name: &str) -> bool {
        self.kind(name, true).is_some() && !self.is_foreign(name, b"")
    }

    /// Whether the cookie `name` only has a name of ours: it is not in use, and `value` was not sealed by us for
    /// another route.
    fn is_foreign(&self, name: &str, value: &[u8]) -> bool {
        let bare = name.strip_prefix(HOST_PREFIX).unwrap_or(name);
        let used = match self.bare_kind(bare) {
            Some((Kind::Chunk(family, 1) | Kind::Elsewhere(family, 1), _)) => match family {
                Family::Session => self.used.session,
                Family::Remember => self.used.remember,
            },
            Some((Kind::Begun | Kind::List, _)) => self.used.sign_in,
            _ => true,
        };
        let sealed = || std::str::from_utf8(value).ok().and_then(claimed_chunks);
        !used && sealed().is_none()
    }

    /// What a cookie of a request is, if more of it than its name is ours.
    fn kind_of(&self, name: &str, value: &[u8], https: bool) -> Option<Kind> {
        let kind = self.kind(name, https);
        kind.filter(|_| !self.is_foreign(name, value))
    }

    /// What the cookie `name` of a request is, if it is ours.
    fn kind(&self, name: &str, https: bool) -> Option<Kind> {
        let (prefixed, bare) = match name.strip_prefix(HOST_PREFIX) {
            Some(bare) => (true, bare),
            None => (false, name),
        };
        let (kind, name) = self.bare_kind(bare)?;
        let expected = name.prefixed.get(usize::from(https)).copied();
        Some(if expected == Some(prefixed) {
            kind
        } else {
            Kind::Stray
        })
    }

    fn bare_kind(&self, bare: &str) -> Option<(Kind, &Name)> {
        let families = [
            (Family::Session, &self.session),
            (Family::Remember, &self.remember),
        ];
        for (family, name) in families {
            if let Some(number) = name.chunk(bare) {
                return Some((Kind::Chunk(family, number), name));
            }
        }
        for (family, name) in families {
            if let Some(number) = name.chunk_of_any(bare) {
                return Some((Kind::Elsewhere(family, number), name));
            }
        }
        let rest = bare.strip_prefix(&self.authorization.bare)?;
        if rest.is_empty() {
            return Some((Kind::Begun, &self.authorization));
        }
        let suffix = rest.strip_prefix('_')?;
        match suffix {
            "trail" => return Some((Kind::Trail, &self.authorization)),
            "list" => return Some((Kind::List, &self.authorization)),
            _ => {}
        }
        let (id, number) = match suffix.strip_suffix('2') {
            Some(id) if suffix.len() == 17 => (id, 2),
            _ => (suffix, 1),
        };
        let ours = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        ours.then_some((Kind::SignIn(number), &self.authorization))
    }
}

/// The cookies of one request, split once. Keeps the header values, which are cheap to clone.
#[derive(Default)]
pub(super) struct Jar {
    headers: Vec<HeaderValue>,
    ours: Vec<Entry>,
    /// Where the cookies of others stand.
    others: Vec<(usize, Range<usize>)>,
    /// Why the session's cookie is of no use.
    useless: Cell<Option<&'static str>>,
}

shared::unsaid!(Jar);

#[derive(Debug)]
struct Entry {
    kind: Kind,
    header: usize,
    name: Range<usize>,
    value: Range<usize>,
}

impl Jar {
    /// Splits the cookies of `headers`. Those that are no UTF-8 are the application's.
    pub(super) fn read(headers: &HeaderMap, names: &Names, https: bool) -> Self {
        let mut jar = Self::default();
        for header in headers.get_all(COOKIE) {
            let number = jar.headers.len();
            jar.headers.push(header.clone());
            for Cookie { whole, name, value } in split(header.as_bytes()) {
                let part = |range: &Range<usize>| header.as_bytes().get(range.clone());
                let text = std::str::from_utf8(part(&name).unwrap_or_default()).unwrap_or_default();
                match names.kind_of(text, part(&value).unwrap_or_default(), https) {
                    Some(kind) => {
                        let bare = text.strip_prefix(HOST_PREFIX).unwrap_or(text);
                        jar.ours.push(Entry {
                            kind,
                            header: number,
                            name: name.end - bare.len()..name.end,
                            value,
                        });
                    }
                    None => jar.others.push((number, whole)),
                }
            }
        }
        jar
    }

    /// The values of chunk `number`, at most five: a sibling domain may have planted some.
    pub(super) fn chunk(&self, family: Family, number: u8) -> impl Iterator<Item = &str> {
        self.ours
            .iter()
            .filter(move |entry| entry.kind == Kind::Chunk(family, number))
            .map(|entry| self.text(entry.header, &entry.value))
            .take(5)
    }

    /// The same as bytes, for those who only compare them.
    pub(super) fn chunk_bytes(&self, family: Family, number: u8) -> impl Iterator<Item = &[u8]> {
        self.ours
            .iter()
            .filter(move |entry| entry.kind == Kind::Chunk(family, number))
            .map(|entry| self.bytes(entry.header, &entry.value))
            .take(5)
    }

    /// Name, without a prefix, and value of the first cookie of every sign-in.
    pub(super) fn sign_ins(&self) -> impl Iterator<Item = (&str, &str)> {
        self.ours
            .iter()
            .filter(|entry| entry.kind == Kind::SignIn(1))
            .map(|entry| {
                (
                    self.text(entry.header, &entry.name),
                    self.text(entry.header, &entry.value),
                )
            })
    }

    /// Name, without a prefix, and value of the cookie that goes on where the first of the sign-in `first` ends.
    pub(super) fn sign_in_rest(&self, first: &str) -> Option<(&str, &str)> {
        let mut rests = self
            .ours
            .iter()
            .filter(|entry| entry.kind == Kind::SignIn(2));
        rests.find_map(|entry| {
            let name = self.text(entry.header, &entry.name);
            let value = self.text(entry.header, &entry.value);
            (name.strip_prefix(first) == Some("2")).then_some((name, value))
        })
    }

    /// The values of the cookie that says that sign-ins are under way, at most five.
    pub(super) fn begun(&self) -> impl Iterator<Item = &str> {
        self.ours
            .iter()
            .filter(|entry| entry.kind == Kind::Begun)
            .map(|entry| self.text(entry.header, &entry.value))
            .take(5)
    }

    /// The value of the cookie of sign-ins that succeeded a moment ago.
    pub(super) fn trail(&self) -> Option<&str> {
        self.first(Kind::Trail)
    }

    /// The value of the cookie of sign-ins that began a moment ago.
    pub(super) fn list(&self) -> Option<&str> {
        self.first(Kind::List)
    }

    fn first(&self, kind: Kind) -> Option<&str> {
        let entry = self.ours.iter().find(|entry| entry.kind == kind)?;
        Some(self.text(entry.header, &entry.value))
    }

    /// The numbers of the chunks that the browser holds.
    pub(super) fn chunks(&self, family: Family) -> impl Iterator<Item = u8> {
        self.ours.iter().filter_map(move |entry| match entry.kind {
            Kind::Chunk(found, number) if found == family => Some(number),
            _ => None,
        })
    }

    /// Notes why the session's cookie is of no use.
    pub(super) fn found_useless(&self, reason: &'static str) {
        self.useless.set(Some(reason));
    }

    /// Why the session's cookie was found to be of no use.
    pub(super) fn useless(&self) -> Option<&'static str> {
        self.useless.get()
    }

    /// The value of somebody else's cookie.
    pub(super) fn other(&self, name: &str) -> Option<&str> {
        self.others.iter().find_map(|(header, range)| {
            let (found, value) = self.text(*header, range).split_once('=')?;
            (found.trim_end() == name).then_some(value)
        })
    }

    /// Leaves only the cookies of others in `headers`, byte for byte, in one header.
    pub(super) fn strip(&self, headers: &mut HeaderMap, also: Option<&str>) {
        let named = |(header, range): &&(usize, Range<usize>)| {
            let cookie = self.text(*header, range);
            let name = cookie.split_once('=').map_or(cookie, |(name, _)| name);
            Some(name.trim_end()) != also
        };
        if self.ours.is_empty() && also.is_none() {
            return;
        }
        headers.remove(COOKIE);
        let mut kept = Vec::new();
        for (header, range) in self.others.iter().filter(named) {
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(self.bytes(*header, range));
        }
        if !kept.is_empty()
            && let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(kept))
        {
            headers.insert(COOKIE, value);
        }
    }

    fn text(&self, header: usize, range: &Range<usize>) -> &str {
        std::str::from_utf8(self.bytes(header, range)).unwrap_or_default()
    }

    fn bytes(&self, header: usize, range: &Range<usize>) -> &[u8] {
        let bytes = self.headers.get(header).map(HeaderValue::as_bytes);
        let found = bytes.and_then(|bytes| bytes.get(range.clone()));
        found.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;

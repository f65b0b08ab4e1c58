//! The gateway's own cookies in a request's `Cookie` header and in `Set-Cookie`.

use std::ops::Range;
use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use super::config::SameSite;

/// Characters of a chunk: with its name and attributes it stays under the 4,096 bytes that browsers
/// keep (RFC 6265bis §5.6).
pub(super) const CHUNK: usize = 3800;

/// Most chunks of a session (Kong 3.9: nine).
pub(super) const MOST_CHUNKS: u8 = 9;

/// The names that are ours.
#[derive(Debug)]
pub(super) struct Names {
    session: String,
    authorization: String,
}

/// What a cookie of ours is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A chunk of the session, counted from 1.
    Session(u8),
    /// A sign-in under way.
    SignIn,
    /// Sign-ins that succeeded a moment ago.
    Trail,
}

impl Names {
    pub(super) fn new(session: &str, authorization: &str) -> Self {
        Self {
            session: session.to_owned(),
            authorization: authorization.to_owned(),
        }
    }

    /// The session cookie's name.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// The name of a chunk, counted from 1.
    pub(super) fn chunk(&self, number: u8) -> String {
        if number == 1 {
            self.session.clone()
        } else {
            format!("{}{number}", self.session)
        }
    }

    /// The name of the cookie of the sign-in whose state hashes to `suffix`.
    pub(super) fn sign_in(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.authorization)
    }

    /// The name of the cookie of sign-ins that succeeded a moment ago.
    pub(super) fn trail(&self) -> &str {
        &self.authorization
    }

    /// What the cookie `name` is, if it is ours.
    pub(super) fn kind(&self, name: &str) -> Option<Kind> {
        if let Some(rest) = name.strip_prefix(&self.session) {
            if rest.is_empty() {
                return Some(Kind::Session(1));
            }
            if let [digit @ b'2'..=b'9'] = rest.as_bytes() {
                return Some(Kind::Session(digit - b'0'));
            }
        }
        let rest = name.strip_prefix(&self.authorization)?;
        if rest.is_empty() {
            return Some(Kind::Trail);
        }
        let suffix = rest.strip_prefix('_')?;
        let ours = suffix.len() == 16 && suffix.bytes().all(|byte| byte.is_ascii_hexdigit());
        ours.then_some(Kind::SignIn)
    }
}

/// The cookies of one request, split once. Keeps the header values, which are cheap to clone.
#[derive(Debug, Default)]
pub(super) struct Jar {
    headers: Vec<HeaderValue>,
    ours: Vec<Entry>,
    /// Where the cookies of others stand.
    others: Vec<(usize, Range<usize>)>,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    header: usize,
    name: Range<usize>,
    value: Range<usize>,
}

impl Jar {
    /// Splits the cookies of `headers`. A header that is no UTF-8 holds none of ours.
    pub(super) fn read(headers: &HeaderMap, names: &Names) -> Self {
        let mut jar = Self::default();
        for header in headers.get_all(COOKIE) {
            let number = jar.headers.len();
            jar.headers.push(header.clone());
            let Ok(text) = std::str::from_utf8(header.as_bytes()) else {
                jar.others.push((number, 0..header.len()));
                continue;
            };
            let mut start = 0;
            for segment in text.split(';') {
                let end = start + segment.len();
                let left = start + (segment.len() - segment.trim_start().len());
                let right = left + segment.trim().len();
                start = end + 1;
                if left >= right {
                    continue;
                }
                let cookie = text.get(left..right).unwrap_or_default();
                let (name, value) = cookie.split_once('=').unwrap_or((cookie, ""));
                match names.kind(name.trim_end()) {
                    Some(kind) => jar.ours.push(Entry {
                        kind,
                        header: number,
                        name: left..left + name.trim_end().len(),
                        value: right - value.len()..right,
                    }),
                    None => jar.others.push((number, left..right)),
                }
            }
        }
        jar
    }

    /// The values of chunk `number` of the session, at most five: a sibling domain may have planted
    /// some.
    pub(super) fn chunk(&self, number: u8) -> impl Iterator<Item = &str> {
        self.ours
            .iter()
            .filter(move |entry| entry.kind == Kind::Session(number))
            .map(|entry| self.text(entry.header, &entry.value))
            .take(5)
    }

    /// Name and value of every cookie of a sign-in.
    pub(super) fn sign_ins(&self) -> impl Iterator<Item = (&str, &str)> {
        self.ours
            .iter()
            .filter(|entry| entry.kind == Kind::SignIn)
            .map(|entry| {
                (
                    self.text(entry.header, &entry.name),
                    self.text(entry.header, &entry.value),
                )
            })
    }

    /// The value of the cookie of sign-ins that succeeded a moment ago.
    pub(super) fn trail(&self) -> Option<&str> {
        let entry = self.ours.iter().find(|entry| entry.kind == Kind::Trail)?;
        Some(self.text(entry.header, &entry.value))
    }

    /// The numbers of the session's chunks that the browser holds.
    pub(super) fn chunks(&self) -> impl Iterator<Item = u8> {
        self.ours.iter().filter_map(|entry| match entry.kind {
            Kind::Session(number) => Some(number),
            Kind::SignIn | Kind::Trail => None,
        })
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
            let bytes = self.headers.get(*header).map(HeaderValue::as_bytes);
            kept.extend_from_slice(
                bytes
                    .and_then(|bytes| bytes.get(range.clone()))
                    .unwrap_or_default(),
            );
        }
        if !kept.is_empty()
            && let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(kept))
        {
            headers.insert(COOKIE, value);
        }
    }

    fn text(&self, header: usize, range: &Range<usize>) -> &str {
        self.headers
            .get(header)
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
            .and_then(|text| text.get(range.clone()))
            .unwrap_or_default()
    }
}

/// The attributes of a cookie.
#[derive(Debug)]
pub(super) struct Attributes {
    pub(super) path: String,
    pub(super) domain: Option<String>,
    pub(super) same_site: SameSite,
    pub(super) http_only: bool,
    /// `None`: if the request came over TLS.
    pub(super) secure: Option<bool>,
    /// Sent across sites over TLS, although `same_site` is left at its default.
    pub(super) cross_site_over_tls: bool,
}

impl Attributes {
    /// `Set-Cookie` for `value`, kept until the browser closes.
    pub(super) fn set(&self, name: &str, value: &str, https: bool) -> HeaderValue {
        self.header(name, value, "", https)
    }

    /// `Set-Cookie` for `value`, kept for `lifetime`.
    pub(super) fn set_for(
        &self,
        name: &str,
        value: &str,
        lifetime: Duration,
        https: bool,
    ) -> HeaderValue {
        let lifetime = format!("Max-Age={}; ", lifetime.as_secs());
        self.header(name, value, &lifetime, https)
    }

    /// `Set-Cookie` that makes the browser forget `name`.
    pub(super) fn expire(&self, name: &str, https: bool) -> HeaderValue {
        self.header(
            name,
            "",
            "Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0; ",
            https,
        )
    }

    fn header(&self, name: &str, value: &str, lifetime: &str, https: bool) -> HeaderValue {
        let mut text = format!("{name}={value}; {lifetime}");
        if let Some(domain) = &self.domain {
            text.push_str("Domain=");
            text.push_str(domain);
            text.push_str("; ");
        }
        text.push_str("Path=");
        text.push_str(&self.path);
        let secure = self.secure.unwrap_or(https);
        let same_site = match self.same_site {
            SameSite::Default if self.cross_site_over_tls && secure => SameSite::None,
            other => other,
        };
        text.push_str(match same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
            SameSite::Default => "",
        });
        if secure {
            text.push_str("; Secure");
        }
        if self.http_only {
            text.push_str("; HttpOnly");
        }
        HeaderValue::from_str(&text)
            .expect("names, paths and domains were checked, values are base64url")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("session", "authorization")
    }

    fn stripped(cookies: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, HeaderValue::from_str(cookie).unwrap());
        }
        Jar::read(&headers.clone(), &names()).strip(&mut headers, None);
        let left: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert!(left.len() <= 1 || cookies.len() > 1);
        left.first().map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_our_cookies_leave_and_others_stay_byte_for_byte() {
        let check =
            |cookies: &[&str], left: Option<&str>| assert_eq!(stripped(cookies).as_deref(), left);
        check(
            &["a=1; session=x; b=\"2 3\"; session2=y"],
            Some("a=1; b=\"2 3\""),
        );
        check(&["session=x"], None);
        check(&["session=x", "a=1", "b=2"], Some("a=1; b=2"));
        check(
            &["authorization_0123456789abcdef=x; authorization=y; a=1"],
            Some("a=1"),
        );
        check(
            &["sessions=1; session1=2; session10=3; authorization_x=4; session=z"],
            Some("sessions=1; session1=2; session10=3; authorization_x=4"),
        );
        check(&["a=1;b=2"], Some("a=1;b=2"));
        check(&["flag; session=x; =odd"], Some("flag; =odd"));
    }

    #[test]
    fn every_copy_of_a_name_is_seen_but_no_more_than_five() {
        let mut headers = HeaderMap::new();
        headers.insert(
            COOKIE,
            HeaderValue::from_static(
                "session=1; session=2; session=3; session=4; session=5; session=6",
            ),
        );
        let jar = Jar::read(&headers, &names());
        assert_eq!(jar.chunk(1).collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
    }

    #[test]
    fn attributes_come_in_kongs_order() {
        let mut attributes = Attributes {
            path: "/".to_owned(),
            domain: None,
            same_site: SameSite::Lax,
            http_only: true,
            secure: None,
            cross_site_over_tls: false,
        };
        assert_eq!(
            attributes.set("session", "x", false),
            "session=x; Path=/; SameSite=Lax; HttpOnly"
        );
        attributes.domain = Some("a.example".to_owned());
        assert_eq!(
            attributes.expire("session", true),
            "session=; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0; Domain=a.example; Path=/; SameSite=Lax; Secure; HttpOnly"
        );
        attributes.same_site = SameSite::Default;
        attributes.cross_site_over_tls = true;
        assert!(
            attributes
                .set("a", "x", true)
                .to_str()
                .unwrap()
                .contains("SameSite=None; Secure")
        );
        assert!(
            !attributes
                .set("a", "x", false)
                .to_str()
                .unwrap()
                .contains("SameSite")
        );
    }
}

//! The cookies of a request, one by one.

use std::ops::Range;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// Where a cookie of a header's value stands, its name and its value.
pub(crate) struct Cookie {
    pub(crate) whole: Range<usize>,
    pub(crate) name: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// The cookies of `text`, a header's value. What has no name is one without a value.
pub(crate) fn split(text: &[u8]) -> impl Iterator<Item = Cookie> {
    let part = |range: Range<usize>| text.get(range).unwrap_or_default();
    let mut start = 0;
    let ends = memchr::memchr_iter(b';', text).chain([text.len()]);
    ends.filter_map(move |end| {
        let segment = part(start..end);
        start = end + 1;
        let left = end - segment.trim_ascii_start().len();
        let right = left + segment.trim_ascii().len();
        if left == right {
            return None;
        }
        let equals = memchr::memchr(b'=', part(left..right));
        let (name, value) = equals.map_or((right, right), |at| (left + at, left + at + 1));
        Some(Cookie {
            whole: left..right,
            name: left..left + part(left..name).trim_ascii_end().len(),
            value: value..right,
        })
    })
}

/// The cookies of one field: each whole, its name and its value.
pub(crate) fn parts(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8], &[u8])> {
    let part = |range| text.get(range).unwrap_or_default();
    split(text).map(move |Cookie { whole, name, value }| (part(whole), part(name), part(value)))
}

/// The values of every cookie `name`, in order: a sibling domain may have planted some.
pub(crate) fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let fields = headers.get_all(COOKIE).iter();
    let fields = fields.filter_map(|value| value.to_str().ok());
    fields
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// Takes the cookies with these names away; the others stay, in one field.
pub(crate) fn remove(headers: &mut HeaderMap, names: &[&str]) {
    retain(headers, |name| {
        !names.iter().any(|known| known.as_bytes() == name)
    });
}

/// Of several cookies with one of these names leaves the first: whoever reads them next reads the same one.
pub(crate) fn keep_first<'a>(headers: &mut HeaderMap, names: impl Iterator<Item = &'a str>) {
    let mut names: Vec<(&str, bool)> = names.map(|name| (name, false)).collect();
    if names.is_empty() {
        return;
    }
    retain(headers, |name| {
        let known = names.iter_mut().find(|(known, _)| known.as_bytes() == name);
        known.is_none_or(|(_, seen)| !std::mem::replace(seen, true))
    });
}

/// Takes the cookies away whose names do not stay; the others stay, in one field.
fn retain(headers: &mut HeaderMap, mut stays: impl FnMut(&[u8]) -> bool) {
    let fields: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    let cookies: Vec<_> = fields
        .iter()
        .flat_map(|field| parts(field.as_bytes()))
        .collect();
    let kept = cookies.iter().filter(|(_, name, _)| stays(name));
    let kept: Vec<&[u8]> = kept.map(|(whole, _, _)| *whole).collect();
    if kept.len() == cookies.len() {
        return;
    }
    headers.remove(COOKIE);
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(&kept.join(&b"; "[..]))
    {
        headers.insert(COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_and_taken_away_by_name() {
        let check = |fields: &[&'static str], found: &[&str], left: Option<&str>| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(COOKIE, HeaderValue::from_static(field));
            }
            assert_eq!(values(&headers, "a").collect::<Vec<_>>(), found);
            remove(&mut headers, &["a", "b"]);
            let kept = headers.get(COOKIE).map(|value| value.to_str().unwrap());
            assert_eq!(kept, left, "{fields:?}");
            assert!(headers.get_all(COOKIE).iter().count() < 2);
        };
        check(&[], &[], None);
        check(&["a=1"], &["1"], None);
        check(&["a=1; a=2;b=3"], &["1", "2"], None);
        check(&["x=1; a=2", "y=3;aa=4"], &["2"], Some("x=1; y=3; aa=4"));
        check(&["x=a=1 ;  y"], &[], Some("x=a=1 ;  y"));
    }

    #[test]
    fn of_several_cookies_with_a_name_the_first_stays() {
        for (fields, left) in [
            (
                &["a=1; x=1; a=2", "b=3; a=4; x=2"][..],
                "a=1; x=1; b=3; x=2",
            ),
            (&["x=1 ; x=2", "a=1"], "x=1 ; x=2"),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(COOKIE, HeaderValue::from_static(field));
            }
            keep_first(&mut headers, ["a", "b"].into_iter());
            assert_eq!(headers[COOKIE], left, "{fields:?}");
        }
    }
}

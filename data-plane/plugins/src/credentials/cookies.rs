//! The cookies of a request, one by one.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

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
    let is_named = |cookie: &&[u8]| {
        let name = cookie.split(|byte| *byte == b'=').next();
        let name = name.unwrap_or_default().trim_ascii();
        names.iter().any(|known| known.as_bytes() == name)
    };
    let fields: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    let cookies = || {
        let all = fields.iter().map(HeaderValue::as_bytes);
        all.flat_map(|field| field.split(|byte| *byte == b';'))
            .map(<[u8]>::trim_ascii)
            .filter(|cookie| !cookie.is_empty())
    };
    if !cookies().any(|cookie| is_named(&cookie)) {
        return;
    }
    headers.remove(COOKIE);
    let kept: Vec<&[u8]> = cookies().filter(|cookie| !is_named(cookie)).collect();
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
}

//! Normalises paths: routing and the upstream see the same form, so that the two cannot be made to disagree (RFC 3986
//! §6.2.2).

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use plugins::answer::NO_URI;
use shared::types::patterns::decode_unreserved;

/// What no path of a URL holds as it is (RFC 3986 §3.3).
const NO_PATH: &AsciiSet = &CONTROLS.union(NO_URI).add(b'#').add(b'?');

/// Percent-triplets in upper case and, for unreserved characters, decoded; what no path holds as it is encoded; dot
/// segments removed; repeated slashes merged. A `%` that begins no triplet stays. A route's prefix, which may hold
/// any character, becomes the path of a URL.
pub(crate) fn normalize(path: &str) -> Cow<'_, str> {
    if is_normal(path.as_bytes()) {
        return Cow::Borrowed(path);
    }
    let decoded = decode_unreserved(path);
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in decoded.split('/') {
        ends_open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => _ = kept.pop(),
            other => kept.push(other),
        }
    }
    let mut normal = String::with_capacity(decoded.len() + 1);
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_open || kept.is_empty() {
        normal.push('/');
    }
    Cow::Owned(utf8_percent_encode(&normal, NO_PATH).to_string())
}

/// Whether every `%` begins a triplet, and none is that of NUL: else two servers may read two paths.
pub(crate) fn is_well_formed(path: &str) -> bool {
    let bytes = path.as_bytes();
    // Nearly no path has one, and most are short.
    !bytes.contains(&b'%')
        || memchr::memchr_iter(b'%', bytes).all(|percent| {
            bytes
                .get(percent + 1..percent + 3)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00")
        })
}

/// How many bytes a text begins with that a path holds as they are, or that begin triplets.
pub(super) fn normal_length(text: &str) -> usize {
    let stays = |byte: u8| stays(byte) || byte == b'%';
    text.bytes().take_while(|byte| stays(*byte)).count()
}

const fn stays(byte: u8) -> bool {
    !matches!(
        byte,
        b'%' | b'"' | b'#' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{'..=b'}'
    ) && byte.is_ascii_graphic()
}

/// The same by a table: to look there costs less than to compare.
static STAYS: [bool; 256] = all_that_stay();

#[expect(
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "all that a constant can do, and the compiler watches"
)]
const fn all_that_stay() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    // Nothing above is graphic.
    while byte < 0x80 {
        table[byte as usize] = stays(byte);
        byte += 1;
    }
    table
}

/// Nearly every path is in its normal form: no triplet, nothing to encode, no empty or dot segment.
fn is_normal(path: &[u8]) -> bool {
    let mut before = 0;
    path.first() == Some(&b'/')
        && path.iter().all(|byte| {
            let follows = before == b'/' && matches!(byte, b'/' | b'.');
            before = *byte;
            let stays = STAYS.get(usize::from(*byte)).copied();
            stays.unwrap_or_default() && !follows
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{is_normal, is_well_formed, normalize};

    #[test]
    fn a_prefix_of_any_characters_is_the_path_of_a_url() {
        for (prefix, expected) in [
            ("/a/~b.c%2F", "/a/~b.c%2F"),
            ("/a b", "/a%20b"),
            ("/\u{e4}{x}", "/%C3%A4%7Bx%7D"),
            ("/a?b#c", "/a%3Fb%23c"),
            ("/[1]!$&'()*+,;=:@", "/[1]!$&'()*+,;=:@"),
        ] {
            assert_eq!(normalize(prefix), expected, "{prefix}");
        }
    }

    #[test]
    fn a_percent_sign_begins_a_triplet() {
        for path in ["/", "/%2f%C3%a9", "/a%20"] {
            assert!(is_well_formed(path), "{path}");
        }
        for path in ["/%", "/a%4", "/%zz", "/%00", "/a%2", "/%%32e"] {
            assert!(!is_well_formed(path), "{path}");
        }
    }

    #[test]
    fn no_spelling_gets_around_a_route() {
        for (path, expected) in [
            ("/", "/"),
            ("", "/"),
            ("a", "/a"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b//", "/a/b/"),
            ("/public/../admin", "/admin"),
            ("/public/%2e%2E/admin", "/admin"),
            ("/public/.%2e/admin", "/admin"),
            ("/a/./b/.", "/a/b/"),
            ("/a/..", "/"),
            ("/../../x", "/x"),
            ("/%61dmin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2F..%2fb", "/a%2F..%2Fb"),
            ("/%7euser", "/~user"),
            ("/a%", "/a%"),
            ("/a%zz", "/a%zz"),
            ("/a%4", "/a%4"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/a...b/..c", "/a...b/..c"),
            ("/a%20b", "/a%20b"),
            ("/a;x/../b", "/b"),
            ("/é%c3%a9", "/%C3%A9%C3%A9"),
            (r"/\d{2}|a^%7c", "/%5Cd%7B2%7D%7Ca%5E%7C"),
            (
                "/ä/a/%2e./a%2E//a/%2e/./a/../a/%2e%2E/%5f%99%af%2f%2F",
                "/%C3%A4/a./a/_%99%AF%2F%2F",
            ),
        ] {
            assert_eq!(normalize(path), expected, "{path}");
        }
    }

    #[test]
    fn what_counts_as_normal_stays_as_it_is() {
        for byte in 0..=u8::MAX {
            let path = format!("/{}", char::from(byte));
            if is_normal(path.as_bytes()) {
                let (encoded, decoded) = (super::NO_PATH, super::decode_unreserved(&path));
                let encoded = percent_encoding::utf8_percent_encode(&decoded, encoded);
                assert_eq!(encoded.to_string(), path);
            } else {
                assert!(
                    path.len() > 2 || normalize(&path) != path || path == "/%",
                    "{path}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_stays_as_it_is(path in "/[a./%2eE5F]{0,24}") {
            // `%25 2e` decodes to nothing that could be decoded again: `%` itself is reserved.
            let once = normalize(&path).into_owned();
            if !once.contains("%%") && !once.ends_with('%') {
                let twice = normalize(&once).into_owned();
                prop_assert!(twice == once || path.contains('%'), "{path} {once} {twice}");
            }
            prop_assert!(!once.contains("//") && !once.split('/').any(|segment| segment == ".."));
        }
    }
}

//! The sign-ins that a browser has begun, told by one cookie wherever they begin: their own cookies may be for the path
//! of the way back alone (`authorization_cookie_path`), and whoever does not see them cannot say how many there are.

use http::HeaderValue;
use shared::clock::UnixTime;

use super::{Id, MOST_BYTES, MOST_SIGN_INS, names_of_size, of_all};
use crate::bundled::openid_connect::cookie::{Attributes, Jar};
use crate::bundled::openid_connect::rules::Rules;
use crate::host::Host;
use crate::sessions::seal::{self, Sizes};
use crate::sessions::session_keys::KeyRing;

/// Bytes of an entry: of the id, and of how long its cookies are.
const ENTRY: usize = 10;

/// The list's cookie.
const SIZES: Sizes = Sizes {
    chunk: 512,
    most: 1,
};

/// A sign-in that has begun.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    id: Id,
    /// How long its cookies are together.
    size: u16,
}

/// What a browser is told when the sign-in `id` begins, whose cookies have `size` bytes: to forget the oldest that go
/// beyond what is kept, and which are left. Nothing where a start sees the cookies themselves.
pub(super) fn note(
    rules: &Rules,
    ring: &KeyRing,
    host: &impl Host,
    jar: &Jar,
    (id, size): (Id, usize),
    https: bool,
) -> Vec<HeaderValue> {
    let own = &rules.authorization_cookie;
    if own.path == "/" {
        return Vec::new();
    }
    let now = host.now();
    let mut entries = read(rules, ring, jar, now);
    entries.push(Entry {
        id,
        size: u16::try_from(size).unwrap_or(u16::MAX),
    });
    let kept = kept(&entries);
    let (gone, left) = entries.split_at(entries.len() - kept);
    let names = gone
        .iter()
        .flat_map(|entry| names_of_size(rules, entry.id, entry.size.into()));
    let mut cookies: Vec<_> = names.map(|name| own.expire(&name, https)).collect();
    let plaintext: Vec<u8> = left
        .iter()
        .flat_map(|entry| entry.id.into_iter().chain(entry.size.to_be_bytes()))
        .collect();
    let mut nonce = [0; 12];
    host.random(&mut nonce);
    let name = rules.names.list();
    let sealed = seal::seal(
        ring,
        &of_all(),
        name,
        &plaintext,
        SIZES,
        now.as_secs(),
        nonce,
    );
    // Without a key the sign-in has not begun.
    if let Ok(value) = sealed {
        let everywhere = Attributes {
            path: "/".to_owned(),
            // Of one name with the others, prefixes and all.
            host_prefix: false,
            ..own.clone()
        };
        let lifetime = rules.config.sign_in.authorization_rolling_timeout.limit();
        cookies.push(match lifetime {
            Some(lifetime) => everywhere.set_for(name, &value, lifetime, https),
            None => everywhere.set(name, &value, https),
        });
    }
    cookies
}

/// How many of the newest are kept.
fn kept(entries: &[Entry]) -> usize {
    let mut left = MOST_BYTES;
    let newest = entries.iter().rev().enumerate().take(MOST_SIGN_INS);
    let fits = newest.take_while(|(place, entry)| {
        let rest = left.checked_sub(entry.size.into());
        left = rest.unwrap_or_default();
        // The one that begins is let begin.
        rest.is_some() || *place == 0
    });
    fits.count()
}

fn read(rules: &Rules, ring: &KeyRing, jar: &Jar, now: UnixTime) -> Vec<Entry> {
    let opened = jar
        .list()
        .and_then(|value| seal::open(ring, &of_all(), rules.names.list(), value, now.as_secs()));
    let Some(opened) = opened else {
        return Vec::new();
    };
    let (entries, _) = opened.plaintext.as_chunks::<ENTRY>();
    let entries = entries.iter().filter_map(|entry| {
        let (id, size) = entry.split_first_chunk()?;
        let size = u16::from_be_bytes(size.try_into().ok()?);
        Some(Entry { id: *id, size })
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_17_the_newest_are_kept_within_a_bound_in_count_and_bytes() {
        let check = |count: usize, size: u16, expected: usize| {
            let entries = vec![Entry { id: [0; 8], size }; count];
            assert_eq!(kept(&entries), expected, "{count} of {size}");
        };
        check(1, 400, 1);
        check(20, 400, 20);
        check(200, 400, 20);
        check(200, 1_000, 8);
        check(3, 8_000, 1);
        check(3, 9_000, 1);
    }
}

//! A session in cookies: cut into chunks, put together again, taken back.

use http::HeaderValue;

use super::Session;
use crate::bundled::openid_connect::cookie::{CHUNK, Family, Jar, MOST_CHUNKS};
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::seal::{self, SealError, Sizes};
use crate::bundled::openid_connect::session_store;
use crate::host::Host;
use crate::sessions::session_keys::KeyRing;

/// How a session is cut into cookies.
const SIZES: Sizes = Sizes {
    chunk: CHUNK,
    most: MOST_CHUNKS,
};

impl Session {
    /// The `Set-Cookie` headers that hand this session to the browser, and those that take back the
    /// chunks of a larger one.
    pub(in crate::bundled::openid_connect) fn cookies(
        &self,
        family: Family,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        jar: &Jar,
        https: bool,
    ) -> Result<Vec<HeaderValue>, SealError> {
        let content = match &rules.storage {
            Some(_) => session_store::ticket_of(self),
            None => self.packed()?,
        };
        let mut nonce = [0; 12];
        host.random(&mut nonce);
        let name = rules.names.of(family);
        let now = host.now();
        let seconds = now.as_secs();
        let value = seal::seal(ring, &rules.binding, name, &content, SIZES, seconds, nonce)?;
        let cookie = &rules.session_cookie;
        let lifetime = match family {
            Family::Session => None,
            Family::Remember => self.remembered_for(rules, now),
        };
        let mut cookies = Vec::new();
        let mut rest = value.as_str();
        let mut number = 1;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at_checked(CHUNK).unwrap_or((rest, ""));
            let name = rules.names.chunk(family, number);
            cookies.push(match lifetime {
                None => cookie.set(&name, chunk, https),
                Some(lifetime) => cookie.set_until(&name, chunk, now, lifetime, https),
            });
            rest = after;
            number += 1;
        }
        for surplus in jar.chunks(family).filter(|held| *held >= number) {
            let name = rules.names.chunk(family, surplus);
            cookies.push(cookie.expire(&name, https));
        }
        Ok(cookies)
    }
}

/// The `Set-Cookie` headers that make the browser forget its session, every chunk of it.
pub(in crate::bundled::openid_connect) fn expired_cookies(
    rules: &Rules,
    jar: &Jar,
    https: bool,
) -> Vec<HeaderValue> {
    let mut cookies = Vec::new();
    for family in [Family::Session, Family::Remember] {
        let mut numbers: Vec<u8> = jar.chunks(family).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let name = rules.names.chunk(family, number);
            cookies.push(rules.session_cookie.expire(&name, https));
        }
    }
    cookies
}

/// The sealed values that the browser may mean, joined from its chunks: at most five, for a sibling
/// domain may have planted cookies of the same name. Copies are never mixed beyond their order.
pub(in crate::bundled::openid_connect) fn sealed_values(
    jar: &Jar,
    family: Family,
) -> impl Iterator<Item = String> {
    jar.chunk(family, 1)
        .enumerate()
        .filter_map(move |(copy, first)| {
            let chunks = seal::claimed_chunks(first).filter(|chunks| *chunks <= MOST_CHUNKS)?;
            let mut value = first.to_owned();
            for number in 2..=chunks {
                let part = jar
                    .chunk(family, number)
                    .nth(copy)
                    .or_else(|| jar.chunk(family, number).last())?;
                value.push_str(part);
                if value.len() > seal::LONGEST {
                    return None;
                }
            }
            Some(value)
        })
}

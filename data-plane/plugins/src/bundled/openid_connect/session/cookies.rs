//! A session in cookies: cut into chunks, put together again, taken back.

use http::HeaderValue;

use super::Session;
use crate::bundled::openid_connect::cookie::{CHUNK, Family, Jar, MOST_CHUNKS};
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::session_store;
use crate::host::Host;
use crate::sessions::seal::{self, SealError, Sizes};
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

/// Most values that are tried: each copy of one chunk beside each of another.
const MOST_TRIED: usize = 25;

/// Most characters of all that are tried: no more than five of the longest have.
const MOST_LOOKED_AT: usize = 5 * seal::LONGEST;

/// The sealed values that the browser may mean, joined from its chunks, those of one place first. A sibling domain may have
/// planted cookies of the same names before ours and behind them: so of each chunk each copy is tried beside each copy of the
/// others.
pub(in crate::bundled::openid_connect) fn sealed_values(
    jar: &Jar,
    family: Family,
) -> impl Iterator<Item = String> {
    let firsts = jar.chunk(family, 1).enumerate();
    let all: Vec<_> = firsts
        .filter_map(|(copy, first)| Copies::of(jar, family, copy, first))
        .collect();
    let rounds = all.iter().map(Copies::count).max().unwrap_or_default();
    let mut left = MOST_LOOKED_AT;
    (0..rounds.min(MOST_TRIED))
        .flat_map(move |round| {
            let joined = all.iter().filter_map(|copies| copies.joined(round));
            joined.collect::<Vec<_>>()
        })
        .take(MOST_TRIED)
        .map_while(move |value| {
            left = left.checked_sub(value.len())?;
            Some(value)
        })
}

/// The chunks of one value, and for each further one the copies that the browser has.
struct Copies<'a> {
    first: &'a str,
    further: Vec<Vec<&'a str>>,
}

impl<'a> Copies<'a> {
    /// What may go on where `first` ends, which is at the place `copy` among those of its name. `None`: a chunk is missing, or
    /// it claims more than there can be.
    fn of(jar: &'a Jar, family: Family, copy: usize, first: &'a str) -> Option<Self> {
        let chunks = seal::claimed_chunks(first).filter(|chunks| *chunks <= MOST_CHUNKS)?;
        let further = (2..=chunks).map(|number| {
            let mut held: Vec<_> = jar.chunk(family, number).collect();
            let place = copy.min(held.len().checked_sub(1)?);
            held.get_mut(..=place)?.rotate_right(1);
            Some(held)
        });
        Some(Self {
            first,
            further: further.collect::<Option<_>>()?,
        })
    }

    /// How many values they may be.
    fn count(&self) -> usize {
        let counts = self.further.iter().map(Vec::len);
        counts.fold(1, usize::saturating_mul)
    }

    /// The value number `round`, if it is none that nobody looks at.
    fn joined(&self, round: usize) -> Option<String> {
        let (mut chunks, mut rest) = (vec![self.first], round);
        for held in &self.further {
            chunks.push(held.get(rest % held.len())?);
            rest /= held.len();
        }
        let length: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        (rest == 0 && length <= seal::LONGEST).then(|| chunks.concat())
    }
}

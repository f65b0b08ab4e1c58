//! The cookie that all sign-ins of a browser share, under Kong's name: it says that there are some, and holds one that
//! began when there was none, for clients that keep no other cookie.
//!
//! ```text
//! mark                  there are sign-ins under way, each in a cookie of its own
//! mark.id.sign-in       and this is one of them, as its own cookie has it
//! ```
//!
//! The mark is bound to what follows it. It is bound to no plugin, for those of one host have but one cookie of this name;
//! the sign-in opens for the plugin that began it.

use shared::clock::UnixTime;
use shared::digest::sha256;

use super::{SIZES, of_all};
use crate::bundled::openid_connect::cookie::{CHUNK, Jar};
use crate::bundled::openid_connect::rules::Rules;
use crate::host::Host;
use crate::sessions::seal::{self, SealError};
use crate::sessions::session_keys::KeyRing;

/// What the mark says before what it says of the sign-in.
const BEGUN: &[u8] = b"begun";

/// How much of the digest of what follows it the mark holds.
const DIGEST: usize = 16;

/// Most characters of a mark with its points and the id.
const AROUND: usize = 128;

/// A sign-in as the cookie holds it: its id and its sealed value.
pub(super) type Held<'a> = (&'a str, &'a str);

/// The value of the cookie, which holds `sign_in` if it is short enough.
pub(super) fn value(
    rules: &Rules,
    ring: &KeyRing,
    host: &impl Host,
    sign_in: Option<Held<'_>>,
) -> Result<String, SealError> {
    let sign_in = sign_in.filter(|(_, sealed)| sealed.len() <= CHUNK - AROUND);
    let rest = sign_in.map(|(id, sealed)| format!("{id}.{sealed}"));
    let said = said(rest.as_deref());
    let mut nonce = [0; 12];
    host.random(&mut nonce);
    let (name, now) = (rules.names.begun(), host.now().as_secs());
    let mark = seal::seal(ring, &of_all(), name, &said, SIZES, now, nonce)?;
    Ok(match rest {
        Some(rest) => format!("{mark}.{rest}"),
        None => mark,
    })
}

/// The browser's cookie, if it is ours and says that sign-ins are under way.
pub(super) fn read<'a>(
    rules: &Rules,
    ring: &KeyRing,
    jar: &'a Jar,
    now: UnixTime,
) -> Option<&'a str> {
    jar.begun().find(|value| {
        let (mark, rest) = parts(value);
        let said = said(rest);
        // Nodes of the version before bind it to the plugin.
        [&of_all(), &rules.binding].into_iter().any(|binding| {
            let opened = seal::open(ring, binding, rules.names.begun(), mark, now.as_secs());
            opened.is_some_and(|opened| *opened.plaintext == said)
        })
    })
}

/// The sign-in that a value of the cookie holds.
pub(super) fn held(value: &str) -> Option<Held<'_>> {
    parts(value).1?.split_once('.')
}

fn parts(value: &str) -> (&str, Option<&str>) {
    match value.split_once('.') {
        Some((mark, rest)) => (mark, Some(rest)),
        None => (value, None),
    }
}

fn said(rest: Option<&str>) -> Vec<u8> {
    let mut said = BEGUN.to_vec();
    if let Some(rest) = rest {
        let digest = sha256(rest.as_bytes());
        said.extend(digest.iter().take(DIGEST));
    }
    said
}

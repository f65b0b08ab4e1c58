//! What the cookie of a sign-in under way says: only what its `state` does not, since a browser with many tabs sends one
//! such cookie for each.
//!
//! ```text
//! format 1 │ flags 1 │ round 1 │ digest of the state 16 │ digest of the redirect URI 8 │ seed 32 │ client 2 │ began 8
//! │ provider's epoch 8, if there is one │ length 2 and the addresses, if the state has no room for them │ the form
//! ```
//!
//! Nonce and verifier are made of the seed and the state by HKDF.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use shared::clock::UnixTime;
use shared::digest::sha256;
use subtle::ConstantTimeEq;

use super::addresses;
use crate::bundled::openid_connect::flow::Pending;
use crate::bundled::openid_connect::mark::{self, Mark};
use crate::bundled::openid_connect::rules::Rules;
use crate::sessions::session_keys::KeyRing;

/// The format that is written. What the version before wrote begins with a brace.
const FORMAT: u8 = 1;

/// A challenge was sent.
const CHALLENGED: u8 = 1;
const INTERACTIVE: u8 = 1 << 1;
const WISHED: u8 = 1 << 2;
const POSTED: u8 = 1 << 3;
/// What follows holds an epoch, addresses, a form.
const EPOCH: u8 = 1 << 4;
const ADDRESSES: u8 = 1 << 5;
const FORM: u8 = 1 << 6;
/// It ends elsewhere than where the provider leads back to. The version before does not say.
const ELSEWHERE: u8 = 1 << 7;

/// 256 bits: what RFC 7636 §7.1 recommends for a verifier.
pub(in super::super) type Seed = [u8; 32];

/// What a sign-in's cookie says.
pub(in super::super) enum Noted {
    Short(Short),
    /// All of it: the version before has begun the sign-in.
    Whole(Box<Pending>),
}

shared::unsaid!(Noted);

/// What this version writes.
pub(in super::super) struct Short {
    flags: u8,
    round: u8,
    state: [u8; 16],
    redirect_uri: [u8; 8],
    seed: Seed,
    client: u16,
    started_at: UnixTime,
    epoch: Option<u64>,
    addresses: Option<Vec<u8>>,
    form: Option<String>,
}

shared::unsaid!(Short);

impl Noted {
    /// What `plaintext` says.
    pub(super) fn read(plaintext: &[u8]) -> Option<Self> {
        if let Some((&FORMAT, rest)) = plaintext.split_first() {
            return Short::read(rest).map(Self::Short);
        }
        let mut pending: Pending = serde_json::from_slice(plaintext).ok()?;
        if pending.target.is_empty() {
            pending.target.clone_from(&pending.redirect_uri);
        }
        Some(Self::Whole(Box::new(pending)))
    }

    pub(in super::super) const fn started_at(&self) -> UnixTime {
        match self {
            Self::Short(short) => short.started_at,
            Self::Whole(pending) => pending.started_at,
        }
    }

    /// Whether the provider was told to lead back to `url`.
    pub(in super::super) fn leads_to(&self, url: &str) -> bool {
        match self {
            Self::Short(short) => short.redirect_uri == digest(url),
            Self::Whole(pending) => pending.redirect_uri == url,
        }
    }

    /// Whether the page that the sign-in is for is another than that.
    pub(in super::super) fn ends_elsewhere(&self) -> bool {
        match self {
            Self::Short(short) => short.flags & ELSEWHERE != 0,
            Self::Whole(pending) => is_elsewhere(pending),
        }
    }

    /// What its state says.
    pub(in super::super) fn mark(
        &self,
        rules: &Rules,
        ring: &KeyRing,
        now: UnixTime,
    ) -> Option<Mark> {
        match self {
            Self::Short(short) => Some(Mark {
                made_at: short.started_at,
                round: short.round,
            }),
            Self::Whole(pending) => mark::read(rules, ring, &pending.state, now),
        }
    }

    /// The sign-in, if `state` is its own.
    pub(in super::super) fn pending(
        self,
        rules: &Rules,
        ring: &KeyRing,
        state: &str,
        now: UnixTime,
    ) -> Option<Pending> {
        match self {
            Self::Short(short) => short.pending(rules, ring, state, now),
            Self::Whole(pending) => Some(*pending),
        }
    }
}

/// Whether the sign-in ends at another page than the one that the provider leads back to, which may have a query.
fn is_elsewhere(pending: &Pending) -> bool {
    page_of(&pending.target) != page_of(&pending.redirect_uri)
}

/// `url` without its query.
fn page_of(url: &str) -> &str {
    url.split_once('?').map_or(url, |(page, _)| page)
}

impl Short {
    fn read(mut rest: &[u8]) -> Option<Self> {
        let rest = &mut rest;
        let [flags, round] = take(rest)?;
        let is = |flag| flags & flag != 0;
        Some(Self {
            flags,
            round,
            state: take(rest)?,
            redirect_uri: take(rest)?,
            seed: take(rest)?,
            client: u16::from_be_bytes(take(rest)?),
            started_at: UnixTime::from_secs(u64::from_be_bytes(take(rest)?)),
            epoch: if is(EPOCH) {
                Some(u64::from_be_bytes(take(rest)?))
            } else {
                None
            },
            addresses: if is(ADDRESSES) {
                let length = usize::from(u16::from_be_bytes(take(rest)?));
                let (addresses, after) = rest.split_at_checked(length)?;
                *rest = after;
                Some(addresses.to_vec())
            } else {
                None
            },
            form: if is(FORM) {
                Some(String::from_utf8(rest.to_vec()).ok()?)
            } else {
                None
            },
        })
    }

    fn pending(self, rules: &Rules, ring: &KeyRing, state: &str, now: UnixTime) -> Option<Pending> {
        if !bool::from(self.state.ct_eq(&digest::<16>(state))) {
            return None;
        }
        let packed = self
            .addresses
            .or_else(|| mark::said(rules, ring, state, now).map(|(_, addresses)| addresses))?;
        let (redirect_uri, target, query) = addresses::unpacked(&packed)?;
        let is = |flag| self.flags & flag != 0;
        Some(Pending {
            state: state.to_owned(),
            nonce: nonce(&self.seed, state),
            verifier: is(CHALLENGED).then(|| verifier(&self.seed, state)),
            seed: self.seed,
            client: self.client.into(),
            redirect_uri,
            target,
            query,
            started_at: self.started_at,
            form: self.form,
            interactive: is(INTERACTIVE),
            wished: is(WISHED),
            posted: is(POSTED),
            epoch: self.epoch,
        })
    }
}

/// What the cookie of `pending` says, whose state was made in this `round`, and has no room for `addresses`.
pub(super) fn write(pending: &Pending, round: u8, addresses: Option<&[u8]>) -> Option<Vec<u8>> {
    let flags = [
        (CHALLENGED, pending.verifier.is_some()),
        (INTERACTIVE, pending.interactive),
        (WISHED, pending.wished),
        (POSTED, pending.posted),
        (EPOCH, pending.epoch.is_some()),
        (ADDRESSES, addresses.is_some()),
        (FORM, pending.form.is_some()),
        (ELSEWHERE, is_elsewhere(pending)),
    ];
    let set = flags.iter().filter(|(_, is)| *is);
    let mut said = vec![FORMAT, set.fold(0, |all, (flag, _)| all | flag), round];
    said.extend(digest::<16>(&pending.state));
    said.extend(digest::<8>(&pending.redirect_uri));
    said.extend(pending.seed);
    said.extend(u16::try_from(pending.client).ok()?.to_be_bytes());
    said.extend(pending.started_at.as_secs().to_be_bytes());
    said.extend(pending.epoch.into_iter().flat_map(u64::to_be_bytes));
    if let Some(addresses) = addresses {
        said.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
        said.extend(addresses);
    }
    said.extend(pending.form.iter().flat_map(|form| form.bytes()));
    Some(said)
}

/// The nonce of the sign-in with this seed and state.
pub(in super::super) fn nonce(seed: &Seed, state: &str) -> String {
    derived(seed, state, "nonce")
}

/// Its code verifier.
pub(in super::super) fn verifier(seed: &Seed, state: &str) -> String {
    derived(seed, state, "verifier")
}

/// HKDF-SHA256 (RFC 5869), as base64url.
fn derived(seed: &Seed, state: &str, of: &str) -> String {
    let info = [b"wardgate sign-in 1 ".as_slice(), of.as_bytes()];
    let key = Salt::new(HKDF_SHA256, state.as_bytes()).extract(seed);
    let mut derived = [0; 32];
    key.expand(&info, Length)
        .and_then(|material| material.fill(&mut derived))
        .expect("32 bytes are within what HKDF can make");
    URL_SAFE_NO_PAD.encode(derived)
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

/// The first `N` bytes of SHA-256.
fn digest<const N: usize>(text: &str) -> [u8; N] {
    *sha256(text.as_bytes())
        .first_chunk()
        .expect("SHA-256 has 32 bytes")
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

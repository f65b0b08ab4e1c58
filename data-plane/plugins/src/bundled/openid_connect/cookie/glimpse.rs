//! The cookies of one request at a glance.

use super::{Family, Kind, Names};
use crate::credentials::cookies::{Cookie, split};

/// The cookies of one request at a glance: its only header, where it is plain which of them are ours.
#[derive(Default)]
pub(in super::super) struct Glimpse<'a> {
    /// The chunks of the session, the first at place 0.
    chunks: [Option<&'a [u8]>; 9],
    /// Those of others, byte for byte, if any of ours is among them.
    pub(in super::super) others: Option<Vec<u8>>,
}

shared::unsaid!(Glimpse<'a>);

impl<'a> Glimpse<'a> {
    /// Looks at the cookies of `text`. `None`: it takes more than a look.
    pub(in super::super) fn of(text: &'a [u8], names: &Names, https: bool) -> Option<Self> {
        let mut found = Self::default();
        let mut others = Vec::new();
        let mut ours = false;
        for Cookie { whole, name, value } in split(text) {
            let name = std::str::from_utf8(text.get(name)?).ok()?;
            let kind = names.kind_of(name, text.get(value.clone())?, https);
            ours |= kind.is_some();
            // A code that comes back from the provider is nobody's to see but the whole look's, which also forgets a
            // sign-in once its session is used.
            if matches!(kind, Some(Kind::SignIn(_) | Kind::Trail)) {
                return None;
            }
            if let Some(Kind::Chunk(Family::Session, number)) = kind {
                let chunk = found.chunks.get_mut(usize::from(number).checked_sub(1)?)?;
                // A sibling domain may have planted one of them.
                if chunk.replace(text.get(value)?).is_some() {
                    return None;
                }
                continue;
            }
            let cookie = text.get(whole)?;
            // Any other byte decides on the whole header.
            if !cookie.is_ascii() {
                return None;
            }
            if kind.is_none() {
                if !others.is_empty() {
                    others.extend_from_slice(b"; ");
                }
                others.extend_from_slice(cookie);
            }
        }
        found.others = ours.then_some(others);
        Some(found)
    }

    /// How long all chunks of the session are together.
    pub(in super::super) fn length(&self) -> usize {
        self.chunks.iter().flatten().map(|chunk| chunk.len()).sum()
    }

    /// The value of chunk `number` of the session.
    pub(in super::super) fn chunk(&self, number: u8) -> Option<&'a [u8]> {
        let place = usize::from(number).checked_sub(1)?;
        self.chunks.get(place).copied().flatten()
    }
}

//! Where cookies stand in a header's value; those of one request at a glance.

use std::ops::Range;

use super::{Family, Kind, Names};

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
            // A code that comes back from the provider is nobody's to see but the whole look's.
            if matches!(kind, Some(Kind::SignIn(_))) {
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

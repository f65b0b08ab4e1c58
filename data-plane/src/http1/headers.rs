//! The fields of a message in one of two forms: as they came, or as values that can be changed.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::fields::{Fields, shared};
use super::kind::Kind;

/// The fields of a message.
#[derive(Debug)]
pub(crate) enum Headers {
    /// As they came.
    Raw(Fields),
    /// As values.
    Map(HeaderMap),
}

impl Headers {
    /// As values, from now on.
    pub(crate) fn map(&mut self) -> &mut HeaderMap {
        if let Self::Raw(fields) = self {
            *self = Self::Map(fields.to_map(HeaderMap::new(), shared));
        }
        match self {
            Self::Map(map) => map,
            Self::Raw(_) => unreachable!("they have just become values"),
        }
    }

    /// As values.
    pub(crate) fn into_map(self) -> HeaderMap {
        match self {
            Self::Raw(fields) => fields.to_map(HeaderMap::new(), shared),
            Self::Map(map) => map,
        }
    }

    /// To look at.
    pub(crate) const fn view(&self) -> View<'_> {
        match self {
            Self::Raw(fields) => View::Raw(fields),
            Self::Map(map) => View::Map(map),
        }
    }

    /// Whether there is a field `name`, which is of `kind`.
    pub(crate) fn has(&self, kind: Kind, name: &HeaderName) -> bool {
        match self {
            Self::Raw(fields) => fields.has(kind),
            Self::Map(map) => map.contains_key(name),
        }
    }
}

/// The same, to look at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View<'a> {
    /// As they came.
    Raw(&'a Fields),
    /// As values.
    Map(&'a HeaderMap),
}

impl<'a> View<'a> {
    /// All values of the field `name`.
    pub(crate) fn values(self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let (raw, map) = match self {
            View::Raw(fields) => (Some(fields.called(name)), None),
            View::Map(map) => (None, Some(map.get_all(name).iter())),
        };
        let map = map.into_iter().flatten().map(HeaderValue::as_bytes);
        raw.into_iter().flatten().chain(map)
    }

    /// All fields as values.
    pub(crate) fn map(self) -> Cow<'a, HeaderMap> {
        match self {
            View::Raw(fields) => Cow::Owned(fields.to_map(HeaderMap::new(), shared)),
            View::Map(map) => Cow::Borrowed(map),
        }
    }

    /// Whether there is a field `name`.
    pub(crate) fn has(self, name: &HeaderName) -> bool {
        self.values(name).next().is_some()
    }
}

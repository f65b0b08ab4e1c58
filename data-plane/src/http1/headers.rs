//! The fields of a message in one of two forms: as they came, or as values that can be changed.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use plugins::glance::{self, Made, Usual};

use super::fields::{self, Fields, shared};
use super::kind::Kind;

/// The fields of a message.
pub(crate) enum Headers {
    /// As they came.
    Raw(Fields),
    /// As values.
    Map(HeaderMap),
}

shared::unsaid!(Headers);

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
        self.view().has(kind, name)
    }
}

/// How many bytes the lines of `headers` take.
pub(crate) fn written_length(headers: &HeaderMap) -> usize {
    let lengths = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    lengths.sum()
}

/// The same, to look at.
#[derive(Clone, Copy)]
pub(crate) enum View<'a> {
    /// As they came.
    Raw(&'a Fields),
    /// As values.
    Map(&'a HeaderMap),
}

shared::unsaid!(View<'a>);

impl<'a> View<'a> {
    /// All values of the field `name`, which is of `kind`.
    pub(crate) fn values(self, kind: Kind, name: &'a HeaderName) -> Values<'a> {
        match self {
            View::Raw(fields) => Values::Raw(fields.called(kind, name)),
            View::Map(map) => Values::Map(map.get_all(name).into_iter()),
        }
    }

    /// The value of the field `name`, which alone is of `kind`, if there is one such field.
    pub(crate) fn sole(self, kind: Kind, name: &'a HeaderName) -> Option<&'a [u8]> {
        match self {
            View::Raw(fields) => fields.sole(kind),
            View::Map(_) => match glance::Value::of(self.values(kind, name)) {
                glance::Value::Sole(value) => Some(value),
                glance::Value::Missing | glance::Value::Repeated => None,
            },
        }
    }

    /// All fields as values.
    pub(crate) fn map(self) -> Cow<'a, HeaderMap> {
        match self {
            View::Raw(fields) => Cow::Owned(fields.to_map(HeaderMap::new(), shared)),
            View::Map(map) => Cow::Borrowed(map),
        }
    }

    /// Whether there may be a field of one of `kinds`, all of which the gateway has to know.
    pub(crate) const fn may_have(self, kinds: Kind) -> bool {
        match self {
            View::Raw(fields) => fields.has(kinds),
            View::Map(_) => true,
        }
    }

    /// Whether there is a field `name`, which is of `kind`.
    pub(crate) fn has(self, kind: Kind, name: &'a HeaderName) -> bool {
        // Nearly always this is all it takes.
        (kind == Kind::OTHER || self.may_have(kind)) && self.values(kind, name).next().is_some()
    }
}

impl glance::Fields for View<'_> {
    fn value<'a>(&'a self, name: &'a HeaderName) -> glance::Value<'a> {
        glance::Value::of(self.values(Kind::of(name), name))
    }

    fn usual(&self, field: Usual) -> glance::Value<'_> {
        match self {
            View::Raw(fields) => glance::Value::of(fields.of(kind_of(field))),
            View::Map(map) => map.usual(field),
        }
    }

    fn bring_token(&self) -> bool {
        match self {
            View::Raw(fields) => fields.has(Kind::TOKEN),
            View::Map(map) => map.bring_token(),
        }
    }

    fn made(&self, field: Usual) -> Option<&Made> {
        match self {
            View::Raw(fields) => fields.made(kind_of(field)),
            View::Map(_) => None,
        }
    }
}

/// The kind that no other field is of.
const fn kind_of(field: Usual) -> Kind {
    match field {
        Usual::Authorization => Kind::AUTHORIZATION,
        Usual::ContentType => Kind::CONTENT_TYPE,
        Usual::Cookie => Kind::COOKIE,
    }
}

/// Values of a field.
#[derive(Debug)]
pub(crate) enum Values<'a> {
    /// Of fields as they came.
    Raw(fields::Values<'a>),
    /// Of a map.
    Map(http::header::ValueIter<'a, HeaderValue>),
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Values::Raw(values) => values.next(),
            Values::Map(values) => values.next().map(HeaderValue::as_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use plugins::glance::Fields as _;

    use super::*;

    #[test]
    fn a_token_beside_authorization_is_seen_in_either_form() {
        let check = |lines: &str, expected: bool| {
            let mut headers = Headers::Raw(Fields::read(lines).unwrap());
            assert_eq!(
                headers.view().bring_token(),
                expected,
                "{lines:?} as it came"
            );
            headers.map();
            assert_eq!(
                headers.view().bring_token(),
                expected,
                "{lines:?} as values"
            );
        };
        check("Access-Token: a\r\n", true);
        check("A: b\r\nX-ACCESS-TOKEN: a\r\n", true);
        check("X_Access_Token: a\r\nAuthorization: Bearer a\r\n", false);
    }
}

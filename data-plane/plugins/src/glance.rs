//! Requests that need no more than a glance: what they bring was verified before, and nothing is due for them. Such a
//! request is never taken apart.
//!
//! What a filter says at a glance it would say of the whole request too. Whatever is not plain to see it leaves to
//! [`Filter::on_request`](crate::filter::Filter::on_request), which alone refuses, asks and renews.

use std::any::Any;
use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::rc::Rc;

use http::header::{self, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::environment::Environment;
use crate::exchange::{Client, Identity, Matched};
use crate::sessions::tenure::Tenure;

/// A request as it came, without the fields that no client may set. Nothing else of it was changed.
#[derive(Clone, Copy)]
pub struct Glance<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path in the one normalised form that routing used, without the query.
    pub path: &'a str,
    /// Its query.
    pub query: Option<&'a str>,
    /// Who asked, over what.
    pub client: &'a Client,
    /// Its header fields.
    pub fields: &'a dyn Fields,
    /// The parts of the snapshot that filters may look things up in.
    pub environment: &'a Environment,
    /// The route that it has matched.
    pub matched: &'a Matched,
}

impl fmt::Debug for Glance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Glance").finish_non_exhaustive()
    }
}

/// What a filter can tell of requests by a look, the least first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Looks {
    /// Nothing: it is shown each of them whole.
    Never,
    /// That one goes on, but one that does counts: filters behind must not ask to be shown it after all.
    Counting,
    /// That one goes on; if not, nothing has come of the look.
    Sometimes,
    /// That any goes on.
    Always,
}

impl Looks {
    /// Whether a look may be enough for all of `filters`, in the order of their turns.
    pub fn are_enough(filters: impl Iterator<Item = Self>) -> bool {
        let mut counted = false;
        let mut all = filters;
        all.all(|looks| match looks {
            Self::Never => false,
            Self::Sometimes => !counted,
            Self::Counting => !std::mem::replace(&mut counted, true),
            Self::Always => true,
        })
    }
}

/// The fields of a head, to look at.
pub trait Fields {
    /// The value of the field `name`, if it is there once.
    fn value<'a>(&'a self, name: &'a HeaderName) -> Value<'a>;

    /// The same of a field that many requests are asked for.
    fn usual(&self, field: Usual) -> Value<'_> {
        self.value(field.name())
    }

    /// Whether there is any field of [`TOKEN_HEADERS`].
    fn bring_token(&self) -> bool {
        let there = |name| !matches!(self.value(name), Value::Missing);
        TOKEN_HEADERS.iter().any(there)
    }

    /// What was made of the value of such a field, if that is there once and came before by the same connection.
    fn made(&self, _field: Usual) -> Option<&Made> {
        None
    }
}

/// Fields other than `Authorization` that may carry a bearer token (Kong 3.9).
pub static TOKEN_HEADERS: [HeaderName; 2] = [
    HeaderName::from_static("access-token"),
    HeaderName::from_static("x-access-token"),
];

/// A field that many requests are asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Usual {
    /// `Authorization`.
    Authorization,
    /// `Content-Type`.
    ContentType,
    /// `Cookie`.
    Cookie,
}

impl Usual {
    fn name(self) -> &'static HeaderName {
        static NAMES: [HeaderName; 3] = [header::AUTHORIZATION, header::CONTENT_TYPE, COOKIE];
        let [authorization, content_type, cookie] = &NAMES;
        match self {
            Self::Authorization => authorization,
            Self::ContentType => content_type,
            Self::Cookie => cookie,
        }
    }
}

/// What a filter has made of a value: kept with the value, and for as long as a connection brings the very same again.
#[derive(Default)]
pub struct Made(RefCell<Option<(u64, Rc<dyn Any>)>>);

shared::unsaid!(Made);

impl Made {
    /// What `maker` has made of it last, if nobody else has made anything since.
    pub fn find<T: 'static>(&self, maker: u64) -> Option<Rc<T>> {
        let made = self.0.borrow();
        let (_, made) = made.as_ref().filter(|(by, _)| *by == maker)?;
        Rc::clone(made).downcast().ok()
    }

    /// Keeps what `maker` has made of it.
    pub fn keep<T: 'static>(&self, maker: u64, made: Rc<T>) {
        *self.0.borrow_mut() = Some((maker, made));
    }
}

/// What a head has under a name.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// Nothing.
    Missing,
    /// One field with this value.
    Sole(&'a [u8]),
    /// More than one field.
    Repeated,
}

shared::unsaid!(Value<'a>);

impl<'a> Value<'a> {
    /// What the fields are that have these `values`.
    pub fn of(mut values: impl Iterator<Item = &'a [u8]>) -> Self {
        match (values.next(), values.next()) {
            (None, _) => Self::Missing,
            (Some(value), None) => Self::Sole(value),
            (Some(_), Some(_)) => Self::Repeated,
        }
    }
}

impl Fields for HeaderMap {
    fn value<'a>(&'a self, name: &'a HeaderName) -> Value<'a> {
        Value::of(self.get_all(name).iter().map(HeaderValue::as_bytes))
    }
}

/// What a request goes on with after a glance.
#[derive(Default)]
pub struct Pass {
    /// Who it comes from, if anybody has looked.
    pub known: Option<Rc<Known>>,
    /// Fields that go upstream beside those that came, none of which has such a name.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// What is left of its cookies, in place of what came. None of them is, if this is empty.
    pub cookies: Option<Rc<[u8]>>,
    /// Headers to put on the response, whoever answers.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// What the request goes on by, for as long as what it begins lasts.
    pub tenure: Option<Rc<Tenure>>,
}

impl Pass {
    /// Notes who the request comes from. `None` where what goes upstream of that has the name of a field that is to
    /// go upstream already.
    pub(crate) fn admit(&mut self, known: Rc<Known>) -> Option<()> {
        let is_set = |name: &HeaderName| self.fields.iter().any(|(set, _)| set == name);
        let set = known.fields.iter().map(|(name, _)| name);
        if set.chain(&known.removed).any(is_set) {
            return None;
        }
        self.known = Some(known);
        Some(())
    }

    /// What `request` has under `name` as it goes upstream so far.
    pub(crate) fn value<'a>(&'a self, request: &Glance<'a>, name: &'a HeaderName) -> Value<'a> {
        let known = self.known.as_deref();
        let put = known.map_or(&[][..], |known| &known.fields);
        let mut put = put.iter().chain(&self.fields);
        if let Some((_, value)) = put.find(|(put, _)| put == name) {
            return Value::Sole(value.as_bytes());
        }
        let is_removed = known.is_some_and(|known| known.removed.contains(name));
        match self.cookies.as_deref().filter(|_| *name == COOKIE) {
            Some([]) => Value::Missing,
            Some(left) => Value::Sole(left),
            None if is_removed => Value::Missing,
            None => request.fields.value(name),
        }
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").finish_non_exhaustive()
    }
}

/// Somebody whose requests go on, and what goes upstream of that: made once for all of them.
pub struct Known {
    /// Who it is.
    pub identity: Identity,
    /// Fields of a request that do not go upstream as they came, beside those that are filters' alone to set.
    pub removed: Vec<HeaderName>,
    /// Fields that do in their place, each once.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The same as lines of a message, once they were written.
    lines: OnceCell<Box<[u8]>>,
}

impl Known {
    /// Somebody of this `identity`, whose requests go upstream without the fields that are `removed`, and with `fields`.
    pub const fn new(
        identity: Identity,
        removed: Vec<HeaderName>,
        fields: Vec<(HeaderName, HeaderValue)>,
    ) -> Self {
        Self {
            identity,
            removed,
            fields,
            lines: OnceCell::new(),
        }
    }

    /// The fields as lines, which `write` writes once.
    pub fn lines(&self, write: impl FnOnce(&[(HeaderName, HeaderValue)]) -> Box<[u8]>) -> &[u8] {
        self.lines.get_or_init(|| write(&self.fields))
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The fields hold tokens.
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Looks::{Always, Counting, Never, Sometimes};
    use super::*;

    #[test]
    fn nobody_behind_one_that_counts_asks_to_be_shown_the_request() {
        for (looks, enough) in [
            (&[][..], true),
            (&[Sometimes, Always, Sometimes], true),
            (&[Sometimes, Never], false),
            (&[Sometimes, Counting, Always], true),
            (&[Counting, Sometimes], false),
            (&[Counting, Always, Counting], false),
        ] {
            let found = Looks::are_enough(looks.iter().copied());
            assert_eq!(found, enough, "{looks:?}");
        }
    }
}

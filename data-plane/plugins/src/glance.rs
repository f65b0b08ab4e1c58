//! Requests that need no more than a look: they bring what was judged before, and nothing about them is due. Such a
//! request is never taken apart.
//!
//! What a filter says at a glance it would say of the whole request too. Whatever is not plain to see it leaves to
//! [`Filter::on_request`](crate::filter::Filter::on_request), which alone refuses, asks and renews.

use std::fmt;
use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::environment::Environment;
use crate::exchange::Identity;
use crate::tenure::Tenure;

/// A request as it came, before anything of it was changed.
#[derive(Clone, Copy)]
pub struct Glance<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path in the one normalised form that routing used, without the query.
    pub path: &'a str,
    /// Its query.
    pub query: Option<&'a str>,
    /// Whether the client spoke TLS.
    pub https: bool,
    /// Its header fields.
    pub fields: &'a dyn Fields,
    /// The parts of the snapshot that filters may look things up in.
    pub environment: &'a Environment,
}

impl fmt::Debug for Glance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Glance").finish_non_exhaustive()
    }
}

/// The fields of a head, to look at.
pub trait Fields {
    /// The value of the field `name`, if it is there once.
    fn value<'a>(&'a self, name: &'a HeaderName) -> Value<'a>;
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

/// A request that goes on after a glance.
#[derive(Default)]
pub struct Pass {
    /// Who it comes from, if anybody has looked.
    pub known: Option<Rc<Known>>,
    /// What is left of its cookies, in place of what came. None of them is, if this is empty.
    pub cookies: Option<Vec<u8>>,
    /// Headers to put on the response, whoever answers.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// What the request goes on by, for as long as what it begins lasts.
    pub tenure: Option<Rc<Tenure>>,
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
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The fields hold tokens.
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

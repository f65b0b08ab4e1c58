//! The entries that share a host and a path prefix, by what else distinguishes them: the value of a header field, or
//! the server name. So routes that differ in nothing else are found by a hash, too.

use std::borrow::Cow;
use std::collections::HashMap;

use http::HeaderName;

use super::Asked;
use super::entry::Entry;
use crate::http1::kind::Kind;

/// Entries by their places, each part in order of rank.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Those that nothing of the below holds.
    plain: Vec<usize>,
    /// Most lists have none.
    told_apart: Option<Box<ToldApart>>,
}

#[derive(Debug, Default)]
struct ToldApart {
    /// By a field and its value, in lower case.
    headers: HashMap<HeaderName, HashMap<Box<[u8]>, Vec<usize>>>,
    /// Those for requests without TLS only.
    without_tls: Vec<usize>,
    /// By the server name.
    names: HashMap<Box<str>, Vec<usize>>,
}

impl List {
    /// Adds the entry at `place`, which is behind all that are there.
    pub(super) fn add(&mut self, place: usize, entry: &Entry) {
        if let Some((name, values)) = entry.header() {
            let told_apart = self.told_apart.get_or_insert_default();
            let by_value = told_apart.headers.entry(name.clone()).or_default();
            for value in values {
                push(
                    by_value
                        .entry(value.to_ascii_lowercase().into())
                        .or_default(),
                    place,
                );
            }
        } else if let Some(names) = entry.exact_names() {
            let told_apart = self.told_apart.get_or_insert_default();
            for name in names {
                push(told_apart.names.entry(name.into()).or_default(), place);
            }
        } else if entry.is_without_tls() {
            let told_apart = self.told_apart.get_or_insert_default();
            push(&mut told_apart.without_tls, place);
        } else {
            push(&mut self.plain, place);
        }
    }

    /// Calls `look` with each part that may hold an entry for what is asked.
    pub(super) fn search(&self, asked: &Asked<'_>, mut look: impl FnMut(&[usize])) {
        look(&self.plain);
        let Some(told_apart) = &self.told_apart else {
            return;
        };
        if !asked.https {
            look(&told_apart.without_tls);
        }
        if let Some(places) = asked
            .server_name
            .and_then(|name| told_apart.names.get(name))
        {
            look(places);
        }
        // However many routes there are, they look at few fields.
        for (name, by_value) in &told_apart.headers {
            for value in asked.headers.values(Kind::of(name), name) {
                if let Some(places) = by_value.get(&*lower(value)) {
                    look(places);
                }
            }
        }
    }
}

/// A route may name a host or a value twice.
fn push(places: &mut Vec<usize>, place: usize) {
    if places.last() != Some(&place) {
        places.push(place);
    }
}

fn lower(value: &[u8]) -> Cow<'_, [u8]> {
    if value.iter().any(u8::is_ascii_uppercase) {
        Cow::Owned(value.to_ascii_lowercase())
    } else {
        Cow::Borrowed(value)
    }
}

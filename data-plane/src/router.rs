//! The route that a request belongs to, in the order of precedence of Kong 3.9's
//! `traditional_compatible` router.
//!
//! Compiled once: a route with several paths becomes one entry per path, entries are sorted by rank,
//! and an index by host and path prefix leaves few of them to look at. Each list of the index is in
//! order of rank, so the first match of a list is its best one, and the best of these wins.

mod entry;
pub(crate) mod normalize;
#[cfg(test)]
mod tests;
pub(crate) mod upstream_path;

use std::collections::HashMap;

use http::{HeaderMap, Method};
use shared::entity::Route;

use self::entry::{Entry, HostRule, PathRule, entries};

/// What of a request decides about its route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    /// In the one normalised form, without the query.
    pub(crate) path: &'a str,
    /// Host and perhaps port, in lower case.
    pub(crate) authority: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// The name in the TLS handshake; `None` without TLS.
    pub(crate) server_name: Option<&'a str>,
    /// Whether the client speaks TLS.
    pub(crate) https: bool,
}

/// The route that was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Found {
    /// Its place in the list that the router was compiled from.
    pub(crate) route: usize,
    /// How many bytes of the path it matched, if it looks at the path.
    pub(crate) matched: Option<usize>,
}

/// A field of a route that cannot be compiled.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct RouteFault {
    /// The route's place in the list.
    pub(crate) route: usize,
    /// The field's name.
    pub(crate) field: &'static str,
    /// What is wrong.
    pub(crate) message: String,
}

/// All routes, ready to be searched.
#[derive(Debug, Default)]
pub(crate) struct Router {
    /// Best rank first.
    entries: Vec<Entry>,
    /// Entries by exact host, with or without port.
    hosts: HashMap<Box<str>, Bucket>,
    /// Entries by host pattern.
    patterns: Vec<(HostRule, Bucket)>,
    /// Entries for any host.
    anywhere: Bucket,
    /// Whether any host is configured with a port.
    ports: bool,
}

/// Entries of one host, by path. Every list is in order of rank.
#[derive(Debug, Default)]
struct Bucket {
    prefixes: HashMap<Box<str>, Vec<usize>>,
    /// The distinct lengths of `prefixes`.
    lengths: Vec<usize>,
    /// Entries with a regular expression or without a path.
    others: Vec<usize>,
}

impl Router {
    /// Compiles `routes`; a found route is named by its place among them.
    pub(crate) fn compile(routes: &[&Route]) -> Result<Self, Vec<RouteFault>> {
        let mut faults = Vec::new();
        let mut all: Vec<Entry> = Vec::new();
        for (number, route) in routes.iter().enumerate() {
            all.extend(entries(number, route, &mut faults));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        all.sort_by(|a, b| b.rank.cmp(&a.rank));
        let mut compiled = Self::default();
        for (index, entry) in all.iter().enumerate() {
            if entry.hosts.is_empty() {
                compiled.anywhere.add(index, &entry.path);
            }
            for host in &entry.hosts {
                compiled.ports |= host.port().is_some();
                if let Some(exact) = host.exact() {
                    compiled
                        .hosts
                        .entry(exact.into())
                        .or_default()
                        .add(index, &entry.path);
                } else if let Some((_, bucket)) = compiled
                    .patterns
                    .iter_mut()
                    .find(|(known, _)| known == host)
                {
                    bucket.add(index, &entry.path);
                } else {
                    let mut bucket = Bucket::default();
                    bucket.add(index, &entry.path);
                    compiled.patterns.push((host.clone(), bucket));
                }
            }
        }
        compiled.entries = all;
        Ok(compiled)
    }

    /// The best route for what is asked.
    pub(crate) fn find(&self, asked: &Asked<'_>) -> Option<Found> {
        let mut best = None;
        let (host, port) = split_port(asked.authority);
        if !self.hosts.is_empty() {
            self.search(self.hosts.get(host), asked, &mut best);
            if self.ports {
                let implied = if asked.https { "443" } else { "80" };
                let with_port = format!("{host}:{}", port.unwrap_or(implied));
                self.search(self.hosts.get(with_port.as_str()), asked, &mut best);
            }
        }
        for (pattern, bucket) in &self.patterns {
            if pattern.matches(host, port, asked.https) {
                self.search(Some(bucket), asked, &mut best);
            }
        }
        self.search(Some(&self.anywhere), asked, &mut best);
        best.map(|(_, found)| found)
    }

    fn search(
        &self,
        bucket: Option<&Bucket>,
        asked: &Asked<'_>,
        best: &mut Option<(usize, Found)>,
    ) {
        let Some(bucket) = bucket else { return };
        for length in &bucket.lengths {
            if let Some(prefix) = asked.path.get(..*length)
                && let Some(list) = bucket.prefixes.get(prefix)
            {
                self.first(list, asked, best);
            }
        }
        self.first(&bucket.others, asked, best);
    }

    fn first(&self, list: &[usize], asked: &Asked<'_>, best: &mut Option<(usize, Found)>) {
        for index in list {
            if best.is_some_and(|(known, _)| known <= *index) {
                return;
            }
            let Some(entry) = self.entries.get(*index) else {
                continue;
            };
            if let Some(found) = entry.matches(asked) {
                *best = Some((*index, found));
                return;
            }
        }
    }
}

impl Bucket {
    fn add(&mut self, index: usize, path: &PathRule) {
        let list = match path {
            PathRule::Prefix(prefix) => {
                if !self.lengths.contains(&prefix.len()) {
                    self.lengths.push(prefix.len());
                }
                self.prefixes.entry(prefix.clone()).or_default()
            }
            PathRule::Any | PathRule::Regex(_) => &mut self.others,
        };
        // A route may name a host twice.
        if list.last() != Some(&index) {
            list.push(index);
        }
    }
}

/// Host and port of an authority. A bracketed IPv6 address keeps its brackets.
pub(crate) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            // The last group of a bare IPv6 address is no port.
            if host.contains(':') && !host.ends_with(']') {
                (authority, None)
            } else {
                (host, Some(port))
            }
        }
        _ => (authority.strip_suffix(':').unwrap_or(authority), None),
    }
}

//! The route that a request belongs to, in the order of precedence of Kong 3.9's
//! `traditional_compatible` router.
//!
//! Compiled once: a route with several paths becomes one entry per path, entries are sorted by rank,
//! and an index by host and path leaves few of them to look at: exact hosts by hash, wildcards by hash
//! of each run of labels, then paths by hash of each prefix that any of the host's routes begins with.
//! A regular expression is found by the text that it begins with. What is left is told apart by a header's
//! value or the server name. Each list of the index is in order of rank, so the first match of a list is its
//! best one, and the best of these wins.

mod entry;
mod list;
pub(crate) mod normalize;
#[cfg(test)]
mod tests;
pub(crate) mod upstream_path;

use std::sync::Arc;

use foldhash::HashMap;
use http::Method;
use plugins::exchange::Captures;
use shared::authority::{bare, split_port};
use shared::entity::Route;

use self::entry::{Entry, HostPattern, PathRule, Rank, entries};
use self::list::List;
use crate::compile::room::Room;
use crate::http1::headers::View;

/// What of a request decides about its route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    /// In the one normalised form, without the query.
    pub(crate) path: &'a str,
    /// The same with characters in the place of percent-triplets, where it has some and that is text.
    pub(crate) readable: Option<&'a str>,
    /// Host and perhaps port, in lower case.
    pub(crate) authority: &'a str,
    pub(crate) headers: View<'a>,
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
    /// Which of the route's entries matched.
    entry: usize,
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
    /// Those that were compiled together.
    whole: Arc<Index>,
    /// How many these are.
    count: usize,
    /// Those that have changed since; none most of the time.
    newer: Option<Newer>,
}

/// Routes that have changed since all were compiled: a search looks at both.
#[derive(Debug)]
struct Newer {
    /// Which of the whole are gone or look different now: one bit for each.
    gone: Box<[u64]>,
    index: Index,
}

/// Routes by what they match.
#[derive(Debug, Default)]
struct Index {
    /// Best rank first.
    entries: Vec<Entry>,
    /// Entries by exact host.
    hosts: HashMap<Box<str>, Ported>,
    /// Entries by what a host must end with: `.example.com`.
    endings: HashMap<Box<str>, Ported>,
    /// Entries by what a host must begin with: `example.`.
    beginnings: HashMap<Box<str>, Ported>,
    /// Entries for any host.
    anywhere: Bucket,
}

/// Entries of one host pattern, by port.
#[derive(Debug, Default)]
struct Ported {
    any: Bucket,
    ports: Vec<(Box<str>, Bucket)>,
}

/// Entries by path. Every list is in order of rank.
#[derive(Debug, Default)]
struct Bucket {
    /// By the text that a path must begin with.
    prefixes: HashMap<Box<str>, List>,
    /// The distinct lengths of `prefixes`.
    lengths: Vec<usize>,
    /// Entries that say nothing of how a path begins.
    others: List,
}

impl Router {
    /// Compiles `routes`; a found route is named by its place among them.
    pub(crate) fn compile(routes: &[&Route], room: &Room) -> Result<Self, Vec<RouteFault>> {
        Ok(Self {
            whole: Arc::new(Index::compile(routes, room)?),
            count: routes.len(),
            newer: None,
        })
    }

    /// The same as it was compiled, without the places `gone`, and with `routes`, whose places follow.
    pub(crate) fn amended(
        &self,
        gone: impl Iterator<Item = usize>,
        routes: &[&Route],
        room: &Room,
    ) -> Result<Self, Vec<RouteFault>> {
        let mut bits = vec![0; self.count.div_ceil(WORD)];
        for place in gone {
            if let Some(word) = bits.get_mut(place / WORD) {
                *word |= 1 << (place % WORD);
            }
        }
        let newer = Newer {
            gone: bits.into(),
            index: Index::compile(routes, room)?,
        };
        Ok(Self {
            whole: Arc::clone(&self.whole),
            count: self.count,
            newer: Some(newer),
        })
    }

    /// The best route for what is asked.
    pub(crate) fn find(&self, asked: &Asked<'_>) -> Option<Found> {
        let Some(newer) = &self.newer else {
            return self.whole.find(asked, &[]);
        };
        let old = self.whole.find(asked, &newer.gone);
        let Some(new) = newer.index.find(asked, &[]) else {
            return old;
        };
        if let Some(old) = old
            && self.whole.rank(old) > newer.index.rank(new)
        {
            return Some(old);
        }
        Some(Found {
            route: self.count + new.route,
            entry: self.whole.entries.len() + new.entry,
            ..new
        })
    }

    /// What the regular expression of `found` has taken out of `path`, or out of its readable form, by number and by name.
    pub(crate) fn captures(&self, found: Found, path: &str, readable: Option<&str>) -> Captures {
        let entries = &self.whole.entries;
        let entry = entries.get(found.entry).or_else(|| {
            let newer = self.newer.as_ref()?;
            newer.index.entries.get(found.entry - entries.len())
        });
        match entry.map(|entry| &entry.path) {
            Some(PathRule::Regex(regex)) => capture(regex, path, readable),
            _ => Captures::default(),
        }
    }
}

/// Bits of a word.
const WORD: usize = 64;

/// What is asked, and which routes do not count.
type Search<'a> = (&'a Asked<'a>, &'a [u64]);

impl Index {
    fn compile(routes: &[&Route], room: &Room) -> Result<Self, Vec<RouteFault>> {
        let mut faults = Vec::new();
        let mut all: Vec<Entry> = Vec::new();
        for (number, route) in routes.iter().enumerate() {
            match entries(number, route, room, &mut faults) {
                Some(entries) => all.extend(entries),
                None => break,
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        all.sort_by(|a, b| b.rank.cmp(&a.rank));
        let mut compiled = Self::default();
        for (index, entry) in all.iter().enumerate() {
            if entry.hosts.is_empty() {
                compiled.anywhere.add(index, entry);
            }
            for host in &entry.hosts {
                let (map, key) = match host.pattern() {
                    HostPattern::Exact(name) => (&mut compiled.hosts, name),
                    HostPattern::EndsWith(ending) => (&mut compiled.endings, ending),
                    HostPattern::StartsWith(beginning) => (&mut compiled.beginnings, beginning),
                };
                let ported = map.entry(key.into()).or_default();
                ported.bucket(host.port()).add(index, entry);
            }
        }
        compiled.entries = all;
        Ok(compiled)
    }

    fn rank(&self, found: Found) -> Option<&Rank> {
        self.entries.get(found.entry).map(|entry| &entry.rank)
    }

    /// The best route for what is asked that is not `gone`.
    fn find(&self, asked: &Asked<'_>, gone: &[u64]) -> Option<Found> {
        let mut best = None;
        let (host, port) = split_port(asked.authority);
        let host = bare(host);
        let port = port.unwrap_or(if asked.https { "443" } else { "80" });
        if !self.hosts.is_empty() {
            self.search_ported(self.hosts.get(host), port, (asked, gone), &mut best);
        }
        if !self.endings.is_empty() || !self.beginnings.is_empty() {
            for dot in memchr::memchr_iter(b'.', host.as_bytes()) {
                // A wildcard stands for at least one character.
                if dot > 0
                    && let Some(ending) = host.get(dot..)
                {
                    self.search_ported(self.endings.get(ending), port, (asked, gone), &mut best);
                }
                if dot + 1 < host.len()
                    && let Some(beginning) = host.get(..=dot)
                {
                    self.search_ported(
                        self.beginnings.get(beginning),
                        port,
                        (asked, gone),
                        &mut best,
                    );
                }
            }
        }
        self.search(&self.anywhere, (asked, gone), &mut best);
        best.map(|(_, found)| found)
    }

    fn search_ported(
        &self,
        ported: Option<&Ported>,
        port: &str,
        asked: Search<'_>,
        best: &mut Option<(usize, Found)>,
    ) {
        let Some(ported) = ported else { return };
        self.search(&ported.any, asked, best);
        for (wanted, bucket) in &ported.ports {
            if **wanted == *port {
                self.search(bucket, asked, best);
            }
        }
    }

    fn search(&self, bucket: &Bucket, asked: Search<'_>, best: &mut Option<(usize, Found)>) {
        for length in &bucket.lengths {
            if let Some(prefix) = asked.0.path.get(..*length)
                && let Some(list) = bucket.prefixes.get(prefix)
            {
                list.search(asked.0, |places| self.first(places, asked, best));
            }
        }
        let others = &bucket.others;
        others.search(asked.0, |places| self.first(places, asked, best));
    }

    fn first(&self, list: &[usize], (asked, gone): Search<'_>, best: &mut Option<(usize, Found)>) {
        for index in list {
            if best.is_some_and(|(known, _)| known <= *index) {
                return;
            }
            let Some(entry) = self.entries.get(*index) else {
                continue;
            };
            let word = gone.get(entry.route / WORD);
            if word.is_some_and(|word| word >> (entry.route % WORD) & 1 == 1) {
                continue;
            }
            if let Some(matched) = entry.matches(asked) {
                let found = Found {
                    route: entry.route,
                    matched,
                    entry: *index,
                };
                *best = Some((*index, found));
                return;
            }
        }
    }
}

impl Ported {
    fn bucket(&mut self, port: Option<&str>) -> &mut Bucket {
        let Some(port) = port else {
            return &mut self.any;
        };
        let known = self.ports.iter().position(|(known, _)| **known == *port);
        let place = known.unwrap_or(self.ports.len());
        if known.is_none() {
            self.ports.push((port.into(), Bucket::default()));
        }
        match self.ports.get_mut(place) {
            Some((_, bucket)) => bucket,
            None => &mut self.any,
        }
    }
}

impl Bucket {
    fn add(&mut self, index: usize, entry: &Entry) {
        let start = entry.path.start();
        let list = if start.is_empty() {
            &mut self.others
        } else {
            if !self.lengths.contains(&start.len()) {
                self.lengths.push(start.len());
            }
            self.prefixes.entry(start.into()).or_default()
        };
        list.add(index, entry);
    }
}

/// What `regex` takes out of `path`, in its readable form: what a delimiter would end stays one piece. A group that took
/// no part is empty.
fn capture(regex: &regex::Regex, path: &str, readable: Option<&str>) -> Captures {
    // The whole match is a group as well: without others, Kong knows of none.
    if regex.captures_len() < 2 {
        return Captures::default();
    }
    let readable = readable.and_then(|path| regex.captures(path));
    let Some(captures) = readable.or_else(|| regex.captures(path)) else {
        return Captures::default();
    };
    let shown =
        |text: &str| shared::types::patterns::readable(text).unwrap_or_else(|| text.to_owned());
    let text = |group: Option<regex::Match<'_>>| {
        group.map_or_else(String::new, |group| shown(group.as_str()))
    };
    let named = regex.capture_names().flatten().filter_map(|name| {
        let group = captures.name(name)?;
        Some((name.to_owned(), shown(group.as_str())))
    });
    Captures {
        whole: text(captures.get(0)),
        numbered: captures.iter().skip(1).map(text).collect(),
        named: named.collect(),
    }
}

//! Routes of two workspaces for the same requests: who may write in one takes no traffic of the other by accident (Kong
//! Enterprise, `route_validation_strategy=smart`).
//!
//! A route is refused whose host one of another workspace names, and some of whose requests that one would answer: a method,
//! the headers and the server names of both meet, and a path of its own begins with a plain path of that one, is matched
//! by an expression of that one, or is an expression that matches such a plain path. Hosts with wildcards, and routes
//! without hosts, are everybody's. A route that is stored already is judged again only when it is to be for other
//! requests, also where a file puts another record in its place, and may have longer paths below those that it has.

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::iter::once;
use std::ops::Bound;

use serde_json::Value;
use shared::entity::{Entity as _, Route};
use shared::snapshot::Key;
use shared::types::patterns;
use uuid::Uuid;

use crate::config::{Change, Config, Fields, Stored, exact_hosts, host_key};

/// What says which requests a route is for.
const MATCHED: [&str; 5] = ["hosts", "paths", "methods", "headers", "snis"];

/// Most that is looked at for one change: paths, and pairs of them. What is left then counts as colliding: no file of routes
/// may hold up all other writers.
const LOOKS: usize = 50_000_000;

/// How many looks an expression costs that is made ready.
const COMPILED: usize = 500;

/// The routes that `change` puts into the workspace of `config` and that collide with one of another workspace. Not
/// those for the same requests as one in `before` whose place they take.
pub(super) fn colliding(before: &Config, config: &Config, change: &Change) -> BTreeSet<Key> {
    colliding_within(before, config, change, LOOKS)
}

/// The same, with so many `looks`.
fn colliding_within(
    before: &Config,
    config: &Config,
    change: &Change,
    looks: usize,
) -> BTreeSet<Key> {
    let routes = change
        .puts
        .iter()
        .filter(|(key, _)| key.kind == Route::KIND)
        .map(|(key, record)| (*key, record.fields()));
    let new: BTreeMap<Key, Fields> = routes
        .filter(|(key, new)| {
            let old = before.record(*key);
            old.is_none_or(|old| matched(&old) != matched(new))
        })
        .collect();
    let wants: BTreeMap<Key, Wants> = new
        .iter()
        .map(|(key, new)| {
            let mut wants = Wants::of(new, "/");
            let old = before.record(*key);
            if let Some(old) = old.filter(|old| is_for_other_paths_only(old, new)) {
                wants.had = Wants::of(&old, "/").paths.into_iter().collect();
                wants.paths.retain(|path| !wants.had.contains(path));
            }
            (*key, wants)
        })
        .collect();
    let mut of_hosts: BTreeMap<String, Vec<Key>> = BTreeMap::new();
    for (key, new) in &new {
        for host in exact_hosts(new) {
            of_hosts.entry(host).or_default().push(*key);
        }
    }
    let (here, everywhere) = (config.workspace(), config.everywhere());
    let (mut colliding, mut looks) = (BTreeSet::new(), Looks(looks));
    for (host, keys) in of_hosts {
        let routes = everywhere.children(host_key(&host), Route::KIND, Uuid::nil());
        let others: Vec<&Stored> = routes
            .filter_map(|key| everywhere.stored(key))
            .filter(|route| route.workspace() != here)
            .collect();
        if others.is_empty() {
            continue;
        }
        if !looks.are_over() {
            let others = others.iter().map(|other| Wants::of(&other.fields(), ""));
            let open = keys.iter().filter(|key| !colliding.contains(*key));
            let open = open.filter_map(|key| Some((*key, wants.get(key)?)));
            let found = answered(
                &open.collect::<Vec<_>>(),
                &others.collect::<Vec<_>>(),
                &mut looks,
            );
            colliding.extend(found);
        }
        if looks.are_over() {
            colliding.extend(keys);
        }
    }
    if !colliding.is_empty() {
        let gone = gone(before, config);
        let replaces = |key: &Key| new.get(key).is_some_and(|new| gone.contains(&matched(new)));
        colliding.retain(|key| !replaces(key));
    }
    colliding
}

/// What the routes were for that were in the workspace before and are to be there no more.
fn gone(before: &Config, config: &Config) -> HashSet<[Value; 5]> {
    let keys = before.keys(Route::KIND, Uuid::nil());
    keys.filter(|key| !config.is_used(*key))
        .filter_map(|key| before.stored(key))
        .filter(|route| route.workspace() == before.workspace())
        .map(|route| matched(&route.fields()))
        .collect()
}

/// Which requests a route is for, as it is written.
fn matched(route: &Fields) -> [Value; 5] {
    MATCHED.map(|field| route.get(field).cloned().unwrap_or_default())
}

/// Whether two routes differ in their paths and in nothing else that says which requests they are for.
fn is_for_other_paths_only(old: &Fields, new: &Fields) -> bool {
    let but_paths = |route| {
        let [hosts, _, methods, headers, snis] = matched(route);
        [hosts, methods, headers, snis]
    };
    but_paths(old) == but_paths(new)
}

/// How much may still be looked at.
struct Looks(usize);

impl Looks {
    /// Takes `count` of them. Whether there are some left.
    fn take(&mut self, count: usize) -> bool {
        self.0 = self.0.saturating_sub(count);
        !self.are_over()
    }

    const fn are_over(&self) -> bool {
        self.0 == 0
    }
}

/// Those of `new` some of whose requests one of `others` would answer: routes for the same host.
fn answered(new: &[(Key, &Wants)], others: &[Wants], looks: &mut Looks) -> BTreeSet<Key> {
    let theirs = by_path(others.iter().map(|other| (other, other)), looks);
    let asked = by_path(new.iter().map(|(key, new)| (*new, (*key, *new))), looks);
    let mut found: BTreeSet<Key> = new
        .iter()
        .filter(|(_, new)| begins(new, &theirs, looks) || reaches(new, &theirs, looks))
        .map(|(key, _)| *key)
        .collect();
    // One at a time, whatever is held against it: many that are ready take much memory.
    for other in others {
        for expression in other.paths.iter().filter_map(|path| Expression::of(path)) {
            for (path, of_path) in expression.near(&asked) {
                if looks.are_over() {
                    return found;
                }
                for (key, new) in of_path {
                    let is_open = looks.take(1) && !found.contains(key) && other.meets(new);
                    if is_open && expression.matches(path, looks) {
                        found.insert(*key);
                    }
                }
            }
        }
    }
    found
}

/// Whether a path of `new` begins with a plain one of others, or is the same expression.
fn begins(new: &Wants, theirs: &ByPath<&Wants>, looks: &mut Looks) -> bool {
    new.paths.iter().any(|path| {
        let text = path.trim_start_matches('~');
        let ends = once(text.len()).chain(text.char_indices().rev().map(|(at, _)| at));
        for beginning in once(&**path).chain(ends.filter_map(|end| text.get(..end))) {
            // Longer ones take longer to compare.
            if !looks.take(1 + beginning.len() / 64) {
                return false;
            }
            let mut others = theirs.get(beginning).into_iter().flatten();
            if others.any(|other| looks.take(1) && other.meets(new)) {
                return true;
            }
            // Of shorter ones it was the longer before, too: what is one's own may be narrowed.
            if path == text && new.had.contains(beginning) {
                return false;
            }
        }
        false
    })
}

/// Whether an expression of `new` matches a plain path of others: it comes before that.
fn reaches(new: &Wants, theirs: &ByPath<&Wants>, looks: &mut Looks) -> bool {
    let mut expressions = new.paths.iter().filter_map(|path| Expression::of(path));
    expressions.any(|expression| {
        expression.near(theirs).any(|(own, others)| {
            let meets = others.iter().any(|other| looks.take(1) && other.meets(new));
            meets && expression.matches(own, looks)
        })
    })
}

/// What stands at each path, expressions with their sign.
type ByPath<'a, T> = BTreeMap<&'a str, Vec<T>>;

fn by_path<'a, T: Copy>(
    routes: impl Iterator<Item = (&'a Wants, T)>,
    looks: &mut Looks,
) -> ByPath<'a, T> {
    let mut all = ByPath::new();
    for (route, what) in routes {
        looks.take(route.paths.len());
        for path in &route.paths {
            all.entry(&**path).or_default().push(what);
        }
    }
    all
}

/// A path that is one.
struct Expression<'a> {
    pattern: &'a str,
    ready: OnceCell<Matches>,
}

/// Whether a text matches.
type Matches = Box<dyn Fn(&str) -> bool>;

impl<'a> Expression<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let pattern = path.strip_prefix('~')?;
        let ready = OnceCell::new();
        Some(Self { pattern, ready })
    }

    /// The plain paths that it may match.
    fn near<'p, T>(&self, paths: &'p ByPath<T>) -> impl Iterator<Item = (&'p str, &'p Vec<T>)> {
        let start = self.start();
        let after = paths.range::<str, _>((Bound::Included(start), Bound::Unbounded));
        after
            .map(|(path, what)| (*path, what))
            .take_while(move |(path, _)| path.starts_with(start))
            .filter(|(path, _)| path.starts_with('/'))
    }

    /// What all begin with that it matches, as far as that is plain to see.
    fn start(&self) -> &'a str {
        if self.pattern.contains('|') {
            return "";
        }
        let is_plain = |sign: char| sign.is_ascii_alphanumeric() || "/_-".contains(sign);
        let start = self.pattern.trim_start_matches(is_plain);
        let (start, rest) = self.pattern.split_at(self.pattern.len() - start.len());
        // What is repeated may be missing.
        let last = usize::from(rest.starts_with(['?', '*', '{']));
        start
            .get(..start.len().saturating_sub(last))
            .unwrap_or_default()
    }

    fn matches(&self, path: &str, looks: &mut Looks) -> bool {
        let ready = self.ready.get_or_init(|| {
            looks.take(COMPILED);
            let compiled = patterns::of_path(self.pattern);
            // One that is none matches nothing.
            let compiled = compiled.ok().map(|(_, regex)| regex);
            Box::new(move |path| compiled.as_ref().is_some_and(|regex| regex.is_match(path)))
        });
        ready(path)
    }
}

/// What a route asks of requests for its hosts, read once.
struct Wants {
    methods: BTreeSet<String>,
    snis: BTreeSet<String>,
    /// By their names in lower case, as values are that are no expressions.
    headers: BTreeMap<String, BTreeSet<String>>,
    /// Those that it did not have before.
    paths: Vec<String>,
    /// Those of the stored route that it is to replace, if it differs from that in nothing else.
    had: BTreeSet<String>,
}

impl Wants {
    /// What `route` asks; one without paths has `every` one.
    fn of(route: &Fields, every: &str) -> Self {
        let mut paths: Vec<String> = texts(route.get("paths")).map(str::to_owned).collect();
        if paths.is_empty() {
            paths.push(every.to_owned());
        }
        let snis = texts(route.get("snis"));
        let headers = route.get("headers").and_then(Value::as_object);
        let headers = headers.into_iter().flatten();
        let value = |value: &str| {
            if value.starts_with("~*") {
                value.to_owned()
            } else {
                value.to_ascii_lowercase()
            }
        };
        Self {
            methods: texts(route.get("methods")).map(str::to_owned).collect(),
            snis: snis
                .map(|name| name.trim_end_matches('.').to_ascii_lowercase())
                .collect(),
            headers: headers
                .map(|(name, values)| {
                    let values = texts(Some(values)).map(value).collect();
                    (name.to_ascii_lowercase(), values)
                })
                .collect(),
            paths,
            had: BTreeSet::new(),
        }
    }

    /// Whether this route answers some requests of `new`, as far as their paths go. Expressions of headers count by their
    /// texts.
    fn meets(&self, new: &Self) -> bool {
        let shares = |own: &BTreeSet<String>, asked| own.is_empty() || !own.is_disjoint(asked);
        let headers = |(name, own): (&String, &BTreeSet<String>)| {
            let asked = new.headers.get(name);
            asked.is_some_and(|asked| !own.is_disjoint(asked))
        };
        (new.methods.is_empty() || shares(&self.methods, &new.methods))
            && shares(&self.snis, &new.snis)
            && self.headers.iter().all(headers)
    }
}

fn texts(list: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = list.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

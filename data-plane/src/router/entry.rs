//! One way to match a route: its attributes with at most one of its paths, and its rank.

use std::cmp::Reverse;
use std::ops::Deref;
use std::sync::Arc;

use http::{HeaderName, Method};
use regex::Regex;
use regex_syntax::hir::{Hir, HirKind, Look};
use shared::authority::{bare, split_port};
use shared::entity::Route;
use shared::types::patterns;

use super::normalize::{normal_length, normalize};
use super::{Asked, RouteFault};
use crate::compile::room::Room;
use crate::http1::kind::Kind;

/// A route with one of its paths, and with its hosts that name a port or with those that do not. Server
/// names take no part where there is no TLS, so a route with such has an entry for either.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) route: usize,
    pub(super) rank: Rank,
    pub(super) hosts: Vec<HostRule>,
    pub(super) path: PathRule,
    methods: Vec<Method>,
    headers: Vec<(HeaderName, Values)>,
    server_names: Vec<HostRule>,
    /// Whether it is for requests with TLS only, or for those without; `None`: for both.
    tls: Option<bool>,
}

/// What decides between entries that both match; compared field by field (Kong 3.9, `get_priority`).
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::struct_excessive_bools, reason = "each is a step of the order")]
pub(super) struct Rank {
    /// How many kinds of attributes the route has.
    attributes: u8,
    /// A route whose server names are of no account without TLS comes after those that have none.
    whole: bool,
    plain_hosts_only: bool,
    header_names: usize,
    regex: bool,
    regex_priority: i64,
    path_length: usize,
    /// Which kinds of attributes: hosts before header names, then paths, methods, server names (Kong 2.8).
    kinds: [bool; 5],
    /// Server names without a wildcard win what is left over those with one.
    exact_names: bool,
    /// Hosts with a port win what is left over hosts without.
    port: bool,
    /// The older route wins what is left; the id makes the order total.
    age: Reverse<u64>,
    id: Reverse<uuid::Uuid>,
}

#[derive(Clone, Debug)]
pub(super) enum PathRule {
    Any,
    /// Normalised.
    Prefix(Box<str>),
    /// Anchored at the start.
    Regex(Arc<PathRegex>),
}

/// A regular expression, and the text that everything it matches begins with.
#[derive(Debug)]
pub(super) struct PathRegex {
    regex: Regex,
    start: Box<str>,
}

impl PathRegex {
    /// How many bytes of the path it matches. Characters in an expression are met by what stands for them in a path, and
    /// triplets by triplets.
    fn matched(&self, asked: &Asked<'_>) -> Option<usize> {
        if let Some(readable) = asked.readable
            && let Some(found) = self.regex.find(readable)
        {
            return Some(patterns::written_length(asked.path, found.end()));
        }
        self.regex.find(asked.path).map(|found| found.end())
    }
}

impl Deref for PathRegex {
    type Target = Regex;

    fn deref(&self) -> &Regex {
        &self.regex
    }
}

impl PathRule {
    /// What a path that matches begins with.
    pub(super) fn start(&self) -> &str {
        match self {
            Self::Any => "",
            Self::Prefix(prefix) => prefix,
            Self::Regex(regex) => &regex.start,
        }
    }
}

#[derive(Debug)]
enum Values {
    /// In lower case; any of them.
    Any(Vec<Box<[u8]>>),
    Regex(Box<regex::bytes::Regex>),
}

/// A host name, or one with a wildcard at either end; perhaps with a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct HostRule {
    kind: HostKind,
    text: Box<str>,
    port: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum HostKind {
    Exact,
    /// `*.example.com`, kept as `.example.com`.
    EndsWith,
    /// `example.*`, kept as `example.`.
    StartsWith,
}

/// What a rule says of the host alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HostPattern<'a> {
    Exact(&'a str),
    EndsWith(&'a str),
    StartsWith(&'a str),
}

impl HostRule {
    fn parse(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let (host, port) = split_port(&text);
        let host = bare(host);
        let (kind, text) = if let Some(ending) = host.strip_prefix('*') {
            (HostKind::EndsWith, ending)
        } else if let Some(beginning) = host.strip_suffix('*') {
            (HostKind::StartsWith, beginning)
        } else {
            (HostKind::Exact, host)
        };
        Self {
            kind,
            text: text.into(),
            port: port.map(Into::into),
        }
    }

    pub(super) fn port(&self) -> Option<&str> {
        self.port.as_deref()
    }

    pub(super) fn pattern(&self) -> HostPattern<'_> {
        match self.kind {
            HostKind::Exact => HostPattern::Exact(&self.text),
            HostKind::EndsWith => HostPattern::EndsWith(&self.text),
            HostKind::StartsWith => HostPattern::StartsWith(&self.text),
        }
    }

    /// A wildcard stands for at least one character.
    pub(super) fn matches(&self, host: &str, port: Option<&str>, https: bool) -> bool {
        let implied = if https { "443" } else { "80" };
        if self
            .port()
            .is_some_and(|wanted| wanted != port.unwrap_or(implied))
        {
            return false;
        }
        match self.pattern() {
            HostPattern::Exact(name) => name == host,
            HostPattern::EndsWith(ending) => host.len() > ending.len() && host.ends_with(ending),
            HostPattern::StartsWith(beginning) => {
                host.len() > beginning.len() && host.starts_with(beginning)
            }
        }
    }
}

impl Entry {
    /// If everything matches: how many bytes of the path, if the entry looks at it.
    #[expect(
        clippy::option_option,
        reason = "no match differs from a match without a path"
    )]
    pub(super) fn matches(&self, asked: &Asked<'_>) -> Option<Option<usize>> {
        if !self.methods.is_empty() && !self.methods.contains(asked.method) {
            return None;
        }
        if self.tls.is_some_and(|tls| tls != asked.https) {
            return None;
        }
        if !self.server_names.is_empty()
            && !asked.server_name.is_some_and(|name| {
                self.server_names
                    .iter()
                    .any(|rule| rule.matches(name, None, true))
            })
        {
            return None;
        }
        if !self
            .headers
            .iter()
            .all(|(name, values)| values.match_any(asked.headers.values(Kind::of(name), name)))
        {
            return None;
        }
        match &self.path {
            PathRule::Any => Some(None),
            PathRule::Prefix(prefix) => asked
                .path
                .starts_with(&**prefix)
                .then_some(Some(prefix.len())),
            PathRule::Regex(regex) => regex.matched(asked).map(Some),
        }
    }
}

impl Entry {
    /// A field that must have one of some values, if there is one.
    pub(super) fn header(&self) -> Option<(&HeaderName, &[Box<[u8]>])> {
        self.headers.iter().find_map(|(name, values)| match values {
            Values::Any(values) => Some((name, values.as_slice())),
            Values::Regex(_) => None,
        })
    }

    /// Whether it is for requests without TLS only.
    pub(super) fn is_without_tls(&self) -> bool {
        self.tls == Some(false)
    }

    /// The server names, if one of them must be there and none has a wildcard.
    pub(super) fn exact_names(&self) -> Option<impl Iterator<Item = &str>> {
        let exact = |rule: &HostRule| rule.kind == HostKind::Exact;
        let all = !self.server_names.is_empty() && self.server_names.iter().all(exact);
        all.then(|| self.server_names.iter().map(|rule| &*rule.text))
    }
}

impl Values {
    fn match_any<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        values.any(|value| match self {
            Self::Any(wanted) => wanted
                .iter()
                .any(|wanted| value.eq_ignore_ascii_case(wanted)),
            Self::Regex(regex) => regex.is_match(value),
        })
    }
}

/// The hosts of `route`, those with a port apart from the others. One empty group, if it has none.
fn host_groups(route: &Route) -> Vec<Vec<HostRule>> {
    let hosts = route.hosts.iter().flatten();
    let hosts = hosts.map(|host| HostRule::parse(host.as_str()));
    let (with_port, without): (Vec<_>, Vec<_>) = hosts.partition(|host| host.port.is_some());
    let mut groups = vec![with_port, without];
    groups.retain(|hosts| !hosts.is_empty());
    if groups.is_empty() {
        groups.push(Vec::new());
    }
    groups
}

/// The entries of `route`; what cannot be compiled goes to `faults`. None once there is no room to go on.
pub(super) fn entries(
    number: usize,
    route: &Route,
    room: &Room,
    faults: &mut Vec<RouteFault>,
) -> Option<Vec<Entry>> {
    let mut fault = |field, message: String| {
        faults.push(RouteFault {
            route: number,
            field,
            message,
        });
    };
    let texts: Vec<&str> = route
        .paths
        .iter()
        .flatten()
        .map(shared::types::RoutePath::as_str)
        .collect();
    let mut paths = Vec::new();
    for text in &texts {
        if let Err(message) = room.check() {
            fault("paths", message);
            return None;
        }
        match path_rule(text) {
            Ok(path) => paths.push(path),
            Err(message) => fault("paths", message),
        }
    }
    if texts.is_empty() {
        paths.push(PathRule::Any);
    }
    if let Err(message) = header_rules(route) {
        fault("headers", message);
    }
    if let Err(message) = methods(route) {
        fault("methods", message);
    }
    let groups = host_groups(route);
    let hosts = || groups.iter().flatten();
    let plain_hosts_only =
        hosts().next().is_some() && hosts().all(|host| host.kind == HostKind::Exact);
    let named = route
        .snis
        .as_ref()
        .is_some_and(|names| !names.as_slice().is_empty());
    let tls: &[Option<bool>] = if named {
        &[Some(true), Some(false)]
    } else {
        &[None]
    };
    let mut all = Vec::new();
    for path in &paths {
        for group in &groups {
            for tls in tls {
                all.push(entry(
                    number,
                    route,
                    path.clone(),
                    group.clone(),
                    plain_hosts_only,
                    *tls,
                ));
            }
        }
    }
    Some(all)
}

fn entry(
    number: usize,
    route: &Route,
    path: PathRule,
    hosts: Vec<HostRule>,
    plain_hosts_only: bool,
    tls: Option<bool>,
) -> Entry {
    let server_names: Vec<HostRule> = route
        .snis
        .iter()
        .filter(|_| tls != Some(false))
        .flat_map(shared::types::Set::as_slice)
        .map(|name| HostRule::parse(name.as_str().trim_end_matches('.')))
        .collect();
    // Faults have been reported by `entries`.
    let methods = methods(route).unwrap_or_default();
    let headers = header_rules(route).unwrap_or_default();
    let present = [
        !hosts.is_empty(),
        !headers.is_empty(),
        !matches!(path, PathRule::Any),
        !methods.is_empty(),
        !server_names.is_empty(),
    ];
    let regex = matches!(path, PathRule::Regex(_));
    let rank = Rank {
        attributes: present.iter().map(|present| u8::from(*present)).sum(),
        whole: tls != Some(false),
        plain_hosts_only,
        header_names: headers.len(),
        regex,
        regex_priority: if regex {
            route.regex_priority.unwrap_or(0)
        } else {
            0
        },
        path_length: if let PathRule::Prefix(prefix) = &path {
            prefix.len()
        } else {
            0
        },
        kinds: present,
        exact_names: server_names.iter().all(|name| name.kind == HostKind::Exact),
        port: hosts.iter().any(|host| host.port.is_some()),
        age: Reverse(route.created_at),
        id: Reverse(route.id),
    };
    Entry {
        route: number,
        rank,
        hosts,
        path,
        methods,
        headers,
        server_names,
        tls,
    }
}

fn path_rule(text: &str) -> Result<PathRule, String> {
    let Some(pattern) = text.strip_prefix('~') else {
        return Ok(PathRule::Prefix(normalize(text).into()));
    };
    let (pattern, regex) = patterns::of_path(pattern)
        .map_err(|error| format!("invalid regex: '{pattern}' ({error})"))?;
    let start = start_of(&pattern);
    // From there on a path may be written in several ways.
    let start = start
        .get(..normal_length(&start))
        .unwrap_or_default()
        .into();
    Ok(PathRule::Regex(Arc::new(PathRegex { regex, start })))
}

/// The text that everything which `pattern` matches at its start begins with; may be empty.
fn start_of(pattern: &str) -> String {
    let mut start = Vec::new();
    if let Ok(parsed) = regex_syntax::parse(pattern) {
        collect_start(&parsed, &mut start);
    }
    // A text that ends inside a character is cut before it.
    let valid = match str::from_utf8(&start) {
        Ok(_) => start.len(),
        Err(error) => error.valid_up_to(),
    };
    start.truncate(valid);
    String::from_utf8(start).unwrap_or_default()
}

/// Adds what `pattern` certainly begins with; says whether what follows it in a row goes on from there.
fn collect_start(pattern: &Hir, start: &mut Vec<u8>) -> bool {
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(Look::Start) => true,
        HirKind::Literal(literal) => {
            start.extend_from_slice(&literal.0);
            true
        }
        HirKind::Capture(capture) => collect_start(&capture.sub, start),
        HirKind::Concat(row) => row.iter().all(|part| collect_start(part, start)),
        HirKind::Class(_) | HirKind::Look(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => {
            false
        }
    }
}

fn methods(route: &Route) -> Result<Vec<Method>, String> {
    route
        .methods
        .iter()
        .flat_map(shared::types::Set::as_slice)
        .map(|method| {
            Method::from_bytes(method.as_str().as_bytes())
                .map_err(|_| format!("invalid method: {}", method.as_str()))
        })
        .collect()
}

fn header_rules(route: &Route) -> Result<Vec<(HeaderName, Values)>, String> {
    let mut rules = Vec::new();
    for (name, values) in route.headers.iter().flatten() {
        let parsed: HeaderName = name
            .parse()
            .map_err(|_| format!("invalid header name: {name}"))?;
        let values = match patterns::of_header(values) {
            Some(regex) => {
                let regex =
                    regex.map_err(|error| format!("invalid regex in header {name}: {error}"))?;
                Values::Regex(Box::new(regex))
            }
            None => Values::Any(values.iter().map(|value| value.as_bytes().into()).collect()),
        };
        rules.push((parsed, values));
    }
    Ok(rules)
}

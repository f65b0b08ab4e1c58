//! One way to match a route: its attributes with at most one of its paths, and its rank.

use std::cmp::Reverse;

use http::{HeaderName, Method};
use regex::Regex;
use shared::entity::Route;

use super::normalize::normalize;
use super::{Asked, Found, RouteFault};

/// A route with one of its paths.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) route: usize,
    pub(super) rank: Rank,
    pub(super) hosts: Vec<HostRule>,
    pub(super) path: PathRule,
    methods: Vec<Method>,
    headers: Vec<(HeaderName, Values)>,
    server_names: Vec<HostRule>,
}

/// What decides between entries that both match; compared field by field (Kong 3.9, `get_priority`).
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Rank {
    /// How many kinds of attributes the route has.
    attributes: u8,
    plain_hosts_only: bool,
    header_names: usize,
    regex: bool,
    regex_priority: i32,
    path_length: usize,
    /// The older route wins what is left; the id makes the order total.
    age: Reverse<u64>,
    id: Reverse<uuid::Uuid>,
}

#[derive(Debug)]
pub(super) enum PathRule {
    Any,
    /// Normalised.
    Prefix(Box<str>),
    /// Anchored at the start.
    Regex(Box<Regex>),
}

#[derive(Debug)]
enum Values {
    /// In lower case; any of them.
    Any(Vec<Box<[u8]>>),
    Regex(Box<regex::bytes::Regex>),
}

/// A host name, or one with a wildcard at either end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum HostRule {
    /// With its port, if it has one.
    Exact(Box<str>, Option<Box<str>>),
    /// `*.example.com`, kept as `.example.com`.
    EndsWith(Box<str>, Option<Box<str>>),
    /// `example.*`, kept as `example.`.
    StartsWith(Box<str>, Option<Box<str>>),
}

impl HostRule {
    fn parse(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let (host, port) = super::split_port(&text);
        let port = port.map(Into::into);
        if let Some(suffix) = host.strip_prefix('*') {
            Self::EndsWith(suffix.into(), port)
        } else if let Some(prefix) = host.strip_suffix('*') {
            Self::StartsWith(prefix.into(), port)
        } else {
            Self::Exact(text.as_str().into(), port)
        }
    }

    pub(super) const fn port(&self) -> Option<&str> {
        match self {
            Self::Exact(_, port) | Self::EndsWith(_, port) | Self::StartsWith(_, port) => {
                match port {
                    Some(port) => Some(port),
                    None => None,
                }
            }
        }
    }

    /// The name with its port, if there is no wildcard.
    pub(super) const fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(name, _) => Some(name),
            Self::EndsWith(..) | Self::StartsWith(..) => None,
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
        match self {
            Self::Exact(name, _) => super::split_port(name).0 == host,
            Self::EndsWith(suffix, _) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::StartsWith(prefix, _) => host.len() > prefix.len() && host.starts_with(&**prefix),
        }
    }
}

impl Entry {
    /// The route, if everything matches.
    pub(super) fn matches(&self, asked: &Asked<'_>) -> Option<Found> {
        if !self.methods.is_empty() && !self.methods.contains(asked.method) {
            return None;
        }
        // A name in the handshake takes part only where there was a handshake.
        if !self.server_names.is_empty()
            && asked.https
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
            .all(|(name, values)| values.match_any(asked.headers.get_all(name).iter()))
        {
            return None;
        }
        let matched = match &self.path {
            PathRule::Any => None,
            PathRule::Prefix(prefix) => {
                Some(asked.path.starts_with(&**prefix).then_some(prefix.len())?)
            }
            PathRule::Regex(regex) => Some(regex.find(asked.path)?.end()),
        };
        Some(Found {
            route: self.route,
            matched,
        })
    }
}

impl Values {
    fn match_any<'a>(&self, mut values: impl Iterator<Item = &'a http::HeaderValue>) -> bool {
        values.any(|value| match self {
            Self::Any(wanted) => wanted
                .iter()
                .any(|wanted| value.as_bytes().eq_ignore_ascii_case(wanted)),
            Self::Regex(regex) => regex.is_match(value.as_bytes()),
        })
    }
}

/// The entries of `route`; what cannot be compiled goes to `faults`.
pub(super) fn entries(number: usize, route: &Route, faults: &mut Vec<RouteFault>) -> Vec<Entry> {
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
    paths
        .into_iter()
        .map(|path| entry(number, route, path))
        .collect()
}

fn entry(number: usize, route: &Route, path: PathRule) -> Entry {
    let hosts: Vec<HostRule> = route
        .hosts
        .iter()
        .flatten()
        .map(|host| HostRule::parse(host.as_str()))
        .collect();
    let server_names: Vec<HostRule> = route
        .snis
        .iter()
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
        plain_hosts_only: !hosts.is_empty() && hosts.iter().all(|host| host.exact().is_some()),
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
    }
}

fn path_rule(text: &str) -> Result<PathRule, String> {
    let Some(pattern) = text.strip_prefix('~') else {
        return Ok(PathRule::Prefix(normalize(text).into()));
    };
    Regex::new(&format!("^(?:{pattern})"))
        .map(|regex| PathRule::Regex(Box::new(regex)))
        .map_err(|error| format!("invalid regex: '{pattern}' ({error})"))
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
        let values = match values.as_slice() {
            [only] if only.starts_with("~*") => {
                let pattern = only.trim_start_matches("~*");
                let regex = regex::bytes::RegexBuilder::new(pattern)
                    .case_insensitive(true)
                    .build()
                    .map_err(|error| format!("invalid regex in header {name}: {error}"))?;
                Values::Regex(Box::new(regex))
            }
            all => Values::Any(all.iter().map(|value| value.as_bytes().into()).collect()),
        };
        rules.push((parsed, values));
    }
    Ok(rules)
}

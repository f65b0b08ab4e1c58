//! The hosts that routes list, prepared for a comparison with those that clients name.

use shared::authority::{bare, split_port};
use shared::types::RouteHost;

/// A host that a route lists, by whatever port: a name or an address, or a name with `*` at one end. In lower case, without
/// the dot of the root, an IPv6 address without brackets.
#[derive(Clone, Debug)]
pub enum ListedHost {
    /// This one.
    Exact(Box<str>),
    /// Every longer one with this end.
    Ending(Box<str>),
    /// Every longer one with this beginning.
    Beginning(Box<str>),
}

impl ListedHost {
    /// Whether it is for `host`, in whatever case, an IPv6 address without brackets.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').as_bytes();
        let part = |from: usize, length: usize| host.get(from..from + length);
        let (found, wanted) = match self {
            Self::Exact(name) => (Some(host), name),
            Self::Ending(end) if host.len() > end.len() => {
                (part(host.len() - end.len(), end.len()), end)
            }
            Self::Beginning(start) if host.len() > start.len() => (part(0, start.len()), start),
            Self::Ending(_) | Self::Beginning(_) => return false,
        };
        found.is_some_and(|found| found.eq_ignore_ascii_case(wanted.as_bytes()))
    }
}

impl From<&RouteHost> for ListedHost {
    fn from(listed: &RouteHost) -> Self {
        let (host, _) = split_port(listed.as_str());
        let host = bare(host).to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        if let Some(end) = host.strip_prefix('*') {
            Self::Ending(end.into())
        } else if let Some(start) = host.strip_suffix('*') {
            Self::Beginning(start.into())
        } else {
            Self::Exact(host.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_ports_and_the_dot_of_the_root_make_no_difference() {
        for (listed, host, expected) in [
            ("App.Example", "aPP.example.", true),
            ("app.example:80", "app.example", true),
            ("app.example", "app.example.evil", false),
            ("app.example", "", false),
            ("*.App.example", "X.app.example", true),
            ("*.app.example", "app.example", false),
            ("*.app.example", ".app.example", false),
            ("App.*", "app.test", true),
            ("app.*", "app.", false),
            ("app.*", "evil.app.test", false),
            ("[::A]:321", "::a", true),
            ("::1", "::2", false),
        ] {
            let prepared = ListedHost::from(&RouteHost::parse(listed).unwrap());
            assert_eq!(prepared.covers(host), expected, "{listed} {host}");
        }
    }
}

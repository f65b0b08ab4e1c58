//! In which TLS handshakes clients are asked for a certificate: where a route wants one that such a connection may ask
//! for. Others are left alone, since browsers bother their users about it (Kong 3.9, tls-handshake-modifier, goes by
//! `snis` alone; a route without them has `hosts` here before all are asked).

use std::collections::HashSet;
use std::sync::Arc;

use shared::entity::Route;

use super::CompiledRoute;
use crate::router::{bare, split_port};

/// By the name in the handshake.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asking {
    /// For the routes that were compiled together, and some that are gone.
    whole: Arc<Names>,
    /// For those that came later.
    newer: Arc<Names>,
}

impl Asking {
    /// What `routes` want, each with what it was compiled to, that were compiled together.
    pub(super) fn of<'a>(routes: impl Iterator<Item = (&'a Route, &'a CompiledRoute)>) -> Self {
        Self {
            whole: Arc::new(Names::of(routes)),
            newer: Arc::default(),
        }
    }

    /// The same with `routes` in the place of what came later.
    pub(super) fn beside<'a>(
        &self,
        routes: impl Iterator<Item = (&'a Route, &'a CompiledRoute)>,
    ) -> Self {
        Self {
            whole: Arc::clone(&self.whole),
            newer: Arc::new(Names::of(routes)),
        }
    }

    /// Whether a client is asked that asks for `name`.
    pub(crate) fn is_for(&self, name: Option<&str>) -> bool {
        let all = [&self.whole, &self.newer];
        if all.iter().all(|names| names.is_empty()) {
            return false;
        }
        let name = name.map(str::to_ascii_lowercase);
        all.iter().any(|names| names.have(name.as_deref()))
    }
}

/// The names that routes want certificates under.
#[derive(Debug, Default)]
struct Names {
    /// A route can be met under any name.
    everybody: bool,
    /// A route can be met by its host, which a client without a name may ask for.
    nameless: bool,
    exact: HashSet<Box<str>>,
    /// `*.example.com`, kept as `.example.com`.
    endings: HashSet<Box<str>>,
    /// `example.*`, kept as `example.`.
    beginnings: HashSet<Box<str>>,
}

impl Names {
    fn of<'a>(routes: impl Iterator<Item = (&'a Route, &'a CompiledRoute)>) -> Self {
        let mut names = Self::default();
        for (route, _) in routes.filter(|(_, compiled)| compiled.filters.wants_certificates) {
            names.add(route);
        }
        names
    }

    fn add(&mut self, route: &Route) {
        // With TLS a route is met by both, if it has both: the name in the handshake is what is known in time.
        let snis = route.snis.as_ref().map_or(&[][..], |snis| snis.as_slice());
        let hosts = route.hosts.as_deref().unwrap_or_default();
        for sni in snis {
            self.put(sni.as_str());
        }
        if snis.is_empty() {
            for host in hosts {
                self.put(bare(split_port(host.as_str()).0));
            }
            self.nameless |= !hosts.is_empty();
            self.everybody |= hosts.is_empty();
        }
    }

    fn put(&mut self, name: &str) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(ending) = name.strip_prefix('*') {
            self.endings.insert(ending.into());
        } else if let Some(beginning) = name.strip_suffix('*') {
            self.beginnings.insert(beginning.into());
        } else {
            self.exact.insert(name.into());
        }
    }

    fn is_empty(&self) -> bool {
        !self.everybody
            && self.exact.is_empty()
            && self.endings.is_empty()
            && self.beginnings.is_empty()
    }

    /// Whether `name` is one of them, in lower case. As in the router, a wildcard stands for one label or several.
    fn have(&self, name: Option<&str>) -> bool {
        let Some(name) = name else {
            return self.everybody || self.nameless;
        };
        let dots = || name.match_indices('.').map(|(at, _)| at);
        let ends = |at: usize| {
            let ending = name.get(at..).filter(|_| at > 0);
            ending.is_some_and(|ending| self.endings.contains(ending))
        };
        let begins = |at: usize| {
            let beginning = name.get(..=at).filter(|begun| begun.len() < name.len());
            beginning.is_some_and(|beginning| self.beginnings.contains(beginning))
        };
        self.everybody || self.exact.contains(name) || dots().any(ends) || dots().any(begins)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shared::snapshot::{Key, Record, Revision, Snapshot};
    use uuid::Uuid;

    use super::*;
    use crate::compile::{CompiledSnapshot, compile, room::Room};

    fn record(kind: &'static str, id: u128, mut fields: Value) -> Record {
        let id = Uuid::from_u128(id);
        fields["id"] = json!(id);
        fields["created_at"] = 1.into();
        fields["updated_at"] = 1.into();
        Record {
            key: Key { kind, id },
            json: serde_json::to_vec(&fields).unwrap().into(),
        }
    }

    /// What asks on the route `on`, or on all.
    fn modifier(id: u128, on: Option<u128>) -> Record {
        let mut plugin = json!({ "name": "tls-handshake-modifier" });
        if let Some(on) = on {
            plugin["route"] = json!({ "id": Uuid::from_u128(on) });
        }
        record("plugins", id, plugin)
    }

    /// Routes 1 and up, of which each of `wanting` asks.
    fn snapshot(revision: u64, routes: &[Value], wanting: &[u128]) -> Snapshot {
        let routes = (1..).zip(routes.iter().cloned());
        let mut records: Vec<Record> = routes
            .map(|(id, route)| record("routes", id, route))
            .collect();
        records.extend(wanting.iter().map(|on| modifier(100 + on, Some(*on))));
        Snapshot::new(1, Revision(revision), records)
    }

    fn asking(routes: &[Value], wanting: &[u128]) -> Asking {
        compile(&snapshot(1, routes, wanting)).unwrap().asking
    }

    #[test]
    fn only_the_names_are_asked_under_which_a_route_that_wants_it_is_met() {
        let routes = [
            json!({ "hosts": ["Mutual.test:8443", "*.wild.test", "begin.*"] }),
            json!({ "hosts": ["plain.test"] }),
            json!({ "snis": ["sni.test", "*.snis.test"], "hosts": ["host-of-sni.test"] }),
            json!({ "paths": ["/"] }),
        ];
        let asking = asking(&routes, &[1, 3]);
        for (name, expected) in [
            (Some("mutual.test"), true),
            (Some("MUTUAL.test"), true),
            (Some("a.wild.test"), true),
            (Some("a.b.wild.test"), true),
            (Some("wild.test"), false),
            (Some("begin.org"), true),
            (Some("begin.example.org"), true),
            (Some("begin."), false),
            (Some("plain.test"), false),
            (Some("sni.test"), true),
            (Some("a.snis.test"), true),
            // It is met under its server name alone.
            (Some("host-of-sni.test"), false),
            (Some("other.test"), false),
            (None, true),
        ] {
            assert_eq!(asking.is_for(name), expected, "{name:?}");
        }
    }

    #[test]
    fn a_route_without_names_has_all_asked_and_none_that_wants_it_nobody() {
        let routes = [
            json!({ "hosts": ["a.test"] }),
            json!({ "paths": ["/"] }),
            json!({ "snis": ["s.test"] }),
        ];
        for name in [Some("a.test"), Some("other.test"), None] {
            assert!(asking(&routes, &[1, 2]).is_for(name), "{name:?}");
            assert!(!asking(&routes, &[]).is_for(name), "{name:?}");
        }
        // A server name is none that a client without one could mean.
        assert!(!asking(&routes, &[3]).is_for(None));
    }

    fn amended(before: &CompiledSnapshot, old: &Snapshot, new: &Snapshot) -> Option<Asking> {
        let difference = new.inventory.since(&old.inventory);
        let amended = before.amended(old, new, &difference, &Room::default())?;
        Some(amended.unwrap().asking)
    }

    #[test]
    fn a_change_of_routes_and_plugins_changes_who_is_asked() {
        let routes = [
            json!({ "hosts": ["a.test"] }),
            json!({ "hosts": ["b.test"] }),
        ];
        let old = snapshot(1, &routes, &[1]);
        let before = compile(&old).unwrap();
        let asks = |asking: &Asking, names: &[&str]| -> Vec<bool> {
            names.iter().map(|name| asking.is_for(Some(name))).collect()
        };
        let names = ["a.test", "b.test", "c.test"];
        assert_eq!(asks(&before.asking, &names), [true, false, false]);
        let both = amended(&before, &old, &snapshot(2, &routes, &[1, 2])).unwrap();
        assert_eq!(asks(&both, &names), [true, true, false]);
        let moved = [routes[0].clone(), json!({ "hosts": ["c.test"] })];
        let moved = snapshot(2, &moved, &[1, 2]);
        let moved = amended(&before, &old, &moved).unwrap();
        assert_eq!(asks(&moved, &names), [true, false, true]);
        // What asks everywhere, and what asks no more, is for all to be compiled anew.
        let mut records: Vec<Record> = old.records().collect();
        records.push(modifier(99, None));
        let everywhere = Snapshot::new(1, Revision(2), records);
        assert!(amended(&before, &old, &everywhere).is_none());
        assert!(amended(&before, &old, &snapshot(2, &routes, &[])).is_none());
    }
}

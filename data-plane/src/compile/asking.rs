//! In which TLS handshakes clients are asked for a certificate: where a route wants one that such a connection may ask
//! for. Clients that name a host of others are left alone, since browsers bother their users about it (Kong 3.9,
//! tls-handshake-modifier, goes by `snis` alone; a route without them has `hosts` here before all are asked). A name that is
//! no route's tells nothing: proxies in front may use one for all that they send, so these are asked.

use std::collections::HashMap;
use std::sync::Arc;

use shared::authority::{bare, split_port};
use shared::entity::Route;

use super::CompiledRoute;

/// By the name in the handshake.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asking {
    /// For the routes that were compiled together.
    whole: Arc<Sides>,
    /// For those of them that are gone or look different now.
    gone: Arc<Sides>,
    /// For those that came later.
    newer: Arc<Sides>,
}

impl Asking {
    /// What `routes` want, each with what it was compiled to, that were compiled together.
    pub(super) fn of<'a>(
        routes: impl Iterator<Item = (&'a Route, &'a CompiledRoute)> + Clone,
    ) -> Self {
        let wanted = Names::of(routes.clone().filter(wants));
        let mut whole = Sides::default();
        // The names of all others are many: they are there if somebody asks for them.
        if wanted.has_all_others_asked() {
            whole.plain = Names::of(routes.filter(|route| !wants(route)));
        }
        whole.wanted = wanted;
        Self {
            whole: Arc::new(whole),
            ..Self::default()
        }
    }

    /// The same without the routes `gone`, which were compiled together with others, and with `newer` in the place of what
    /// came later; `None` if names of others must be known for it that are not.
    pub(super) fn amended<'a>(
        &self,
        gone: impl Iterator<Item = (Route, &'a CompiledRoute)>,
        newer: impl Iterator<Item = (&'a Route, &'a CompiledRoute)>,
    ) -> Option<Self> {
        let mut left = Sides::clone(&self.gone);
        for (route, compiled) in gone {
            left.add((&route, compiled));
        }
        let mut came = Sides::default();
        newer.for_each(|route| came.add(route));
        let amended = Self {
            whole: Arc::clone(&self.whole),
            gone: Arc::new(left),
            newer: Arc::new(came),
        };
        let others = amended.has(|sides| sides.wanted.by_host)
            && !amended.has(|sides| sides.wanted.by_any_name);
        (!others || self.whole.wanted.has_all_others_asked()).then_some(amended)
    }

    /// Whether a client is asked that asks for `name`.
    pub(crate) fn is_for(&self, name: Option<&str>) -> bool {
        if self.has(|sides| sides.wanted.by_any_name) {
            return true;
        }
        let by_host = self.has(|sides| sides.wanted.by_host);
        let Some(name) = name.filter(|_| by_host || self.has(|sides| sides.wanted.by_server_name))
        else {
            // A client without a name may ask for any host.
            return by_host;
        };
        let name = name.to_ascii_lowercase();
        self.has(|sides| sides.wanted.met_by(&name))
            || by_host && !self.has(|sides| sides.plain.met_by(&name))
    }

    /// Whether any is left of what `count` counts.
    fn has(&self, count: impl Fn(&Sides) -> usize) -> bool {
        count(&self.whole) + count(&self.newer) > count(&self.gone)
    }
}

fn wants((_, compiled): &(&Route, &CompiledRoute)) -> bool {
    compiled.filters.wants_certificates
}

#[derive(Clone, Debug, Default)]
struct Sides {
    /// Of routes that want certificates.
    wanted: Names,
    /// Of routes that want none.
    plain: Names,
}

impl Sides {
    fn add(&mut self, route: (&Route, &CompiledRoute)) {
        let names = if wants(&route) {
            &mut self.wanted
        } else {
            &mut self.plain
        };
        names.add(route.0);
    }
}

/// The names under which routes are met, each with how many times it is there.
#[derive(Clone, Debug, Default)]
struct Names {
    /// Routes that can be met under any name.
    by_any_name: usize,
    /// Routes that can be met by their host, which a client may ask for under a name that is no route's, or without one.
    by_host: usize,
    by_server_name: usize,
    exact: HashMap<Box<str>, usize>,
    /// `*.example.com`, kept as `.example.com`.
    endings: HashMap<Box<str>, usize>,
    /// `example.*`, kept as `example.`.
    beginnings: HashMap<Box<str>, usize>,
}

impl Names {
    fn of<'a>(routes: impl Iterator<Item = (&'a Route, &'a CompiledRoute)>) -> Self {
        let mut names = Self::default();
        routes.for_each(|(route, _)| names.add(route));
        names
    }

    fn add(&mut self, route: &Route) {
        // With TLS a route is met by both, if it has both: the name in the handshake is what is known in time.
        let snis = route.snis.as_ref().map_or(&[][..], |snis| snis.as_slice());
        let hosts = route.hosts.as_deref().unwrap_or_default();
        if !snis.is_empty() {
            self.by_server_name += 1;
            for sni in snis {
                self.put(sni.as_str());
            }
        } else if !hosts.is_empty() {
            self.by_host += 1;
            for host in hosts {
                self.put(bare(split_port(host.as_str()).0));
            }
        } else {
            self.by_any_name += 1;
        }
    }

    fn put(&mut self, name: &str) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let (names, name) = if let Some(ending) = name.strip_prefix('*') {
            (&mut self.endings, ending)
        } else if let Some(beginning) = name.strip_suffix('*') {
            (&mut self.beginnings, beginning)
        } else {
            (&mut self.exact, &*name)
        };
        match names.get_mut(name) {
            Some(count) => *count += 1,
            None => _ = names.insert(name.into(), 1),
        }
    }

    /// Whether clients are asked under all names but those of routes that want no certificate.
    fn has_all_others_asked(&self) -> bool {
        self.by_host > 0 && self.by_any_name == 0
    }

    /// How many times `name`, in lower case, is one of them. As in the router, a wildcard stands for one label or several.
    fn met_by(&self, name: &str) -> usize {
        let of = |names: &HashMap<Box<str>, usize>, part: Option<&str>| {
            part.and_then(|part| names.get(part)).copied().unwrap_or(0)
        };
        let mut count = of(&self.exact, Some(name));
        if !self.endings.is_empty() || !self.beginnings.is_empty() {
            for (dot, _) in name.match_indices('.') {
                count += of(&self.endings, name.get(dot..).filter(|_| dot > 0));
                let beginning = name.get(..=dot).filter(|begun| begun.len() < name.len());
                count += of(&self.beginnings, beginning);
            }
        }
        count
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
    fn names_of_routes_that_want_none_are_left_alone_and_others_asked() {
        let routes = [
            json!({ "hosts": ["Mutual.test:8443", "*.wild.test", "begin.*"] }),
            json!({ "hosts": ["plain.test:8443", "*.plain.wild.test", "*.quiet.test", "quiet.*"] }),
            json!({ "snis": ["sni.test", "*.snis.test"], "hosts": ["host-of-sni.test"] }),
            json!({ "paths": ["/"] }),
            json!({ "snis": ["plain-sni.test."], "hosts": ["host-of-plain-sni.test"] }),
        ];
        let asking = asking(&routes, &[1, 3]);
        for (name, expected) in [
            (Some("mutual.test"), true),
            (Some("MUTUAL.test"), true),
            (Some("a.wild.test"), true),
            (Some("a.b.wild.test"), true),
            (Some("begin.example.org"), true),
            (Some("sni.test"), true),
            (Some("a.snis.test"), true),
            // A route that wants it can be met under it, as well as one that does not.
            (Some("a.plain.wild.test"), true),
            (Some("plain.test"), false),
            (Some("PLAIN.test"), false),
            (Some("a.quiet.test"), false),
            (Some("a.b.quiet.test"), false),
            (Some("quiet.org"), false),
            (Some("quiet.example.org"), false),
            (Some("plain-sni.test"), false),
            // Names of no route: what is asked for behind them may be anything.
            (Some("wild.test"), true),
            (Some("quiet"), true),
            (Some("other.test"), true),
            // These are met under their server names alone.
            (Some("host-of-sni.test"), true),
            (Some("host-of-plain-sni.test"), true),
            (None, true),
        ] {
            assert_eq!(asking.is_for(name), expected, "{name:?}");
        }
    }

    #[test]
    fn under_a_name_of_no_route_nobody_is_asked_for_routes_that_have_server_names() {
        let routes = [
            json!({ "snis": ["sni.test"], "hosts": ["host.test"] }),
            json!({ "hosts": ["plain.test"] }),
        ];
        let asking = asking(&routes, &[1]);
        for (name, expected) in [
            (Some("sni.test"), true),
            (Some("host.test"), false),
            (Some("plain.test"), false),
            (Some("other.test"), false),
            (None, false),
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

    fn asks(asking: &Asking, names: &[&str]) -> Vec<bool> {
        names.iter().map(|name| asking.is_for(Some(name))).collect()
    }

    #[test]
    fn a_change_of_routes_and_plugins_changes_who_is_asked() {
        let routes = [
            json!({ "hosts": ["a.test"] }),
            json!({ "hosts": ["b.test"] }),
        ];
        let old = snapshot(1, &routes, &[1]);
        let before = compile(&old).unwrap();
        let names = ["a.test", "b.test", "c.test"];
        assert_eq!(asks(&before.asking, &names), [true, false, true]);
        let both = amended(&before, &old, &snapshot(2, &routes, &[1, 2])).unwrap();
        assert_eq!(asks(&both, &names), [true, true, true]);
        let moved = [routes[0].clone(), json!({ "hosts": ["c.test"] })];
        let moved = snapshot(2, &moved, &[1]);
        let moved = amended(&before, &old, &moved).unwrap();
        assert_eq!(asks(&moved, &names), [true, true, false]);
        // What asks everywhere, and what asks no more, is for all to be compiled anew.
        let mut records: Vec<Record> = old.records().collect();
        records.push(modifier(99, None));
        let everywhere = Snapshot::new(1, Revision(2), records);
        assert!(amended(&before, &old, &everywhere).is_none());
        assert!(amended(&before, &old, &snapshot(2, &routes, &[])).is_none());
    }

    #[test]
    fn a_name_is_of_a_route_for_as_long_as_one_has_it() {
        let host = |name: &str| json!({ "hosts": [name] });
        let all = [
            host("a.test"),
            host("b.test"),
            host("b.test"),
            host("*.b.test"),
            host("c.test"),
        ];
        let first = snapshot(1, &all, &[1]);
        let mut before = compile(&first).unwrap();
        let names = ["a.test", "b.test", "x.b.test", "c.test", "d.test"];
        let expected = [true, false, false, false, true];
        assert_eq!(asks(&before.asking, &names), expected);
        let mut old = first;
        for (revision, routes, expected) in [
            // One of two with the name is gone, as is the only one with another.
            (2, [0, 1, 2, 3, 9], [true, false, false, true, true]),
            (3, [0, 1, 9, 3, 9], [true, false, false, true, true]),
            (4, [0, 9, 9, 3, 9], [true, true, false, true, true]),
            // It comes again, and goes again.
            (5, [0, 1, 9, 9, 9], [true, false, true, true, true]),
            (6, [0, 9, 9, 9, 9], [true, true, true, true, true]),
        ] {
            let mut records: Vec<Record> = vec![modifier(101, Some(1))];
            for (id, at) in (1..).zip(routes) {
                if let Some(route) = all.get(at) {
                    records.push(record("routes", id, route.clone()));
                }
            }
            let new = Snapshot::new(1, Revision(revision), records);
            let difference = new.inventory.since(&old.inventory);
            let amended = before.amended(&old, &new, &difference, &Room::default());
            before = amended.unwrap().unwrap();
            assert_eq!(asks(&before.asking, &names), expected, "{revision}");
            let anew = compile(&new).unwrap();
            assert_eq!(asks(&anew.asking, &names), expected, "{revision}");
            old = new;
        }
        // A route that wants it and moves takes its names along.
        let mut moved: Vec<Record> = vec![modifier(101, Some(1))];
        moved.push(record("routes", 1, json!({ "snis": ["s.test"] })));
        let moved = Snapshot::new(1, Revision(7), moved);
        let moved = amended(&before, &old, &moved).unwrap();
        assert_eq!(
            asks(&moved, &["a.test", "s.test", "d.test"]),
            [false, true, false]
        );
        assert!(!moved.is_for(None));
    }

    #[test]
    fn the_first_route_that_asks_by_its_host_has_the_names_of_all_looked_at() {
        let routes = [
            json!({ "hosts": ["a.test"] }),
            json!({ "hosts": ["b.test"] }),
            json!({ "snis": ["s.test"] }),
        ];
        let old = snapshot(1, &routes, &[]);
        let before = compile(&old).unwrap();
        assert!(amended(&before, &old, &snapshot(2, &routes, &[1])).is_none());
        let by_server_name = amended(&before, &old, &snapshot(2, &routes, &[3])).unwrap();
        let names = ["a.test", "b.test", "s.test", "other.test"];
        assert_eq!(asks(&by_server_name, &names), [false, false, true, false]);
    }
}

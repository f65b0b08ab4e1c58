//! Which stream goes to which service: by its source, its destination and its server name (Kong 3.9, router of
//! the stream subsystem).

use std::net::IpAddr;
use std::sync::Arc;

use plugins::exchange::Matched;
use plugins::filter::{Counts, Filter as _};
use plugins::registry::AnyFilter;
use shared::entity::{Peer, Protocol, Route};
use shared::network::Network;
use shared::types::Set;
use uuid::Uuid;

use crate::compile::CompiledService;
use crate::metrics::Labels;
use crate::trusted::TrustedPeers;

/// A route of streams.
#[derive(Debug)]
pub(crate) struct StreamRoute {
    pub(crate) id: Uuid,
    /// `None` without a service, or with one whose protocol is none that we speak.
    pub(crate) service: Option<Arc<CompiledService>>,
    pub(crate) run: StreamFilters,
    /// Whether servers behind TLS are asked for by the server name that the client asks for.
    pub(crate) preserve_host: bool,
    kinds: Vec<Kind>,
    sources: Vec<End>,
    destinations: Vec<End>,
    names: Vec<Name>,
}

/// What plugins do with the streams of a route, and what these are told and counted as.
#[derive(Debug, Default)]
pub(crate) struct StreamFilters {
    /// The one that runs first in front.
    pub(crate) filters: Vec<Arc<AnyFilter>>,
    /// What of them is counted, if a plugin says so.
    pub(crate) counts: Option<Counts>,
    pub(crate) matched: Matched,
    pub(crate) labels: Arc<Labels>,
}

impl StreamFilters {
    /// Whether all of them let a stream of `client` go on.
    pub(crate) fn admit(&self, client: IpAddr) -> bool {
        self.filters.iter().all(|filter| filter.on_stream(client))
    }
}

/// What a stream is to the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Bytes.
    Plain,
    /// TLS that ends here.
    Tls,
    /// TLS that is passed on.
    Passed,
    /// UDP.
    Datagrams,
}

/// One end of a stream: an address or network, a port, or both.
#[derive(Debug)]
struct End {
    network: Option<TrustedPeers>,
    /// Whether the network has several addresses.
    wide: bool,
    port: Option<u16>,
}

/// A server name, perhaps with a wildcard at one end.
#[derive(Debug, Eq, PartialEq)]
enum Name {
    Exact(String),
    /// `*.example.com`, kept as `.example.com`.
    Ending(String),
    /// `example.*`, kept as `example.`.
    Beginning(String),
    Any,
}

/// A stream that is to be routed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) kind: Kind,
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: (IpAddr, u16),
    pub(crate) name: Option<&'a str>,
}

/// The routes of a snapshot, the one that is tried first in front.
#[derive(Debug, Default)]
pub(crate) struct StreamRoutes(Vec<Arc<StreamRoute>>);

impl StreamRoutes {
    /// What they are called.
    pub(crate) fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.0.iter().map(|route| route.id)
    }

    /// What plugins have counted of their streams.
    pub(crate) fn counts(&self) -> impl Iterator<Item = Counts> {
        self.0.iter().filter_map(|route| route.run.counts)
    }

    /// `routes` in the order in which they are tried: more attributes come first, among equals server name before
    /// source before destination, then what names ports and addresses, then what names no ranges, then what is older.
    pub(crate) fn new(routes: Vec<(StreamRoute, u64)>) -> Self {
        let mut routes = routes;
        routes.sort_by_key(|(route, created_at)| {
            let rank = [&route.sources, &route.destinations].map(|ends| !ends.is_empty());
            let named = !route.names.is_empty();
            let ends: u8 = rank.map(u8::from).into_iter().sum();
            let count = u8::from(named) + ends;
            let precise = |ends: &[End]| {
                ends.iter()
                    .any(|end| end.network.is_some() && end.port.is_some())
            };
            let precision =
                u8::from(precise(&route.sources)) + u8::from(precise(&route.destinations));
            let narrow = |ends: &[End]| ends.iter().all(|end| !end.wide);
            let exact = |name: &Name| matches!(name, Name::Exact(_));
            let exactness = u8::from(route.names.iter().all(exact))
                + u8::from(narrow(&route.sources))
                + u8::from(narrow(&route.destinations));
            let order = (count, named, rank, precision, exactness);
            (std::cmp::Reverse(order), *created_at, route.id)
        });
        Self(
            routes
                .into_iter()
                .map(|(route, _)| Arc::new(route))
                .collect(),
        )
    }

    /// The route of a stream. Where none is of its kind, whether there is TLS is the listener's matter: a route
    /// that names no server takes the stream without TLS as well as the one whose TLS ends here, as in Kong.
    pub(crate) fn find(&self, asked: &Asked<'_>) -> Option<&Arc<StreamRoute>> {
        let own = self.0.iter().find(|route| route.matches(asked));
        own.or_else(|| {
            let kind = match asked.kind {
                Kind::Plain => Kind::Tls,
                Kind::Tls => Kind::Plain,
                Kind::Passed | Kind::Datagrams => return None,
            };
            let other = Asked { kind, ..*asked };
            let mut nameless = self.0.iter().filter(|route| route.names.is_empty());
            nameless.find(|route| route.matches(&other))
        })
    }
}

impl StreamRoute {
    /// The route, if it is one of streams that we carry.
    pub(crate) fn compile(
        route: &Route,
        service: Option<Arc<CompiledService>>,
        run: StreamFilters,
    ) -> Option<Self> {
        let protocols = route.protocols.as_slice().iter();
        let kinds: Vec<Kind> = protocols
            .filter_map(|protocol| match protocol {
                Protocol::Tcp => Some(Kind::Plain),
                Protocol::Tls => Some(Kind::Tls),
                Protocol::TlsPassthrough => Some(Kind::Passed),
                Protocol::Udp => Some(Kind::Datagrams),
                Protocol::Http | Protocol::Https | Protocol::Grpc | Protocol::Grpcs => None,
            })
            .collect();
        if kinds.is_empty() {
            return None;
        }
        let ends = |peers: Option<&[Peer]>| {
            let peers = peers.unwrap_or_default().iter();
            peers.map(End::of).collect::<Vec<_>>()
        };
        let names = route.snis.as_ref().map(Set::as_slice);
        Some(Self {
            id: route.id,
            service,
            run,
            preserve_host: route.preserve_host,
            kinds,
            sources: ends(route.sources.as_ref().map(Set::as_slice)),
            destinations: ends(route.destinations.as_ref().map(Set::as_slice)),
            names: names
                .unwrap_or_default()
                .iter()
                .map(|name| Name::of(name.as_str()))
                .collect(),
        })
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        let any = |ends: &[End], end| ends.is_empty() || ends.iter().any(|one| one.matches(end));
        let named = self.names.is_empty()
            || asked.name.is_some_and(|name| {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                self.names.iter().any(|pattern| pattern.matches(&name))
            });
        self.kinds.contains(&asked.kind)
            && named
            && any(&self.sources, asked.source)
            && any(&self.destinations, asked.destination)
    }
}

impl End {
    fn of(peer: &Peer) -> Self {
        // What cannot be read matches nobody.
        let network = |text: &String| text.parse::<Network>().into_iter().collect::<Vec<_>>();
        Self {
            network: peer.ip.as_ref().map(|text| network(text).into()),
            wide: peer.ip.as_ref().is_some_and(|text| text.contains('/')),
            port: peer.port,
        }
    }

    fn matches(&self, (address, port): (IpAddr, u16)) -> bool {
        self.network
            .as_ref()
            .is_none_or(|network| network.contains(address))
            && self.port.is_none_or(|own| own == port)
    }
}

impl Name {
    fn of(text: &str) -> Self {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        if text == "*" {
            Self::Any
        } else if let Some(ending) = text.strip_prefix('*') {
            Self::Ending(ending.to_owned())
        } else if let Some(beginning) = text.strip_suffix('*') {
            Self::Beginning(beginning.to_owned())
        } else {
            Self::Exact(text)
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(own) => own == name,
            Self::Ending(ending) => name.ends_with(ending.as_str()),
            Self::Beginning(beginning) => name.starts_with(beginning.as_str()),
            Self::Any => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn routes(list: &[Value]) -> StreamRoutes {
        let made = list.iter().zip(1_u128..).map(|(fields, number)| {
            let mut record = json!({
                "id": Uuid::from_u128(number), "created_at": number, "updated_at": 1, "protocols": ["tcp"],
            });
            let object = record.as_object_mut().unwrap();
            object.extend(fields.as_object().unwrap().clone());
            let route: Route = serde_json::from_value(record).unwrap();
            let created_at = route.created_at;
            let compiled = StreamRoute::compile(&route, None, StreamFilters::default());
            (compiled.unwrap(), created_at)
        });
        StreamRoutes::new(made.collect())
    }

    fn found(routes: &StreamRoutes, kind: Kind, name: Option<&str>, source: &str) -> Option<u128> {
        let asked = Asked {
            kind,
            source: (source.parse().unwrap(), 4000),
            destination: ([127, 0, 0, 1].into(), 9000),
            name,
        };
        routes.find(&asked).map(|route| route.id.as_u128())
    }

    #[test]
    fn ends_match_by_network_and_port() {
        let routes = routes(&[
            json!({"destinations": [{"port": 9000}]}),
            json!({"sources": [{"ip": "10.0.0.0/8"}], "destinations": [{"port": 9000}]}),
            json!({"sources": [{"ip": "10.1.0.0/16", "port": 4000}], "destinations": [{"port": 9000}]}),
            json!({"sources": [{"port": 5000}]}),
        ]);
        let plain = |source| found(&routes, Kind::Plain, None, source);
        assert_eq!(plain("192.0.2.1"), Some(1));
        assert_eq!(plain("10.2.0.1"), Some(2), "more attributes come first");
        assert_eq!(plain("10.1.0.1"), Some(3), "and what is more precise");
        assert_eq!(found(&routes, Kind::Datagrams, None, "192.0.2.1"), None);
    }

    #[test]
    fn names_match_as_those_of_certificates_do() {
        let routes = routes(&[
            json!({"protocols": ["tls"], "snis": ["a.example.com", "*.example.org"]}),
            json!({"protocols": ["tls_passthrough"], "snis": ["b.example.com"]}),
            json!({"protocols": ["tls"], "sources": [{"ip": "192.0.2.0/24"}]}),
        ]);
        let tls = |name| found(&routes, Kind::Tls, name, "192.0.2.1");
        assert_eq!(
            tls(Some("A.example.com")),
            Some(1),
            "a name before a source"
        );
        assert_eq!(tls(Some("x.example.org")), Some(1));
        assert_eq!(tls(Some("example.org")), Some(3));
        assert_eq!(tls(None), Some(3));
        let passed = found(&routes, Kind::Passed, Some("b.example.com"), "192.0.2.1");
        assert_eq!(passed, Some(2));
    }

    #[test]
    fn what_is_named_exactly_comes_before_a_range_or_a_wildcard() {
        let routes = routes(&[
            json!({"sources": [{"ip": "127.0.0.0/8"}]}),
            json!({"sources": [{"ip": "127.0.0.1"}, {"ip": "127.0.0.2"}]}),
            json!({"destinations": [{"ip": "127.0.0.0/8"}], "protocols": ["udp"]}),
            json!({"destinations": [{"ip": "127.0.0.1"}], "protocols": ["udp"]}),
            json!({"snis": ["*.foo.test"], "protocols": ["tls"]}),
            json!({"snis": ["a.foo.test"], "protocols": ["tls"]}),
        ]);
        assert_eq!(found(&routes, Kind::Plain, None, "127.0.0.1"), Some(2));
        assert_eq!(found(&routes, Kind::Plain, None, "127.0.0.3"), Some(1));
        assert_eq!(found(&routes, Kind::Datagrams, None, "10.0.0.1"), Some(4));
        for (name, expected) in [("a.foo.test", 6), ("b.foo.test", 5)] {
            let tls = found(&routes, Kind::Tls, Some(name), "10.0.0.1");
            assert_eq!(tls, Some(expected), "{name}");
        }
    }

    #[test]
    fn whether_there_is_tls_is_the_listeners_matter() {
        let routes = routes(&[
            json!({"protocols": ["tls"], "destinations": [{"port": 9000}]}),
            json!({"protocols": ["tcp"], "sources": [{"ip": "192.0.2.0/24"}]}),
            json!({"protocols": ["tls"], "snis": ["a.test"]}),
            json!({"protocols": ["udp"], "sources": [{"ip": "10.0.0.0/8"}]}),
        ]);
        assert_eq!(found(&routes, Kind::Plain, None, "198.51.100.1"), Some(1));
        let own = found(&routes, Kind::Plain, None, "192.0.2.1");
        assert_eq!(own, Some(2), "one of its own kind comes first");
        assert_eq!(
            found(&routes, Kind::Tls, Some("a.test"), "192.0.2.1"),
            Some(3)
        );
        assert_eq!(
            found(&routes, Kind::Tls, Some("b.test"), "192.0.2.1"),
            Some(1)
        );
        for kind in [Kind::Passed, Kind::Datagrams] {
            assert_eq!(found(&routes, kind, Some("a.test"), "192.0.2.1"), None);
        }
        assert_eq!(found(&routes, Kind::Datagrams, None, "10.0.0.1"), Some(4));
    }

    #[test]
    fn the_older_of_equals_comes_first() {
        let routes = routes(&[
            json!({"destinations": [{"port": 9000}]}),
            json!({"destinations": [{"port": 9000}]}),
        ]);
        assert_eq!(found(&routes, Kind::Plain, None, "192.0.2.1"), Some(1));
    }
}

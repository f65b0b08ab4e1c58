//! Names to addresses: the hosts file first, then DNS in the order that is set, with each answer's own
//! time to live (Kong 3.9, `dns_*`).

mod config;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use shared::clock::monotonic;
use tokio::net::TcpStream;

pub(crate) use self::config::DnsConfig;

/// How long a line of the hosts file is believed.
const HOSTS_TTL: Duration = Duration::from_mins(1);
/// Longest time that an answer is believed.
const MAX_TTL: Duration = Duration::from_hours(1);
/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Whatever was found last.
    Last,
    /// Services with ports and weights.
    Srv,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) found: Vec<Found>,
    pub(crate) until: Instant,
}

/// One address of a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Found {
    pub(crate) address: IpAddr,
    /// Of an SRV record.
    pub(crate) port: Option<u16>,
    pub(crate) weight: Option<u16>,
    /// The name of the server that it names.
    pub(crate) name: Option<String>,
}

/// Looks names up. One per core: its sockets belong to the core's runtime.
pub(crate) struct Resolver {
    config: DnsConfig,
    dns: Option<TokioResolver>,
    /// What names had last.
    last: Mutex<HashMap<String, Last>>,
    /// Why names could not be looked up, and until when nobody is asked again.
    failed: Mutex<HashMap<String, (Instant, String)>>,
}

/// What a name had last.
#[derive(Clone)]
struct Last {
    /// The type of record.
    kind: Kind,
    /// What it led to.
    resolved: Resolved,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver by `config`. Without name servers only the hosts file is left.
    pub(crate) fn new(config: DnsConfig) -> Self {
        let provider = TokioRuntimeProvider::default();
        let builder = if config.servers.is_empty() {
            TokioResolver::builder_tokio()
        } else {
            let servers = config
                .servers
                .iter()
                .map(|server| {
                    let mut config = NameServerConfig::udp_and_tcp(server.ip());
                    for connection in &mut config.connections {
                        connection.port = server.port();
                    }
                    config
                })
                .collect();
            let domains = config.search.domains.clone();
            let servers = ResolverConfig::from_parts(None, domains, servers);
            let mut builder = TokioResolver::builder_with_config(servers, provider);
            if let Some(dots) = config.search.dots {
                builder.options_mut().ndots = dots;
            }
            Ok(builder)
        };
        let dns = builder.and_then(|mut builder| {
            let options = builder.options_mut();
            options.use_hosts_file = ResolveHosts::Never;
            options.timeout = Duration::from_secs(2);
            options.attempts = 3;
            options.cache_size = u64::try_from(config.remembered).unwrap_or(u64::MAX);
            options.positive_min_ttl = config.valid;
            options.positive_max_ttl = Some(config.valid.unwrap_or(MAX_TTL));
            options.negative_min_ttl = Some(config.not_found);
            options.negative_max_ttl = Some(config.not_found);
            builder.build()
        });
        let dns = dns
            .inspect_err(|error| tracing::warn!(%error, "no name server is known"))
            .ok();
        Self {
            config,
            dns,
            last: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// The addresses of `name`, in lower case. An address stands for itself.
    pub(crate) async fn resolve(&self, name: &str) -> io::Result<Resolved> {
        if let Some(resolved) = self.known(name) {
            return Ok(resolved);
        }
        let Some(dns) = &self.dns else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no name server"));
        };
        let last = locked(&self.last).get(name).cloned();
        let failed = locked(&self.failed).get(name).cloned();
        if let Some((until, why)) = failed
            && monotonic() < until
        {
            let why = io::Error::new(io::ErrorKind::NotFound, why);
            return self.stale(last, until).ok_or(why);
        }
        let last_kind = last.as_ref().map(|last| last.kind);
        let mut failure = None;
        let mut asked = Vec::new();
        for kind in &self.config.order {
            let kind = match (kind, last_kind) {
                (Kind::Last, Some(last)) => last,
                (Kind::Last, None) => continue,
                (kind, _) => *kind,
            };
            if asked.contains(&kind) {
                continue;
            }
            asked.push(kind);
            match ask(dns, name, kind).await {
                Ok(Some(resolved)) => {
                    let last = Last {
                        kind,
                        resolved: resolved.clone(),
                    };
                    self.remember(&self.last, name, last);
                    return Ok(resolved);
                }
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        let now = monotonic();
        let Some(failure) = failure else {
            // The servers know that there is nothing: what there was is no longer true.
            locked(&self.last).remove(name);
            let failure = io::Error::new(io::ErrorKind::NotFound, "no records");
            let told = (now + self.config.not_found, failure.to_string());
            self.remember(&self.failed, name, told);
            return Err(failure);
        };
        let until = now + self.config.error;
        self.remember(&self.failed, name, (until, failure.to_string()));
        let stale = self.stale(last, until);
        if stale.is_some() {
            tracing::warn!(name, error = %failure, "name not resolved, keeping its last addresses");
        }
        stale.ok_or(failure)
    }

    /// Whether an answer that was good until then must not be used any more, even if no server gives another.
    pub(crate) fn is_over(&self, until: Instant) -> bool {
        until + self.config.stale <= monotonic()
    }

    /// What a name had last, if that is not too old: good until it can be looked up again.
    fn stale(&self, last: Option<Last>, until: Instant) -> Option<Resolved> {
        let mut resolved = last?.resolved;
        let over = self.is_over(resolved.until);
        resolved.until = until;
        (!over).then_some(resolved)
    }

    /// Remembers `what` of `name`, in place of everything else once there is too much of that.
    fn remember<T>(&self, all: &Mutex<HashMap<String, T>>, name: &str, what: T) {
        let mut all = locked(all);
        if all.len() >= self.config.remembered && !all.contains_key(name) {
            all.clear();
        }
        all.insert(name.to_owned(), what);
    }

    /// Where `host` and `port` are, by name or address.
    pub(crate) async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let resolved = self.resolve(&host.to_ascii_lowercase()).await?;
        let at = |found: Found| {
            let own = found.port.filter(|port| *port != 0);
            SocketAddr::new(found.address, own.unwrap_or(port))
        };
        Ok(resolved.found.into_iter().map(at).collect())
    }

    /// A connection to the first address of `host` that takes one.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.addresses(host, port).await? {
            let connected = TcpStream::connect(address).await;
            match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// What needs no name server.
    fn known(&self, name: &str) -> Option<Resolved> {
        let bare = name.strip_suffix('.').unwrap_or(name);
        let addresses = match bare.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => match self.config.hosts.get(bare) {
                Some(addresses) => addresses.clone(),
                // RFC 6761 §6.3.
                None if bare == "localhost" || bare.ends_with(".localhost") => {
                    vec![Ipv4Addr::LOCALHOST.into()]
                }
                None => return None,
            },
        };
        let found = addresses.into_iter().map(Found::from).collect();
        Some(Resolved {
            found,
            until: monotonic() + HOSTS_TTL,
        })
    }
}

fn locked<T>(all: &Mutex<T>) -> MutexGuard<'_, T> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<IpAddr> for Found {
    fn from(address: IpAddr) -> Self {
        Self {
            address,
            port: None,
            weight: None,
            name: None,
        }
    }
}

/// Asks for one type of record; `None` if the name has none of it.
async fn ask(dns: &TokioResolver, name: &str, kind: Kind) -> io::Result<Option<Resolved>> {
    let wanted = match kind {
        Kind::Srv => RecordType::SRV,
        Kind::Aaaa => RecordType::AAAA,
        Kind::A | Kind::Last => RecordType::A,
    };
    let answer = match dns.lookup(name, wanted).await {
        Ok(answer) => answer,
        Err(error) if error.is_no_records_found() => return Ok(None),
        Err(error) => return Err(io::Error::other(error.to_string())),
    };
    let mut until = answer.valid_until();
    let mut found = Vec::new();
    if kind == Kind::Srv {
        let services: Vec<_> = answer
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(service) => Some(service),
                _ => None,
            })
            .collect();
        let best = services.iter().map(|service| service.priority).min();
        for service in services
            .iter()
            .filter(|service| Some(service.priority) == best)
        {
            let target = service.target.to_utf8().to_ascii_lowercase();
            for address_kind in [Kind::A, Kind::Aaaa] {
                let Some(resolved) = Box::pin(ask(dns, &target, address_kind)).await? else {
                    continue;
                };
                until = until.min(resolved.until);
                found.extend(resolved.found.into_iter().map(|found| Found {
                    port: Some(service.port),
                    weight: Some(service.weight),
                    name: Some(target.trim_end_matches('.').to_owned()),
                    ..found
                }));
                break;
            }
        }
    } else {
        for record in answer.answers() {
            match record.data {
                RData::A(address) => found.push(IpAddr::V4(address.into()).into()),
                RData::AAAA(address) => found.push(IpAddr::V6(address.into()).into()),
                _ => {}
            }
        }
    }
    // Some servers turn the list round with each answer; the order must not matter.
    found.sort_by(|a, b| (a.address, a.port, &a.name).cmp(&(b.address, b.port, &b.name)));
    found.dedup();
    Ok((!found.is_empty()).then_some(Resolved { found, until }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::Settings;

    /// Nobody serves names at port 1.
    fn resolver(hosts: &Path) -> Resolver {
        let config = DnsConfig::read(&Settings {
            dns_hostsfile: hosts.to_owned(),
            dns_resolver: vec!["127.0.0.1:1".to_owned()],
            dns_order: vec!["A".to_owned()],
            ..Settings::default()
        });
        Resolver::new(config.unwrap())
    }

    #[tokio::test(flavor = "local")]
    async fn a_server_is_reached_at_the_first_of_its_addresses_that_takes_connections() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // 0.0.0.2 is nobody's.
        let hosts = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&hosts, "0.0.0.2 store.test\n127.0.0.1 store.test").unwrap();
        let resolver = resolver(hosts.path());
        let connected = resolver.connect("Store.test", port).await.unwrap();
        assert_eq!(connected.peer_addr().unwrap().port(), port);
    }

    #[tokio::test(flavor = "local")]
    async fn what_needs_no_server_is_answered_without_one() {
        let resolver = resolver(Path::new("/nowhere"));
        for (name, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("localhost", "127.0.0.1"),
            ("a.localhost", "127.0.0.1"),
            ("::1", "::1"),
        ] {
            let answer = resolver.resolve(name).await.unwrap();
            assert_eq!(
                answer.found,
                [address.parse::<IpAddr>().unwrap().into()],
                "{name}"
            );
        }
        assert!(resolver.resolve("a.test").await.is_err());
    }

    #[test]
    fn what_is_found_anew_of_a_known_name_takes_the_place_of_nothing_else() {
        let mut resolver = resolver(Path::new("/nowhere"));
        resolver.config.remembered = 2;
        let all = Mutex::new(HashMap::new());
        for (name, expected) in [
            ("a", &["a"][..]),
            ("b", &["a", "b"]),
            ("a", &["a", "b"]),
            ("c", &["c"]),
        ] {
            resolver.remember(&all, name, name.len());
            let mut known: Vec<_> = locked(&all).keys().cloned().collect();
            known.sort();
            assert_eq!(known, expected, "{name}");
        }
    }
}

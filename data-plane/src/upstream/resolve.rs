//! Names to addresses: the hosts file first, then DNS in the order that is set, with each answer's own
//! time to live (Kong 3.9, `dns_*`).

mod config;
mod last;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use serde::{Deserialize, Serialize};
use shared::clock::monotonic;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) use self::config::DnsConfig;
pub(crate) use self::last::GivenName;
use self::last::Last;

/// How long a line of the hosts file is believed.
const HOSTS_TTL: Duration = Duration::from_mins(1);
/// Longest time that an answer is believed.
const MAX_TTL: Duration = Duration::from_hours(1);
/// How long an answer is waited for where the one before can be used in its place: servers that are silent are given up after many
/// times as much.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is asked for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
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
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Found {
    pub(crate) address: IpAddr,
    /// Of an SRV record.
    pub(crate) port: Option<u16>,
    pub(crate) weight: Option<u16>,
    /// The name of the server that it names.
    pub(crate) name: Option<String>,
}

/// Looks names up. One per core: its sockets belong to the core's runtime.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Inner>);

struct Inner {
    config: DnsConfig,
    dns: Option<TokioResolver>,
    /// Why names could not be looked up, and until when nobody is asked again.
    failed: Mutex<HashMap<String, (Instant, String)>>,
    /// Names that are being looked up, while what they had last is used.
    asking: Mutex<HashSet<String>>,
}

/// While there is one, a name is being looked up.
struct Asking(Arc<Inner>, String);

impl Drop for Asking {
    fn drop(&mut self) {
        locked(&self.0.asking).remove(&self.1);
    }
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
        Self(Arc::new(Inner {
            config,
            dns,
            failed: Mutex::default(),
            asking: Mutex::default(),
        }))
    }

    /// The addresses of `name`, in lower case. An address stands for itself.
    pub(crate) async fn resolve(&self, name: &str) -> io::Result<Resolved> {
        let inner = &self.0;
        if let Some(resolved) = inner.known(name) {
            return Ok(resolved);
        }
        let failed = locked(&inner.failed).get(name).cloned();
        if let Some((until, why)) = failed
            && monotonic() < until
        {
            let why = io::Error::new(io::ErrorKind::NotFound, why);
            return inner.stale(name, until).ok_or(why);
        }
        let Some(stale) = inner.stale(name, monotonic()) else {
            // Meanwhile another core may find it, or the process before this one tell of it.
            let mut looking = pin!(inner.look_up(name));
            loop {
                if let Ok(found) = timeout(PATIENCE, looking.as_mut()).await {
                    return found;
                }
                if let Some(stale) = inner.stale(name, monotonic()) {
                    return Ok(stale);
                }
            }
        };
        // Nobody waits for long, and once nobody has heard anything nobody else waits at all.
        if !locked(&inner.asking).insert(name.to_owned()) {
            return Ok(stale);
        }
        let asking = Asking(Arc::clone(inner), name.to_owned());
        let looking = tokio::spawn(async move { asking.0.look_up(&asking.1).await });
        match timeout(PATIENCE, looking).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => Ok(stale),
        }
    }

    /// Whether an answer that was good until then must not be used any more, even if no server gives another.
    pub(crate) fn is_over(&self, until: Instant) -> bool {
        self.0.config.is_over(until)
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
}

impl Inner {
    /// Asks the servers for `name`; if they do not answer, it is what it was last.
    async fn look_up(&self, name: &str) -> io::Result<Resolved> {
        let Some(dns) = &self.dns else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no name server"));
        };
        let last_kind = self.config.last.kind(name);
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
                    self.config
                        .last
                        .remember(name, last, self.config.remembered);
                    return Ok(resolved);
                }
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        let now = monotonic();
        let (failure, lasts) = if let Some(failure) = failure {
            (failure, self.config.error)
        } else {
            // The servers know that there is nothing: what there was is no longer true.
            self.config.last.forget(name);
            let failure = io::Error::new(io::ErrorKind::NotFound, "no records");
            (failure, self.config.not_found)
        };
        let until = now + lasts;
        let told = (until, failure.to_string());
        remember(&self.failed, name, told, self.config.remembered);
        let stale = self.stale(name, until);
        if stale.is_some() {
            tracing::warn!(name, error = %failure, "name not resolved, keeping its last addresses");
        }
        stale.ok_or(failure)
    }

    /// What `name` had last, if that is not too old: good `until` it can be looked up again.
    fn stale(&self, name: &str, until: Instant) -> Option<Resolved> {
        let mut resolved = self.config.last.of(name)?;
        let over = self.config.is_over(resolved.until);
        resolved.until = until;
        (!over).then_some(resolved)
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

/// Remembers `what` of `name`, in place of everything else once there are `most`.
fn remember<T>(all: &Mutex<HashMap<String, T>>, name: &str, what: T, most: usize) {
    let mut all = locked(all);
    if all.len() >= most && !all.contains_key(name) {
        all.clear();
    }
    all.insert(name.to_owned(), what);
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

    use serde_json::json;

    use super::*;
    use crate::settings::Settings;

    /// Nobody serves names at port 1.
    fn resolver(hosts: &Path) -> Resolver {
        Resolver::new(config(hosts, "127.0.0.1:1"))
    }

    fn config(hosts: &Path, server: &str) -> DnsConfig {
        let config = DnsConfig::read(&Settings {
            dns_hostsfile: hosts.to_owned(),
            dns_resolver: vec![server.to_owned()],
            dns_order: vec!["A".to_owned()],
            ..Settings::default()
        });
        config.unwrap()
    }

    /// What is given of a name that had this address last, and for so many seconds has been looked up in vain.
    fn given(name: &str, address: &str, seconds: u64) -> GivenName {
        let none = json!(null);
        let found = json!([{"address": address, "port": none, "weight": none, "name": none}]);
        let given = json!({"name": name, "kind": "A", "found": found, "stale": seconds * 1_000});
        serde_json::from_value(given).unwrap()
    }

    #[tokio::test]
    async fn while_servers_are_silent_a_name_leads_where_it_did_and_nobody_waits_for_long() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = silent.local_addr().unwrap().to_string();
        let config = config(Path::new("/nowhere"), &server);
        let given = [
            given("a.test", "192.0.2.1", 5),
            given("old.test", "192.0.2.2", 3_601),
        ];
        config.take(&given);
        // All cores know of it.
        let [one, other] = [(); 2].map(|()| Resolver::new(config.clone()));
        tokio::time::pause();
        let start = tokio::time::Instant::now();
        for (resolver, waits) in [
            (&one, PATIENCE),
            (&one, PATIENCE),
            (&other, 2 * PATIENCE),
            (&other, 2 * PATIENCE),
        ] {
            let answer = resolver.resolve("a.test").await.unwrap();
            let address: IpAddr = "192.0.2.1".parse().unwrap();
            assert_eq!(answer.found, [address.into()]);
            assert_eq!(start.elapsed().as_millis() / 10, waits.as_millis() / 10);
        }
        assert!(one.resolve("old.test").await.is_err());
        // What is told while it is looked up is heard.
        let told = async {
            tokio::time::sleep(PATIENCE / 2).await;
            config.take(&[self::given("late.test", "192.0.2.3", 5)]);
        };
        let begun = tokio::time::Instant::now();
        assert!(tokio::join!(one.resolve("late.test"), told).0.is_ok());
        assert!(begun.elapsed() <= 2 * PATIENCE);
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
        let all = Mutex::new(HashMap::new());
        for (name, expected) in [
            ("a", &["a"][..]),
            ("b", &["a", "b"]),
            ("a", &["a", "b"]),
            ("c", &["c"]),
        ] {
            remember(&all, name, name.len(), 2);
            let mut known: Vec<_> = locked(&all).keys().cloned().collect();
            known.sort();
            assert_eq!(known, expected, "{name}");
        }
    }
}

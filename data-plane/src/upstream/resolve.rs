//! Names to addresses: the hosts file first, then DNS in the order that is set, with each answer's own
//! time to live (Kong 3.9, `dns_*`).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use shared::clock::monotonic;
use tokio::net::TcpStream;

/// How long a line of the hosts file is believed.
const HOSTS_TTL: Duration = Duration::from_mins(1);
/// Longest time that an answer is believed.
const MAX_TTL: Duration = Duration::from_hours(1);
/// How long a name that could not be looked up is not asked for again (Kong 3.9, `dns_error_ttl`).
const ERROR_TTL: Duration = Duration::from_secs(1);
/// Most names of which something is remembered.
const REMEMBERED: usize = 10_000;
/// Where the system keeps the domains that short names are looked for in.
const RESOLV_CONF: &str = "/etc/resolv.conf";

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

/// How names are looked up, the same for all cores.
#[derive(Clone, Debug)]
pub(crate) struct DnsConfig {
    hosts: Arc<HashMap<String, Vec<IpAddr>>>,
    /// The servers, in place of the system's.
    servers: Vec<SocketAddr>,
    search: Search,
    order: Vec<Kind>,
}

/// Where names are looked for beside the root.
#[derive(Clone, Debug, Default)]
struct Search {
    domains: Vec<Name>,
    /// Names with so many dots are first looked up as they are; nothing: the library's own number.
    dots: Option<usize>,
}

impl Search {
    /// What a `resolv.conf` says of it. One that cannot be read says nothing.
    fn read(conf: &[u8]) -> Self {
        // The library wants servers, which are others here.
        let conf = [conf, b"\nnameserver 127.0.0.1\n"].concat();
        let Ok((config, options)) = parse_resolv_conf(conf) else {
            return Self::default();
        };
        Self {
            domains: config.search().to_vec(),
            dots: Some(options.ndots),
        }
    }
}

impl DnsConfig {
    /// Reads the settings `dns_hostsfile`, `dns_resolver` and `dns_order`. The error names the setting.
    pub(crate) fn read(hosts: &Path, servers: &[String], order: &[String]) -> Result<Self, String> {
        // A machine without the file has no lines.
        let hosts = std::fs::read_to_string(hosts).unwrap_or_default();
        let servers = servers
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| {
                let address = text.parse::<SocketAddr>().ok();
                let address = address.or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)));
                address.ok_or_else(|| format!("dns_resolver: not an address: {text}"))
            })
            .collect::<Result<_, _>>()?;
        let order = order
            .iter()
            .map(|text| text.trim().to_ascii_uppercase())
            .filter(|name| !name.is_empty() && name != "CNAME")
            .map(|name| match &*name {
                "LAST" => Ok(Kind::Last),
                "SRV" => Ok(Kind::Srv),
                "A" => Ok(Kind::A),
                "AAAA" => Ok(Kind::Aaaa),
                _ => Err(format!("dns_order: unknown type {name}")),
            })
            .collect::<Result<_, _>>()?;
        let search = std::fs::read(RESOLV_CONF).unwrap_or_default();
        Ok(Self {
            hosts: Arc::new(parse_hosts(&hosts)),
            servers,
            search: Search::read(&search),
            order,
        })
    }
}

fn parse_hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        for name in words {
            let all = hosts.entry(name.to_ascii_lowercase()).or_default();
            if !all.contains(&address) {
                all.push(address);
            }
        }
    }
    // IPv4 first; where a name has both, that is what Kong uses.
    for all in hosts.values_mut() {
        all.sort_by_key(IpAddr::is_ipv6);
        if all.first().is_some_and(IpAddr::is_ipv4) {
            all.retain(IpAddr::is_ipv4);
        }
    }
    hosts
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
}

/// Looks names up. One per core: its sockets belong to the core's runtime.
pub(crate) struct Resolver {
    config: DnsConfig,
    dns: Option<TokioResolver>,
    /// The type of record that a name had last.
    last: Mutex<HashMap<String, Kind>>,
    /// Why names could not be looked up, and when.
    failed: Mutex<HashMap<String, (Instant, String)>>,
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
        let failed = locked(&self.failed).get(name).cloned();
        if let Some((at, why)) = failed
            && monotonic().saturating_duration_since(at) < ERROR_TTL
        {
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let last = locked(&self.last).get(name).copied();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "no records");
        let mut asked = Vec::new();
        for kind in &self.config.order {
            let kind = match (kind, last) {
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
                    remember(&self.last, name, kind);
                    return Ok(resolved);
                }
                Ok(None) => {}
                Err(error) => failure = error,
            }
        }
        let told = (monotonic(), failure.to_string());
        remember(&self.failed, name, told);
        Err(failure)
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
        let found = addresses.into_iter().map(plain).collect();
        Some(Resolved {
            found,
            until: monotonic() + HOSTS_TTL,
        })
    }
}

fn locked<T>(all: &Mutex<T>) -> MutexGuard<'_, T> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers `what` of `name`, in place of everything else once there is too much of that.
fn remember<T>(all: &Mutex<HashMap<String, T>>, name: &str, what: T) {
    let mut all = locked(all);
    if all.len() >= REMEMBERED {
        all.clear();
    }
    all.insert(name.to_owned(), what);
}

const fn plain(address: IpAddr) -> Found {
    Found {
        address,
        port: None,
        weight: None,
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
    let now = monotonic();
    let mut until = now + answer_ttl(answer.valid_until(), now);
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
                    ..found
                }));
                break;
            }
        }
    } else {
        for record in answer.answers() {
            match record.data {
                RData::A(address) => found.push(plain(Ipv4Addr::from(address).into())),
                RData::AAAA(address) => found.push(plain(Ipv6Addr::from(address).into())),
                _ => {}
            }
        }
    }
    // Some servers turn the list round with each answer; the order must not matter.
    found.sort_by_key(|found| (found.address, found.port));
    found.dedup();
    Ok((!found.is_empty()).then_some(Resolved { found, until }))
}

fn answer_ttl(until: Instant, now: Instant) -> Duration {
    until.saturating_duration_since(now).min(MAX_TTL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_gives_each_name_its_addresses() {
        let hosts = parse_hosts(
            "127.0.0.1 localhost Local # here\n::1 localhost\n10.0.0.1 a.test\n10.0.0.2 a.test\n\
             nonsense b.test\nfd00::1 six.test",
        );
        let of = |name: &str| {
            hosts
                .get(name)
                .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
                .unwrap_or_default()
        };
        assert_eq!(of("localhost"), ["127.0.0.1"]);
        assert_eq!(of("local"), ["127.0.0.1"]);
        assert_eq!(of("a.test"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(of("six.test"), ["fd00::1"]);
        assert!(of("b.test").is_empty());
    }

    #[test]
    fn a_resolv_conf_says_where_short_names_are_looked_for() {
        let read = |text: &str| {
            let search = Search::read(text.as_bytes());
            let domains: Vec<_> = search.domains.iter().map(Name::to_utf8).collect();
            (domains.join(" "), search.dots)
        };
        for (text, domains, dots) in [
            ("", "", 1),
            (
                "nameserver 10.0.0.1\nsearch a.test b.test\noptions ndots:2",
                "a.test b.test",
                2,
            ),
            ("domain c.test", "c.test", 1),
            ("nonsense", "", 1),
        ] {
            assert_eq!(read(text), (domains.to_owned(), Some(dots)), "{text}");
        }
    }

    #[test]
    fn settings_are_judged() {
        let read = |servers: &[&str], order: &[&str]| {
            let owned = |list: &[&str]| {
                list.iter()
                    .map(|text| (*text).to_owned())
                    .collect::<Vec<_>>()
            };
            DnsConfig::read(Path::new("/nowhere"), &owned(servers), &owned(order))
        };
        let config = read(&["127.0.0.1", "[::1]:5353"], &["LAST", "srv", "A", "CNAME"]).unwrap();
        assert_eq!(config.servers.first().map(SocketAddr::port), Some(53));
        assert_eq!(config.order, [Kind::Last, Kind::Srv, Kind::A]);
        assert!(
            read(&["name.test"], &[])
                .unwrap_err()
                .starts_with("dns_resolver")
        );
        assert!(read(&[], &["MX"]).unwrap_err().starts_with("dns_order"));
    }

    #[tokio::test(flavor = "local")]
    async fn a_server_is_reached_at_the_first_of_its_addresses_that_takes_connections() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // 0.0.0.2 is nobody's.
        let config = DnsConfig {
            hosts: Arc::new(parse_hosts("0.0.0.2 store.test\n127.0.0.1 store.test")),
            servers: vec!["127.0.0.1:1".parse().unwrap()],
            search: Search::default(),
            order: vec![Kind::A],
        };
        let resolver = Resolver::new(config);
        let connected = resolver.connect("Store.test", port).await.unwrap();
        assert_eq!(connected.peer_addr().unwrap().port(), port);
    }

    #[tokio::test(flavor = "local")]
    async fn what_needs_no_server_is_answered_without_one() {
        let config =
            DnsConfig::read(Path::new("/nowhere"), &["127.0.0.1:1".to_owned()], &[]).unwrap();
        let resolver = Resolver::new(config);
        for (name, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("localhost", "127.0.0.1"),
            ("a.localhost", "127.0.0.1"),
            ("::1", "::1"),
        ] {
            let answer = resolver.resolve(name).await.unwrap();
            assert_eq!(answer.found, [plain(address.parse().unwrap())], "{name}");
        }
        assert!(resolver.resolve("a.test").await.is_err());
    }
}

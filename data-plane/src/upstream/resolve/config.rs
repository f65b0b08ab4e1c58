//! How names are looked up: the settings `dns_*`, the hosts file, and where short names are looked for.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::parse_resolv_conf;

use super::last::{GivenName, LastNames};
use super::{Kind, monotonic};
use crate::settings::Settings;

/// Where the system keeps the domains that short names are looked for in.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How names are looked up, the same for all cores, and what they had last.
#[derive(Clone, Debug)]
pub(crate) struct DnsConfig {
    pub(super) hosts: Arc<HashMap<String, Vec<IpAddr>>>,
    /// The servers, in place of the system's.
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Search,
    pub(super) order: Vec<Kind>,
    /// How long an answer is believed, in place of what it says.
    pub(super) valid: Option<Duration>,
    /// How long an answer is used past its time while no server gives another.
    pub(super) stale: Duration,
    /// How long it is believed that a name leads nowhere.
    pub(super) not_found: Duration,
    /// How long a name is not asked for again that could not be looked up.
    pub(super) error: Duration,
    /// Most names of which something is remembered.
    pub(super) remembered: usize,
    pub(super) last: Arc<LastNames>,
}

/// Where names are looked for beside the root.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    pub(super) domains: Vec<Name>,
    /// Names with so many dots are first looked up as they are; nothing: the library's own number.
    pub(super) dots: Option<usize>,
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
    /// Reads the settings `dns_*`. The error names the setting.
    pub(crate) fn read(settings: &Settings) -> Result<Self, String> {
        // A machine without the file has no lines.
        let hosts = std::fs::read_to_string(&settings.dns_hostsfile).unwrap_or_default();
        let servers = (settings.dns_resolver.iter())
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
            .map(|text| {
                let address = text.parse::<SocketAddr>().ok();
                let address = address.or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)));
                address.ok_or_else(|| format!("dns_resolver: not an address: {text}"))
            })
            .collect::<Result<_, _>>()?;
        let order = (settings.dns_order.iter())
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
            valid: settings.dns_valid_ttl.map(Duration::from_secs),
            stale: Duration::from_secs(settings.dns_stale_ttl),
            not_found: Duration::from_secs(settings.dns_not_found_ttl),
            error: Duration::from_secs(settings.dns_error_ttl),
            remembered: settings.dns_cache_size,
            last: Arc::default(),
        })
    }

    /// Whether an answer that was good until then must not be used any more, even if no server gives another.
    pub(super) fn is_over(&self, until: Instant) -> bool {
        until + self.stale <= monotonic()
    }

    /// What names had last, for the process that takes the place of this one.
    pub(crate) fn give(&self) -> Vec<GivenName> {
        self.last.give(monotonic())
    }

    /// Goes on with what they had in the process before this one, while no server tells more.
    pub(crate) fn take(&self, given: &[GivenName]) {
        self.last.take(given, monotonic(), self.remembered);
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
            let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            DnsConfig::read(&Settings {
                dns_hostsfile: "/nowhere".into(),
                dns_resolver: owned(servers),
                dns_order: owned(order),
                ..Settings::default()
            })
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
}

//! What listeners are asked to be, and which ports lead to them.

use std::net::SocketAddr;
use std::str::FromStr;

use shared::listen::{BACKLOG, Flag, Flags, TlsListen, listeners};

use super::Settings;

/// Where clients speak TLS, unless a setting says so or an address of `proxy_listen` has `ssl`.
const TLS: &str = "0.0.0.0:8443";

/// Where clients of HTTP are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProxyListen {
    /// The address.
    pub address: SocketAddr,
    /// Whether they speak TLS.
    pub tls: bool,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Most connections that wait to be accepted.
    pub backlog: i32,
}

impl From<SocketAddr> for ProxyListen {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            tls: false,
            proxy_protocol: false,
            backlog: BACKLOG,
        }
    }
}

impl FromStr for ProxyListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let flags = Flags::read(text, &[Flag::Ssl, Flag::Http2, Flag::ProxyProtocol])?;
        Ok(Self {
            address: flags.address,
            tls: flags.ssl,
            proxy_protocol: flags.proxy_protocol,
            backlog: flags.backlog,
        })
    }
}

/// Where byte streams are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StreamListen {
    /// The address.
    pub address: SocketAddr,
    /// What clients speak there.
    pub kind: StreamKind,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Most connections that wait to be accepted.
    pub backlog: i32,
}

/// What a listener for streams takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StreamKind {
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// UDP.
    Udp,
}

impl FromStr for StreamListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let flags = Flags::read(text, &[Flag::Ssl, Flag::Udp, Flag::ProxyProtocol])?;
        let kind = match (flags.udp, flags.ssl) {
            (false, false) => StreamKind::Tcp,
            (false, true) => StreamKind::Tls,
            (true, false) if !flags.proxy_protocol => StreamKind::Udp,
            (true, _) => return Err("with `udp` there is no ssl and no proxy_protocol".to_owned()),
        };
        Ok(Self {
            address: flags.address,
            kind,
            proxy_protocol: flags.proxy_protocol,
            backlog: flags.backlog,
        })
    }
}

/// Where operators ask for status and metrics.
pub type StatusListen = TlsListen<false>;

impl Settings {
    /// Where clients of HTTP are taken, and which setting says so.
    ///
    /// # Errors
    ///
    /// A list that contradicts itself, with the setting's name.
    pub fn proxies(&self) -> Result<Vec<(&'static str, ProxyListen)>, String> {
        let mut all: Vec<_> = listeners("proxy_listen", &self.proxy_listen)?
            .into_iter()
            .map(|listener| ("proxy_listen", listener))
            .collect();
        let own_tls = if self.proxy_tls_listen.is_empty() {
            // Kong's settings say it all in one list.
            let complete = all.is_empty() || all.iter().any(|(_, listener)| listener.tls);
            let usual = (!complete).then(|| TLS.parse());
            usual.transpose()?.into_iter().collect()
        } else {
            listeners("proxy_tls_listen", &self.proxy_tls_listen)?
        };
        all.extend(own_tls.into_iter().map(|listener| {
            let listener = ProxyListen {
                tls: true,
                ..listener
            };
            ("proxy_tls_listen", listener)
        }));
        Ok(all)
    }

    /// Where byte streams and datagrams are taken.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn streams(&self) -> Result<Vec<StreamListen>, String> {
        listeners("stream_listen", &self.stream_listen)
    }

    /// Where operators ask for status and metrics.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn statuses(&self) -> Result<Vec<StatusListen>, String> {
        listeners("status_listen", &self.status_listen)
    }
}

/// A port that clients connect to, and the one of this node that it leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PortMap {
    /// The port that clients know.
    pub published: u16,
    /// The listener's port.
    pub internal: u16,
}

impl PortMap {
    /// The port that clients connect to in order to reach `port`.
    pub(crate) fn published(maps: &[Self], port: u16) -> u16 {
        let mut maps = maps.iter();
        let map = maps.find(|map| map.internal == port);
        map.map_or(port, |map| map.published)
    }
}

impl FromStr for PortMap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.trim().parse().ok().filter(|port| *port != 0);
        let both = text
            .split_once(':')
            .and_then(|(published, internal)| Some((port(published)?, port(internal)?)));
        both.map(|(published, internal)| Self {
            published,
            internal,
        })
        .ok_or_else(|| format!("expected PUBLISHED:INTERNAL, two ports, not `{text}`"))
    }
}

#[cfg(test)]
mod tests {
    use shared::listen::Listen;

    use super::*;

    #[test]
    fn a_listener_is_an_address_perhaps_with_flags() {
        let read = |text: &str| {
            text.parse::<ProxyListen>()
                .map(|one| (one.address.port(), one.tls, one.proxy_protocol, one.backlog))
        };
        for (text, expected) in [
            ("127.0.0.1:8000", (8000, false, false, BACKLOG)),
            (" [::]:8000  proxy_protocol ", (8000, false, true, BACKLOG)),
            (
                "0.0.0.0:8000 reuseport backlog=16384",
                (8000, false, false, 16384),
            ),
            (
                "0.0.0.0:8443 http2 ssl bind backlog=1",
                (8443, true, false, 1),
            ),
            ("[::1]:1 ssl proxy_protocol", (1, true, true, BACKLOG)),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        for (text, said) in [
            ("", "not an address"),
            ("8000", "not an address"),
            ("localhost:8000", "not an address"),
            (
                "127.0.0.1:1 udp",
                "`udp` is no flag: behind the address may be ssl, http2, ",
            ),
            ("127.0.0.1:1 deferred", "`deferred` is no flag"),
            ("127.0.0.1:1 backlog=0", "`backlog=0` must be"),
            ("127.0.0.1:1 backlog=", "from 1 to"),
        ] {
            assert!(read(text).unwrap_err().contains(said), "{text}");
        }
    }

    #[test]
    fn a_stream_listener_is_an_address_perhaps_with_what_it_takes() {
        let read = |text: &str| {
            text.parse::<StreamListen>()
                .map(|one| (one.address.port(), one.kind, one.proxy_protocol))
        };
        for (text, expected) in [
            ("127.0.0.1:5555", (5555, StreamKind::Tcp, false)),
            (" [::1]:5556  ssl ", (5556, StreamKind::Tls, false)),
            ("[::1]:5557 udp reuseport", (5557, StreamKind::Udp, false)),
            (
                "127.0.0.1:5555 proxy_protocol",
                (5555, StreamKind::Tcp, true),
            ),
            ("[::1]:1 ssl proxy_protocol", (1, StreamKind::Tls, true)),
            ("[::1]:1 proxy_protocol ssl", (1, StreamKind::Tls, true)),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "5555",
            "127.0.0.1:1 tcp",
            "127.0.0.1:1 http2",
            "127.0.0.1:1 ssl udp",
            "127.0.0.1:1 udp proxy_protocol",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_of_listeners_are_those_of_kong_and_perhaps_one_more_for_tls() {
        let list = |text: &str| {
            let entries = text.split(',').filter(|entry| !entry.is_empty());
            entries.map(|entry| entry.parse().unwrap()).collect()
        };
        for (plain, tls, expected) in [
            (
                "0.0.0.0:80",
                "",
                "proxy_listen 80, proxy_tls_listen 8443 ssl",
            ),
            (
                "0.0.0.0:80",
                "[::]:443",
                "proxy_listen 80, proxy_tls_listen 443 ssl",
            ),
            ("0.0.0.0:80", "off", "proxy_listen 80"),
            (
                "0.0.0.0:80, [::]:80, 0.0.0.0:443 http2 ssl",
                "",
                "proxy_listen 80, proxy_listen 80, proxy_listen 443 ssl",
            ),
            (
                "0.0.0.0:443 ssl",
                "0.0.0.0:444 ssl",
                "proxy_listen 443 ssl, proxy_tls_listen 444 ssl",
            ),
            ("off", "", ""),
            (" off ,0.0.0.0:80", "", ""),
            ("off", "0.0.0.0:443", "proxy_tls_listen 443 ssl"),
        ] {
            let settings = Settings {
                proxy_listen: list(plain),
                proxy_tls_listen: list(tls),
                ..Settings::default()
            };
            let found = settings.proxies().unwrap();
            let found = found.iter().map(|(setting, one)| {
                let tls = if one.tls { " ssl" } else { "" };
                format!("{setting} {}{tls}", one.address.port())
            });
            let found: Vec<String> = found.collect();
            assert_eq!(found.join(", "), expected, "{plain} | {tls}");
        }
        let settings = Settings {
            proxy_listen: list("0.0.0.0:80,off"),
            status_listen: vec![Listen::Off],
            ..Settings::default()
        };
        let said = settings.proxies().unwrap_err();
        assert!(said.starts_with("proxy_listen: `off`"), "{said}");
        assert_eq!(settings.statuses(), Ok(Vec::new()));
        assert_eq!(settings.streams(), Ok(Vec::new()));
    }

    #[test]
    fn a_port_is_published_as_another_or_as_itself() {
        let maps: Vec<PortMap> = ["80:8000", " 443 : 8443"]
            .map(|text| text.parse().unwrap())
            .into();
        let published = [8000, 8443, 80].map(|port| PortMap::published(&maps, port));
        assert_eq!(published, [80, 443, 80]);
        for text in ["", "80", "80:", ":80", "0:80", "80:0", "80:65536", "80:1:2"] {
            assert!(text.parse::<PortMap>().is_err(), "{text}");
        }
    }
}

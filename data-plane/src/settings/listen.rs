//! What a listener is asked to be, and which ports lead to it.

use std::net::SocketAddr;
use std::str::FromStr;

/// Says that the PROXY protocol is spoken.
const PROXY_PROTOCOL: &str = "proxy_protocol";

/// Where clients of HTTP are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProxyListen {
    /// The address.
    pub address: SocketAddr,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

impl From<SocketAddr> for ProxyListen {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            proxy_protocol: false,
        }
    }
}

impl FromStr for ProxyListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, words) = address(text)?;
        match *words {
            [] => Ok(address.into()),
            [PROXY_PROTOCOL] => Ok(Self {
                address,
                proxy_protocol: true,
            }),
            _ => Err("expected ADDRESS or ADDRESS proxy_protocol".to_owned()),
        }
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
        let (address, words) = address(text)?;
        let (kind, proxy_protocol) = match *words {
            [] => (StreamKind::Tcp, false),
            [PROXY_PROTOCOL] => (StreamKind::Tcp, true),
            ["ssl"] => (StreamKind::Tls, false),
            ["ssl", PROXY_PROTOCOL] | [PROXY_PROTOCOL, "ssl"] => (StreamKind::Tls, true),
            ["udp"] => (StreamKind::Udp, false),
            _ => {
                return Err(
                    "expected ADDRESS, ADDRESS ssl, perhaps with proxy_protocol, or ADDRESS udp"
                        .to_owned(),
                );
            }
        };
        Ok(Self {
            address,
            kind,
            proxy_protocol,
        })
    }
}

/// The address that `text` begins with, and the words behind it.
fn address(text: &str) -> Result<(SocketAddr, Vec<&str>), String> {
    let mut words = text.split_whitespace();
    let address = words.next().unwrap_or_default();
    let address = address
        .parse()
        .map_err(|_| format!("not an address with a port: `{address}`"))?;
    Ok((address, words.collect()))
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
    use super::*;

    #[test]
    fn a_listener_is_an_address_perhaps_with_the_proxy_protocol() {
        let read = |text: &str| {
            text.parse::<ProxyListen>()
                .map(|one| (one.address.port(), one.proxy_protocol))
        };
        assert_eq!(read("127.0.0.1:8000"), Ok((8000, false)));
        assert_eq!(read(" [::]:8000  proxy_protocol "), Ok((8000, true)));
        for text in [
            "",
            "8000",
            "127.0.0.1:1 ssl",
            "127.0.0.1:1 proxy_protocol ssl",
        ] {
            assert!(read(text).is_err(), "{text}");
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
            ("[::1]:5557 udp", (5557, StreamKind::Udp, false)),
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
            "127.0.0.1:1 ssl udp",
            "127.0.0.1:1 udp proxy_protocol",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
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

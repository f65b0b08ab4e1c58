//! Peers whose `X-Forwarded-*` and `X-Real-IP` fields are trusted.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use shared::authority::bare;
use shared::network::Network;

/// Addresses and networks.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedPeers(Vec<Network>);

impl From<Vec<Network>> for TrustedPeers {
    fn from(networks: Vec<Network>) -> Self {
        Self(networks)
    }
}

impl TrustedPeers {
    /// Whether `peer` is one of them.
    pub(crate) fn contains(&self, peer: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(peer))
    }
}

/// How a trusted peer names the client that it speaks for (Kong 3.9, `real_ip_header`).
#[derive(Clone, Debug)]
pub(crate) struct RealIp {
    /// The field that says it; none where the PROXY protocol does, before any request.
    header: Option<HeaderName>,
    /// Whether addresses that are trusted themselves are passed over.
    recursive: bool,
}

impl RealIp {
    /// Reads the field's name, or `proxy_protocol`.
    pub(crate) fn parse(header: &str, recursive: bool) -> Result<Self, String> {
        let header = if header == "proxy_protocol" {
            None
        } else {
            let name = header.parse();
            Some(name.map_err(|_| format!("not a field's name: {header}"))?)
        };
        Ok(Self { header, recursive })
    }

    /// Whether the PROXY protocol names the client.
    pub(crate) const fn is_told_first(&self) -> bool {
        self.header.is_none()
    }

    /// The address that the field of a trusted peer's request names: the last one, or the last that is not
    /// trusted itself.
    pub(crate) fn client(&self, headers: &HeaderMap, trusted: &TrustedPeers) -> Option<IpAddr> {
        let mut found = None;
        let values: Vec<&str> = headers
            .get_all(self.header.as_ref()?)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        for text in values.iter().rev().flat_map(|value| value.rsplit(',')) {
            let Some(address) = address(text.trim()) else {
                break;
            };
            found = Some(address);
            if !self.recursive || !trusted.contains(address) {
                break;
            }
        }
        found
    }
}

/// An address, perhaps with a port.
fn address(text: &str) -> Option<IpAddr> {
    bare(text)
        .parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|both| both.ip()))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{RealIp, TrustedPeers};

    #[test]
    fn the_last_address_counts_or_the_last_that_is_not_trusted() {
        let trusted = TrustedPeers::from(vec!["10.0.0.0/8".parse().unwrap()]);
        for (values, last, recursive) in [
            (&["192.0.2.1"][..], Some("192.0.2.1"), Some("192.0.2.1")),
            (
                &["192.0.2.9, 192.0.2.1, 10.1.1.1"],
                Some("10.1.1.1"),
                Some("192.0.2.1"),
            ),
            (
                &["192.0.2.1:4711", "10.1.1.1, 10.1.1.2"],
                Some("10.1.1.2"),
                Some("192.0.2.1"),
            ),
            (&["10.1.1.1"], Some("10.1.1.1"), Some("10.1.1.1")),
            (&["[2001:db8::1]"], Some("2001:db8::1"), Some("2001:db8::1")),
            (&["unknown"], None, None),
            (&["nobody, 10.0.0.1"], Some("10.0.0.1"), Some("10.0.0.1")),
            (&[], None, None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            for (deep, expected) in [(false, last), (true, recursive)] {
                let real = RealIp::parse("X-Forwarded-For", deep).unwrap();
                let expected = expected.map(|text| text.parse().unwrap());
                assert_eq!(
                    real.client(&headers, &trusted),
                    expected,
                    "{values:?} {deep}"
                );
            }
        }
    }
}

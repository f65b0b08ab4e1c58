//! Peers whose `X-Forwarded-*` and `X-Real-IP` fields are believed.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

/// Addresses and networks.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedPeers(Vec<(IpAddr, u8)>);

impl TrustedPeers {
    /// Reads addresses and CIDR blocks.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, String> {
        texts
            .iter()
            .map(|text| block(text).ok_or_else(|| format!("not an address or CIDR block: {text}")))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether `peer` is one of them.
    pub(crate) fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0
            .iter()
            .any(|(network, length)| match (network, peer) {
                (IpAddr::V4(network), IpAddr::V4(peer)) => same_prefix(
                    u128::from(network.to_bits()) << 96,
                    u128::from(peer.to_bits()) << 96,
                    *length,
                ),
                (IpAddr::V6(network), IpAddr::V6(peer)) => {
                    same_prefix(network.to_bits(), peer.to_bits(), *length)
                }
                _ => false,
            })
    }
}

/// How a trusted peer names the client that it speaks for (Kong 3.9, `real_ip_header`).
#[derive(Clone, Debug)]
pub(crate) struct RealIp {
    header: HeaderName,
    /// Whether addresses that are trusted themselves are passed over.
    recursive: bool,
}

impl RealIp {
    /// Reads the field's name.
    pub(crate) fn parse(header: &str, recursive: bool) -> Result<Self, String> {
        let header = header
            .parse()
            .map_err(|_| format!("not a field's name: {header}"))?;
        Ok(Self { header, recursive })
    }

    /// The address that the field of a trusted peer's request names: the last one, or the last that is not
    /// trusted itself.
    pub(crate) fn client(&self, headers: &HeaderMap, trusted: &TrustedPeers) -> Option<IpAddr> {
        let mut found = None;
        let values: Vec<&str> = headers
            .get_all(&self.header)
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
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|both| both.ip()))
}

fn block(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(most), |length| length.parse().ok())?;
    (length <= most).then_some((address, length))
}

fn same_prefix(a: u128, b: u128, length: u8) -> bool {
    length == 0 || (a ^ b) >> (128 - u32::from(length)) == 0
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{RealIp, TrustedPeers};

    #[test]
    fn the_last_address_counts_or_the_last_that_is_not_trusted() {
        let trusted = TrustedPeers::parse(&["10.0.0.0/8".to_owned()]).unwrap();
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

    #[test]
    fn blocks_end_where_they_say() {
        let trusted = TrustedPeers::parse(&[
            "10.0.0.0/8".to_owned(),
            "192.0.2.1".to_owned(),
            "fd00::/8".to_owned(),
        ])
        .unwrap();
        for (address, expected) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("::ffff:10.1.1.1", true),
        ] {
            assert_eq!(
                trusted.contains(address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
        assert!(
            TrustedPeers::parse(&["0.0.0.0/0".to_owned()])
                .unwrap()
                .contains("203.0.113.9".parse().unwrap())
        );
        for wrong in ["10.0.0.0/33", "a", "10.0.0.0/", ""] {
            assert!(TrustedPeers::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}

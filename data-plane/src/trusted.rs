//! Peers whose `X-Forwarded-*` and `X-Real-IP` fields are believed.

use std::net::IpAddr;

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
    use super::TrustedPeers;

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

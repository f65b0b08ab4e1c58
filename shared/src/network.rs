//! Networks of IP addresses: those that a setting lists, and those that everybody can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address, or a block of addresses in CIDR notation (RFC 4632 §3.1, RFC 4291 §2.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    /// How many bits of `address` count.
    length: u8,
}

/// What one client may be taken for: of IPv6, a network of 64 bits is what a single one is given.
pub fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(prefix).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// A text is neither an address nor a block.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an address or CIDR block: {0}")]
pub struct NotANetwork(String);

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address.parse().ok(), Some(length.parse().ok())),
            None => (text.parse().ok(), None),
        };
        let read = address.and_then(|address: IpAddr| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let length = length.unwrap_or(Some(most))?;
            (length <= most).then_some(Self { address, length })
        });
        read.ok_or_else(|| NotANetwork(text.to_owned()))
    }
}

impl Network {
    /// Reads an item of a list, which may have blanks around it.
    ///
    /// # Errors
    ///
    /// `text` is neither an address nor a block.
    pub fn of_list(text: &str) -> Result<Self, NotANetwork> {
        text.trim().parse()
    }

    /// Whether it has `address`. An IPv4 address that is written as one of IPv6 is the same address.
    pub fn contains(self, address: IpAddr) -> bool {
        is_in(address.to_canonical(), (self.address, self.length))
    }
}

fn is_in(address: IpAddr, (network, length): (IpAddr, u8)) -> bool {
    let (a, b) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits()),
        _ => return false,
    };
    length == 0 || (a ^ b) >> (128 - u32::from(length)) == 0
}

/// IPv4 networks that are not reachable from everywhere (IANA special-purpose address registry, RFC 6890).
const SPECIAL_V4: [([u8; 4], u8); 16] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
    ([255, 255, 255, 255], 32),
];

/// The same of IPv6: first segments and length.
const SPECIAL_V6: [([u16; 3], u8); 9] = [
    // Unspecified, loopback, and IPv4 addresses in forms that nobody uses any more.
    ([0, 0, 0], 80),
    ([0x64, 0xff9b, 1], 48),
    ([0x100, 0, 0], 64),
    ([0x2001, 0, 0], 23),
    ([0x2001, 0xdb8, 0], 32),
    ([0xfc00, 0, 0], 7),
    ([0xfe80, 0, 0], 10),
    ([0xfec0, 0, 0], 10),
    ([0xff00, 0, 0], 8),
];

/// Whether `address` is of the public internet, also where it only wraps another address: mapped
/// (RFC 4291 §2.5.5.2), translated (RFC 6052 §2.1) or tunnelled (RFC 3056).
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|(network, length)| {
            is_in(address.into(), (Ipv4Addr::from(*network).into(), *length))
        }),
        IpAddr::V6(address) => match wrapped(address) {
            Some(inner) => is_public(inner.into()),
            None => !SPECIAL_V6.iter().any(|([a, b, c], length)| {
                let network = Ipv6Addr::new(*a, *b, *c, 0, 0, 0, 0, 0);
                is_in(address.into(), (network.into(), *length))
            }),
        },
    }
}

/// The IPv4 address that packets to `address` end at.
fn wrapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    const LAST: u128 = 0xffff_ffff;
    let bits = address.to_bits();
    let inner = if bits >> 32 == 0x0064_ff9b << 64 {
        bits & LAST
    } else if bits >> 112 == 0x2002 {
        (bits >> 80) & LAST
    } else {
        return None;
    };
    u32::try_from(inner).ok().map(Ipv4Addr::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_contains_its_addresses_and_no_others() {
        for (block, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::a00:1"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("fd00::/8", "fd12::1", "fc00::1"),
            ("::1", "::1", "127.0.0.1"),
            ("0.0.0.0/0", "8.8.8.8", "2a00::1"),
            ("::/0", "2a00::1", "8.8.8.8"),
        ] {
            let block: Network = block.parse().unwrap();
            assert!(
                block.contains(inside.parse().unwrap()),
                "{block:?} {inside}"
            );
            assert!(
                !block.contains(outside.parse().unwrap()),
                "{block:?} {outside}"
            );
        }
        for text in [
            "10.0.0.0/33",
            "::/129",
            "10.0.0",
            "",
            "10.0.0.0/",
            "name.test",
        ] {
            let error = text.parse::<Network>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("not an address or CIDR block: {text}")
            );
        }
    }

    #[test]
    fn only_what_everybody_can_reach_is_public() {
        let check = |addresses: &[&str], expected: bool| {
            for text in addresses {
                assert_eq!(is_public(text.parse().unwrap()), expected, "{text}");
            }
        };
        check(
            &[
                "0.0.0.0",
                "10.1.2.3",
                "100.64.0.1",
                "100.127.255.255",
                "127.0.0.1",
                "127.255.0.1",
                "169.254.169.254",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.1.1",
                "198.19.0.1",
                "224.0.0.1",
                "239.255.255.250",
                "240.0.0.1",
                "255.255.255.255",
                "192.0.0.8",
                "::",
                "::1",
                "::ffff:127.0.0.1",
                "::ffff:169.254.169.254",
                "::127.0.0.1",
                "64:ff9b::a00:1",
                "64:ff9b::7f00:1",
                "64:ff9b:1::a00:1",
                "2002:7f00:1::",
                "2002:a00:1::1",
                "2001:0:1::1",
                "fc00::1",
                "fd12::1",
                "fe80::1",
                "febf::1",
                "fec0::1",
                "ff02::1",
                "2001:db8::1",
                "100::1",
            ],
            false,
        );
        check(
            &[
                "8.8.8.8",
                "100.63.0.1",
                "100.128.0.1",
                "172.15.0.1",
                "172.32.0.1",
                "192.167.0.1",
                "223.255.255.255",
                "::ffff:8.8.8.8",
                "64:ff9b::808:808",
                "2002:808:808::1",
                "2606:4700::1111",
                "2a00:1450:4001::1",
            ],
            true,
        );
    }
}

//! The PROXY protocol, versions 1 and 2: what a balancer that passes bytes on says of them before the first one
//! (`HAProxy`, "The PROXY protocol", revision of 2020-03-05).
//!
//! A header is read to its last byte and no further, so that what follows is the client's. Nothing that is longer
//! than a header may be is looked at.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::core::Node;

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// Longest line of version 1, with its end (§2.1).
const MAX_LINE: usize = 107;
/// Longest part of version 2 that follows its first 16 bytes: what nginx takes.
const MAX_REST: usize = 4096 - 16;

/// Why a connection does not begin as it has to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyProtocolError {
    #[error("reading a PROXY protocol header")]
    Read(#[from] io::Error),
    #[error("the proxy took too long for its PROXY protocol header")]
    Slow,
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    #[error("a PROXY protocol header that is too long")]
    TooLong,
    #[error("a malformed PROXY protocol header: {0}")]
    Malformed(&'static str),
}

/// A whole header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Header {
    /// Its bytes.
    length: usize,
    /// Where the client is; nothing if the connection is the proxy's own, or of a family that is not ours.
    source: Option<SocketAddr>,
}

/// Reads the header that `stream` begins with. The client's address, if `node` takes the word of the proxy at `peer`
/// for it: that of one that is trusted, where the setting `real_ip_header` says so.
pub(crate) async fn client(
    node: &Node,
    stream: &mut TcpStream,
    peer: IpAddr,
) -> Result<Option<SocketAddr>, ProxyProtocolError> {
    let reading = tokio::time::timeout(node.limits.handshake, read(stream));
    let told = reading.await.map_err(|_| ProxyProtocolError::Slow)??;
    let believed = node.real_ip.is_told_first() && node.trusted.contains(peer);
    Ok(told.filter(|_| believed))
}

async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>, ProxyProtocolError> {
    let mut held = Vec::new();
    let mut room = [0; 512];
    loop {
        let count = stream.peek(&mut room).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let before = held.len();
        held.extend_from_slice(room.get(..count).unwrap_or_default());
        let header = parse(&held)?;
        // As long as the header is not whole, all that has come is of it.
        let own = header.map_or(count, |header| header.length.saturating_sub(before));
        stream
            .read_exact(room.get_mut(..own).unwrap_or_default())
            .await?;
        if let Some(header) = header {
            return Ok(header.source);
        }
    }
}

/// The header that `bytes` begin with; nothing if more of it has to come.
fn parse(bytes: &[u8]) -> Result<Option<Header>, ProxyProtocolError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, own)| byte == own);
    if begins(&SIGNATURE) {
        version_2(bytes)
    } else if begins(WORD) {
        version_1(bytes)
    } else {
        Err(ProxyProtocolError::Missing)
    }
}

fn version_1(bytes: &[u8]) -> Result<Option<Header>, ProxyProtocolError> {
    use ProxyProtocolError::Malformed;
    let shown = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', shown) else {
        return if bytes.len() < MAX_LINE {
            Ok(None)
        } else {
            Err(ProxyProtocolError::TooLong)
        };
    };
    let line = shown.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.and_then(|line| str::from_utf8(line).ok());
    let line = line.ok_or(Malformed("the line"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let header = |source| Header {
        length: end + 1,
        source,
    };
    let (source, ports) = match *words {
        ["PROXY", "UNKNOWN", ..] => return Ok(Some(header(None))),
        ["PROXY", "TCP4", source, destination, port, to] => {
            let source = source.parse::<Ipv4Addr>().ok();
            let both = source.filter(|_| destination.parse::<Ipv4Addr>().is_ok());
            (both.map(IpAddr::from), [port, to])
        }
        ["PROXY", "TCP6", source, destination, port, to] => {
            let source = source.parse::<Ipv6Addr>().ok();
            let both = source.filter(|_| destination.parse::<Ipv6Addr>().is_ok());
            (both.map(IpAddr::from), [port, to])
        }
        _ => return Err(Malformed("its words")),
    };
    let source = source.ok_or(Malformed("an address"))?;
    let [Some(port), Some(_)] = ports.map(port) else {
        return Err(Malformed("a port"));
    };
    Ok(Some(header(Some(SocketAddr::new(source, port)))))
}

/// A port in decimal, without a sign or zeros in front.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn version_2(bytes: &[u8]) -> Result<Option<Header>, ProxyProtocolError> {
    let Some((first, rest)) = bytes.split_first_chunk::<16>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = *first;
    let long = usize::from(u16::from_be_bytes([high, low]));
    if long > MAX_REST {
        return Err(ProxyProtocolError::TooLong);
    }
    let own = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyProtocolError::Malformed("its version or command")),
    };
    let Some(rest) = rest.get(..long) else {
        return Ok(None);
    };
    let source = match family {
        _ if own => None,
        // TCP over IPv4 and over IPv6.
        0x11 => Some(source::<4, 12>(rest)?),
        0x21 => Some(source::<16, 36>(rest)?),
        _ => None,
    };
    Ok(Some(Header {
        length: 16 + long,
        source,
    }))
}

/// The source in a block of `ALL` bytes: two addresses of `LENGTH` bytes, then two ports.
fn source<const LENGTH: usize, const ALL: usize>(
    block: &[u8],
) -> Result<SocketAddr, ProxyProtocolError>
where
    IpAddr: From<[u8; LENGTH]>,
{
    let found = block
        .get(..ALL)
        .and_then(|block| block.split_first_chunk::<LENGTH>())
        .and_then(|(address, rest)| Some((*address, rest.get(LENGTH..)?)))
        .and_then(|(address, ports)| Some((address, *ports.first_chunk::<2>()?)));
    let (address, port) = found.ok_or(ProxyProtocolError::Malformed("its length"))?;
    Ok(SocketAddr::new(
        IpAddr::from(address),
        u16::from_be_bytes(port),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version_2_of(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn ends(address: &[u8]) -> Vec<u8> {
        [address, address, &[0x12, 0x34], &[0, 80]].concat()
    }

    #[test]
    fn a_header_says_where_the_client_is() {
        let four = ends(&[192, 0, 2, 1]);
        let mut six = [0; 16];
        six[15] = 1;
        let mut with_more = four.clone();
        with_more.extend([0x04, 0, 1, 0]);
        let long = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                    ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        for (bytes, expected) in [
            (
                b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n".to_vec(),
                Some("192.0.2.1:4660"),
            ),
            (
                b"PROXY TCP6 ::1 ::2 4660 80\r\n".to_vec(),
                Some("[::1]:4660"),
            ),
            (
                long.into(),
                Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ::1 ::2 x y\r\n".to_vec(), None),
            (version_2_of(0x21, 0x11, &four), Some("192.0.2.1:4660")),
            (version_2_of(0x21, 0x11, &with_more), Some("192.0.2.1:4660")),
            (version_2_of(0x21, 0x21, &ends(&six)), Some("[::1]:4660")),
            (version_2_of(0x20, 0x11, &four), None),
            (version_2_of(0x20, 0, &[]), None),
            (version_2_of(0x21, 0, &[]), None),
            (version_2_of(0x21, 0x31, &[0; 216]), None),
            (
                version_2_of(0x21, 0x11, &[four, vec![0; 4068]].concat()),
                Some("192.0.2.1:4660"),
            ),
        ] {
            let expected = Header {
                length: bytes.len(),
                source: expected.map(|text| text.parse().unwrap()),
            };
            let with_request = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&with_request).unwrap(), Some(expected), "{bytes:?}");
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]).unwrap(), None, "{cut} of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let line = |rest: &str| format!("PROXY {rest}").into_bytes();
        let long = format!("UNKNOWN {}\r\n", "x".repeat(MAX_LINE));
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"\x16\x03\x01".to_vec(),
            b"PROXYTCP4".to_vec(),
            line("TCP4 192.0.2.1 10.0.0.1 1 80\n"),
            line("TCP4 192.0.2.1 10.0.0.1 1\r\n"),
            line("TCP4 192.0.2.1 10.0.0.1 1 80 \r\n"),
            line("TCP4  192.0.2.1 10.0.0.1 1 80\r\n"),
            line("TCP4 ::1 10.0.0.1 1 80\r\n"),
            line("TCP4 192.0.2.1 ::1 1 80\r\n"),
            line("TCP6 192.0.2.1 10.0.0.1 1 80\r\n"),
            line("TCP4 192.0.2.1 10.0.0.1 +1 80\r\n"),
            line("TCP4 192.0.2.1 10.0.0.1 01 80\r\n"),
            line("TCP4 192.0.2.1 10.0.0.1 65536 80\r\n"),
            line("UDP4 192.0.2.1 10.0.0.1 1 80\r\n"),
            line("TCP4 192.0.2.1\0 10.0.0.1 1 80\r\n"),
            line(&long),
            version_2_of(0x11, 0x11, &ends(&[192, 0, 2, 1])),
            version_2_of(0x22, 0x11, &ends(&[192, 0, 2, 1])),
            version_2_of(0x21, 0x11, &[0; 11]),
            version_2_of(0x21, 0x21, &ends(&[192, 0, 2, 1])),
            version_2_of(0x21, 0x11, &[0; MAX_REST + 1]),
        ] {
            assert!(
                parse(&bytes).is_err(),
                "{:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_taken_for_more_than_there_are(
            start in prop_oneof![Just(&SIGNATURE[..]), Just(WORD), Just(&b""[..])],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &rest].concat();
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.length <= bytes.len());
            }
        }
    }
}

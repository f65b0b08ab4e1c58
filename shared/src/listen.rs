//! Listeners as settings describe them: addresses, optionally followed by flags, in Kong's words.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::str::FromStr;

/// Most connections that wait to be accepted, where nothing is said.
pub const BACKLOG: i32 = 4096;

/// An entry of a list of listeners.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listen<T> {
    /// `off`: there are none.
    Off,
    /// An address, or whatever `T` stands for.
    At(T),
}

impl<T: FromStr<Err = String>> FromStr for Listen<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "off" => Ok(Self::Off),
            text => text.parse().map(Self::At),
        }
    }
}

impl<T: From<SocketAddr>> From<SocketAddr> for Listen<T> {
    fn from(address: SocketAddr) -> Self {
        Self::At(address.into())
    }
}

/// An address where HTTP is spoken without TLS, to few.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PlainListen {
    /// The address.
    pub address: SocketAddr,
    /// Most connections that wait to be accepted.
    pub backlog: i32,
}

impl From<SocketAddr> for PlainListen {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            backlog: BACKLOG,
        }
    }
}

impl FromStr for PlainListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let flags = Flags::read(text, &[])?;
        Ok(Self {
            address: flags.address,
            backlog: flags.backlog,
        })
    }
}

/// An address where HTTP is spoken to few, over TLS if `ssl` stands behind it. Where `HTTP2`, the flag `http2` may, too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TlsListen<const HTTP2: bool> {
    /// The address.
    pub address: SocketAddr,
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// Most connections that wait to be accepted.
    pub backlog: i32,
}

impl<const HTTP2: bool> From<SocketAddr> for TlsListen<HTTP2> {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            tls: false,
            backlog: BACKLOG,
        }
    }
}

impl<const HTTP2: bool> FromStr for TlsListen<HTTP2> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known: &[Flag] = if HTTP2 {
            &[Flag::Ssl, Flag::Http2]
        } else {
            &[Flag::Ssl]
        };
        let flags = Flags::read(text, known)?;
        Ok(Self {
            address: flags.address,
            tls: flags.ssl,
            backlog: flags.backlog,
        })
    }
}

/// The listeners of `setting`, which says `entries`.
///
/// # Errors
///
/// `off` that does not stand alone.
pub fn listeners<T: Copy>(setting: &str, entries: &[Listen<T>]) -> Result<Vec<T>, String> {
    if entries
        .first()
        .is_some_and(|one| matches!(one, Listen::Off))
    {
        return Ok(Vec::new());
    }
    let at = |one: &Listen<T>| match one {
        Listen::At(listener) => Ok(*listener),
        Listen::Off => Err(format!(
            "{setting}: `off` stands alone, not behind an address"
        )),
    };
    entries.iter().map(at).collect()
}

/// Refuses two listeners at one address, of which each would get some of the other's clients.
///
/// # Errors
///
/// The settings and the address.
pub fn distinct(
    listeners: impl IntoIterator<Item = (&'static str, SocketAddr)>,
) -> Result<(), String> {
    let mut known = HashMap::new();
    for (setting, address) in listeners.into_iter().filter(|(_, one)| one.port() != 0) {
        if let Some(other) = known.insert(address, setting) {
            return Err(format!(
                "{setting}: {address} is an address of {other} already"
            ));
        }
    }
    Ok(())
}

/// What may stand behind an address, besides what every listener may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flag {
    /// The listener speaks TLS.
    Ssl,
    /// The listener speaks HTTP/2 beside HTTP/1.1. Ours always do: without effect.
    Http2,
    /// The listener takes datagrams (UDP).
    Udp,
    /// Each connection begins with a header of the PROXY protocol.
    ProxyProtocol,
}

impl Flag {
    const fn word(self) -> &'static str {
        match self {
            Self::Ssl => "ssl",
            Self::Http2 => "http2",
            Self::Udp => "udp",
            Self::ProxyProtocol => "proxy_protocol",
        }
    }
}

/// An address and what stands behind it, in Kong's words.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    /// The address.
    pub address: SocketAddr,
    /// Whether the flag `ssl` is given.
    pub ssl: bool,
    /// Whether the flag `udp` is given.
    pub udp: bool,
    /// Whether the flag `proxy_protocol` is given.
    pub proxy_protocol: bool,
    /// Most connections that wait to be accepted.
    pub backlog: i32,
}

impl Flags {
    /// Reads `text`, in which `known` flags may be.
    ///
    /// # Errors
    ///
    /// What is no address, or no flag that may be there.
    pub fn read(text: &str, known: &[Flag]) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let address = words.next().unwrap_or_default();
        let address = address
            .parse()
            .map_err(|_| format!("not an address with a port: `{address}`"))?;
        let mut flags = Self {
            address,
            ssl: false,
            udp: false,
            proxy_protocol: false,
            backlog: BACKLOG,
        };
        for word in words {
            if let Some(number) = word.strip_prefix("backlog=") {
                flags.backlog = number
                    .parse()
                    .ok()
                    .filter(|most| *most > 0)
                    .ok_or_else(|| {
                        format!(
                            "`{word}` must be `backlog=` and a number from 1 to {}",
                            i32::MAX
                        )
                    })?;
                continue;
            }
            match known.iter().find(|flag| flag.word() == word) {
                Some(Flag::Ssl) => flags.ssl = true,
                Some(Flag::Udp) => flags.udp = true,
                Some(Flag::ProxyProtocol) => flags.proxy_protocol = true,
                // Every listener of HTTP takes both versions, has a socket for each core, and is bound by itself.
                Some(Flag::Http2) => {}
                None if matches!(word, "reuseport" | "bind") => {}
                None => {
                    let known = known.iter().map(|flag| flag.word());
                    let known: Vec<&str> = known
                        .chain(["reuseport", "bind", "backlog=NUMBER"])
                        .collect();
                    return Err(format!(
                        "`{word}` is no flag: behind the address may be {}",
                        known.join(", ")
                    ));
                }
            }
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_one_listener() {
        let check = |all: &[(&'static str, &str)]| {
            distinct(
                all.iter()
                    .map(|(setting, text)| (*setting, text.parse().unwrap())),
            )
        };
        let twice = [("a", "0.0.0.0:80"), ("b", "[::]:80"), ("c", "0.0.0.0:80")];
        let said = check(&twice).unwrap_err();
        assert_eq!(said, "c: 0.0.0.0:80 is an address of a already");
        assert_eq!(check(&twice[..2]), Ok(()));
        assert_eq!(check(&[("a", "0.0.0.0:0"), ("a", "0.0.0.0:0")]), Ok(()));
    }
}

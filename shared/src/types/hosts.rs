//! Hosts in all the forms that fields take, judged in Kong's words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::network::Network;

/// A host, as one can be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Host<'a> {
    /// A DNS name.
    Name(&'a str),
    /// An IP address.
    Address(IpAddr),
}

/// Why a text is no host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NoHost {
    /// The text after the colon is not a port.
    Port,
    /// It is neither a DNS name nor an IP address.
    Form,
}

/// Reads a host with or without a port.
pub(super) fn parse(text: &str) -> Result<(Host<'_>, Option<u16>), NoHost> {
    if text.matches(':').count() > 1 {
        return parse_ipv6(text);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !port.is_empty() =>
        {
            (host, Some(port.parse().map_err(|_| NoHost::Port)?))
        }
        Some(_) => return Err(NoHost::Form),
        None => (text, None),
    };
    // What consists of digits and dots alone is meant as an address.
    if !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        let address: Ipv4Addr = host.parse().map_err(|_| NoHost::Form)?;
        return Ok((Host::Address(address.into()), port));
    }
    if is_name(host) {
        Ok((Host::Name(host), port))
    } else {
        Err(NoHost::Form)
    }
}

fn parse_ipv6(text: &str) -> Result<(Host<'_>, Option<u16>), NoHost> {
    let (bare, port) = match text.strip_prefix('[') {
        None => (text, None),
        Some(rest) => {
            let (bare, after) = rest.split_once(']').ok_or(NoHost::Form)?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port.parse().map_err(|_| NoHost::Port)?),
                None if after.is_empty() => None,
                None => return Err(NoHost::Form),
            };
            (bare, port)
        }
    };
    let address: Ipv6Addr = bare.parse().map_err(|_| NoHost::Form)?;
    Ok((Host::Address(address.into()), port))
}

/// Whether `text` reads as a host name. As in Kong a label may be longer than DNS has them: it may be that of an
/// upstream.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

pub(super) fn check_host(text: &str) -> Result<(), String> {
    match parse(text) {
        Ok((_, None)) => Ok(()),
        Ok((_, Some(_))) | Err(NoHost::Port) => Err("must not have a port".to_owned()),
        Err(NoHost::Form) => Err(format!("invalid value: {text}")),
    }
}

/// A host with an optional port. Kong tells what the text seems to be meant as.
pub(super) fn check_host_header(text: &str) -> Result<(), String> {
    let meant = |text: &str| {
        let colons = text.matches(':').count();
        let mut signs = text.bytes().filter(|sign| *sign != b':');
        if colons > 1 {
            "ipv6 address"
        } else if signs.clone().next().is_some()
            && signs.all(|sign| sign.is_ascii_digit() || sign == b'.')
        {
            "ipv4 address"
        } else {
            "hostname"
        }
    };
    match parse(text) {
        Ok(_) => Ok(()),
        Err(NoHost::Port) => Err("invalid port number".to_owned()),
        Err(NoHost::Form) => Err(format!("invalid {}: {text}", meant(text))),
    }
}

pub(super) fn check_upstream_name(text: &str) -> Result<(), String> {
    match parse(text) {
        Ok((Host::Name(_), None)) => Ok(()),
        Ok((Host::Name(_), Some(_))) => Err("Invalid name; no port allowed".to_owned()),
        Ok((Host::Address(_), _)) => Err("Invalid name; no ip addresses allowed".to_owned()),
        Err(_) => Err("Invalid name; must be a valid hostname".to_owned()),
    }
}

pub(super) fn check_target(text: &str) -> Result<(), String> {
    parse(text)
        .map(drop)
        .map_err(|_| format!("Invalid target ('{text}'); not a valid hostname or ip address"))
}

/// Port of a target that names none.
const TARGET_PORT: u16 = 8000;

/// A target as it is stored: with a port, and an IPv6 address written out (Kong 3.9, targets).
pub fn with_target_port(text: &str) -> Option<String> {
    let (host, port) = parse(text).ok()?;
    let port = port.unwrap_or(TARGET_PORT);
    Some(match host {
        Host::Name(name) => format!("{}:{port}", name.to_ascii_lowercase()),
        Host::Address(IpAddr::V4(address)) => format!("{address}:{port}"),
        Host::Address(IpAddr::V6(address)) => {
            let groups = address.segments().map(|group| format!("{group:04x}"));
            format!("[{}]:{port}", groups.join(":"))
        }
    })
}

/// A host with at most one wildcard label, at either end. What Kong judges is the host with letters in its place.
pub(super) fn check_route_host(text: &str) -> Result<(), String> {
    if text.matches('*').count() > 1 {
        return Err("invalid wildcard: must have at most one wildcard".to_owned());
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    if text.contains('*') && !text.starts_with("*.") && !host.ends_with(".*") {
        return Err("invalid wildcard: must be placed at leftmost or rightmost label".to_owned());
    }
    check_host_header(&text.replace('*', "abc"))
}

/// The name of one server, as a handshake says it: without a dot at its end (RFC 6066 §3).
pub(super) fn check_server_name(text: &str) -> Result<(), String> {
    if text.contains('*') || text.ends_with('.') {
        return Err(format!("invalid value: {text}"));
    }
    check_sni(text)
}

pub(super) fn check_sni(text: &str) -> Result<(), String> {
    if text.matches('*').count() > 1 {
        return Err("only one wildcard must be specified".to_owned());
    }
    let plain = text
        .strip_prefix('*')
        .or_else(|| text.strip_suffix('*'))
        .unwrap_or(text);
    if plain.contains('*') {
        return Err("wildcard must be leftmost or rightmost character".to_owned());
    }
    if text == "*" {
        return Ok(());
    }
    let plain = if plain.len() < text.len() {
        plain.trim_matches('.')
    } else {
        plain
    };
    match parse(plain) {
        Ok((Host::Name(_), None)) => Ok(()),
        Ok((Host::Address(_), _)) => Err("must not be an IP".to_owned()),
        Ok((_, Some(_))) | Err(NoHost::Port) => Err("must not have a port".to_owned()),
        Err(NoHost::Form) => Err(format!("invalid value: {}", text.replace('*', "wildcard"))),
    }
}

/// An address or a network of addresses.
pub(super) fn check_ip_or_cidr(text: &str) -> Result<(), String> {
    text.parse::<Network>()
        .map(drop)
        .map_err(|_| format!("invalid ip or cidr range: '{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_stored_in_one_form() {
        for (text, expected) in [
            ("1.2.3.4", Some("1.2.3.4:8000")),
            ("1.2.3.4:80", Some("1.2.3.4:80")),
            ("Example.com", Some("example.com:8000")),
            (
                "::1",
                Some("[0000:0000:0000:0000:0000:0000:0000:0001]:8000"),
            ),
            (
                "[::1]:80",
                Some("[0000:0000:0000:0000:0000:0000:0000:0001]:80"),
            ),
            ("some invalid host name", None),
            ("1.2.3.400", None),
            ("a:99999", None),
        ] {
            assert_eq!(with_target_port(text).as_deref(), expected, "{text}");
            // What is stored is stored the same again.
            if let Some(stored) = expected {
                assert_eq!(with_target_port(stored).as_deref(), expected);
            }
        }
    }
}

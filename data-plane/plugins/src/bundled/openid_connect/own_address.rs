//! The address that a request was sent to: the provider is told a URL, so it has to be one.

use std::fmt::Display;
use std::net::Ipv6Addr;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use shared::authority::bare;

use super::failure::Failure;
use crate::answer::NO_URI;
use crate::exchange::Exchange;

/// What paths come with and URLs have none of. The rest is escaped as far as its sender did that.
const NOT_IN_PATHS: &AsciiSet = &CONTROLS.union(NO_URI).add(b'[').add(b']');

/// `path` with octets in place of what no URL can have (RFC 3986 §2).
pub(super) fn encoded(path: &str) -> impl Display {
    utf8_percent_encode(path, NOT_IN_PATHS)
}

/// Where the provider leads back to if that is made from the request. What a trusted proxy forwards as the host is none of
/// the route's by itself: many pass on what their client says.
///
/// # Errors
///
/// If the request names no host that a provider could know, or one that is not among the route's.
pub(super) fn redirect_uri(exchange: &Exchange<'_>, target: &str) -> Result<String, Failure> {
    let refused = |detail| Failure {
        message: Some("The request names no host to return to after a sign-in"),
        ..Failure::bad_request("redirect_uri_host", detail)
    };
    if !is_authority(&exchange.client.authority) {
        let detail = "the request's host is none that a provider could lead back to";
        return Err(refused(detail));
    }
    let listed = &exchange.matched.hosts;
    if !listed.is_empty() && !listed.iter().any(|listed| listed.covers(host(exchange))) {
        let detail =
            "X-Forwarded-Host is not among the route's hosts: add it there, or set redirect_uri";
        return Err(refused(detail));
    }
    Ok(target.to_owned())
}

/// The host that the client asked for, an IPv6 address without brackets.
fn host<'a>(exchange: &'a Exchange<'_>) -> &'a str {
    bare(exchange.client.host())
}

/// Whether `authority` is a name or an address, and a port if there is a colon (RFC 3986 §3.2).
fn is_authority(authority: &str) -> bool {
    let end = authority.find(']').unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if host.len() > end => (host, Some(port)),
        _ => (authority, None),
    };
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = if let Some(address) = address {
        address.parse::<Ipv6Addr>().is_ok()
    } else {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !host.is_empty() && host.bytes().all(is_letter)
    };
    let is_port = |port: &str| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    is_host && port.is_none_or(is_port)
}

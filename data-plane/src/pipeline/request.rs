//! Who asked for what, and what the upstream is told of it (Kong 3.9, `X-Forwarded-*`).

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use plugins::exchange::Client;

use crate::error::GatewayError;
use crate::guard::Gate;
use crate::http1::head::check_host;

const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PATH: HeaderName = HeaderName::from_static("x-forwarded-path");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The near end of a client's connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    /// The same as a field's value, made once for all requests of the connection.
    address_text: HeaderValue,
    port: u16,
    /// The listener's port, as text.
    port_text: String,
    pub(crate) tls: bool,
    /// The name in the TLS handshake.
    pub(crate) server_name: Option<String>,
    /// SHA-256 of the certificate in the TLS handshake.
    pub(crate) certificate: Option<[u8; 32]>,
    pub(crate) gate: Arc<Gate>,
}

impl Peer {
    /// A client at `address`, on a connection to `port`.
    pub(crate) fn new(address: IpAddr, port: u16, tls: bool, gate: Arc<Gate>) -> Self {
        Self {
            address,
            address_text: text(address),
            port,
            port_text: port.to_string(),
            tls,
            server_name: None,
            certificate: None,
            gate,
        }
    }

    /// Where it is.
    pub(crate) const fn address(&self) -> IpAddr {
        self.address
    }
}

/// The host that is asked for, in lower case, from a request that can be read in only one way.
pub(super) fn authority(parts: &Parts) -> Result<String, GatewayError> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(GatewayError::Method);
    }
    let optional = parts.version == Version::HTTP_10 || parts.uri.authority().is_some();
    check_host(&parts.uri, &parts.headers, optional)
        .map_err(|_| GatewayError::BadRequest("Host"))?;
    let host = match parts.uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            return Err(GatewayError::BadRequest("userinfo"));
        }
        Some(authority) => authority.as_str(),
        None => parts
            .headers
            .get(http::header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default(),
    };
    Ok(host.to_ascii_lowercase())
}

/// The client, by the word of a trusted peer if that is who sent the request. Of a list, which a chain of
/// proxies makes, the first entry counts (Kong 3.9, `kong.request.get_forwarded_*`). `real` is the address
/// that it gives.
pub(super) fn client(
    parts: &Parts,
    peer: &Peer,
    real: Option<IpAddr>,
    trusted: bool,
    authority: &str,
) -> Client {
    let said = |name: &HeaderName| {
        // Nearly every request comes from somebody who is not believed: nothing is looked up for it.
        let headers = trusted.then_some(&parts.headers)?;
        let text = headers.get(name)?.to_str().ok()?;
        let first = text.split(',').next().unwrap_or_default().trim();
        (!first.is_empty()).then_some(first)
    };
    let https =
        said(&FORWARDED_PROTO).map_or(peer.tls, |scheme| scheme.eq_ignore_ascii_case("https"));
    let authority = said(&FORWARDED_HOST)
        .filter(|text| text.parse::<Authority>().is_ok() && !text.contains('@'))
        .unwrap_or(authority);
    let port = said(&FORWARDED_PORT).and_then(|port| port.parse().ok());
    Client {
        address: real.unwrap_or(peer.address),
        https,
        authority: port.map_or_else(
            || authority.to_owned(),
            |port| with_port(authority, port, https),
        ),
        certificate: peer.certificate,
        port: peer.port,
        peer: peer.address,
    }
}

/// The authority with another port, which goes without saying if it is the scheme's own.
fn with_port(authority: &str, port: u16, https: bool) -> String {
    let (host, _) = crate::router::split_port(authority);
    let own = if https { 443 } else { 80 };
    if port == own {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    }
}

/// A field that the gateway adds to a request.
pub(crate) type Added = (HeaderName, HeaderValue);

/// What tells the upstream who asked, and for what. Of the client's own fields
/// only those pass that [`is_replaced`] leaves.
pub(super) fn forwarded(
    headers: &HeaderMap,
    peer: &Peer,
    trusted: bool,
    client: &Client,
    path: &str,
    prefix: Option<&str>,
    added: &mut Vec<Added>,
) {
    // What a peer that is believed has said stays.
    let said = |name: &HeaderName| trusted && headers.contains_key(name);
    if !said(&FORWARDED_PROTO) {
        let scheme = if client.https { "https" } else { "http" };
        added.push((FORWARDED_PROTO, HeaderValue::from_static(scheme)));
    }
    let (host, _) = crate::router::split_port(&client.authority);
    let port = peer.port_text.as_str();
    for (name, value) in [
        (FORWARDED_HOST, Some(host)),
        (FORWARDED_PORT, Some(port)),
        (FORWARDED_PATH, Some(path)),
        (FORWARDED_PREFIX, prefix),
    ] {
        if let Some(value) = value
            && !said(&name)
            && let Ok(value) = HeaderValue::from_str(value)
        {
            added.push((name, value));
        }
    }
    let address = if client.address == peer.address {
        peer.address_text.clone()
    } else {
        text(client.address)
    };
    let chain: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let chain = if chain.is_empty() {
        Some(address.clone())
    } else {
        HeaderValue::from_str(&format!("{}, {}", chain.join(", "), peer.address)).ok()
    };
    added.extend(chain.map(|chain| (FORWARDED_FOR, chain)));
    added.push((REAL_IP, address));
}

/// Whether a client's field does not go upstream as it is: because the gateway tells it itself, or
/// because it speaks of the message's framing, which is made anew.
pub(super) fn is_replaced(name: &HeaderName) -> bool {
    is_replaced_if_trusted(name)
        || matches!(
            name.as_str(),
            "x-forwarded-proto"
                | "x-forwarded-host"
                | "x-forwarded-port"
                | "x-forwarded-path"
                | "x-forwarded-prefix"
        )
}

/// The same for a client that is believed about whom it speaks for.
pub(super) fn is_replaced_if_trusted(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host"
            | "content-length"
            | "expect"
            | "via"
            | "x-forwarded-for"
            | "x-real-ip"
            | "x-kong-request-id"
    )
}

/// An address as a field's value.
fn text(address: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&address.to_string()).expect("an address has only visible characters")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_trusted_proxy_says_which_url_was_asked_for() {
        let check = |trusted, fields: &[(&str, &str)], https, authority: &str| {
            let mut request = Request::get("/");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let peer = Peer::new("10.0.0.1".parse().unwrap(), 8000, false, Arc::default());
            let found = client(&parts, &peer, None, trusted, "gate.internal:8000");
            assert_eq!(
                (found.https, found.authority.as_str()),
                (https, authority),
                "{fields:?}"
            );
        };
        let host = ("x-forwarded-host", "app.example.com");
        let proto = ("x-forwarded-proto", "https");
        let port = |port| ("x-forwarded-port", port);
        check(true, &[], false, "gate.internal:8000");
        check(true, &[host, proto], true, "app.example.com");
        check(true, &[host, proto, port("443")], true, "app.example.com");
        check(
            true,
            &[host, proto, port("8443")],
            true,
            "app.example.com:8443",
        );
        check(true, &[host, port("80")], false, "app.example.com");
        check(true, &[proto, port("443")], true, "gate.internal");
        check(true, &[host, port("x")], false, "app.example.com");
        check(
            true,
            &[
                ("x-forwarded-host", "a.test, b.test"),
                ("x-forwarded-proto", "https, http"),
            ],
            true,
            "a.test",
        );
        check(
            true,
            &[("x-forwarded-host", "a b")],
            false,
            "gate.internal:8000",
        );
        check(
            true,
            &[("x-forwarded-host", "user@a.test")],
            false,
            "gate.internal:8000",
        );
        check(
            true,
            &[("x-forwarded-host", "[::1]:1"), port("8443")],
            false,
            "[::1]:8443",
        );
        check(
            false,
            &[host, proto, port("8443")],
            false,
            "gate.internal:8000",
        );
    }
}

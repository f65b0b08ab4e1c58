//! Who sent which request, and what the upstream is told about it (Kong 3.9, `X-Forwarded-*`).

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bytes::BytesMut;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use plugins::exchange::Client;

use super::kept::Kept;
use crate::error::GatewayError;
use crate::forward::fields;
use crate::forward::interim::Interim;
use crate::http1::head::check_host;
use crate::http1::headers::View;
use crate::http1::kind::Kind;
use crate::http1::request::RequestHead;
use crate::http1::writer::field;
use crate::listening::connections::Requests;
use crate::listening::handshake::Handshake;
use crate::router::normalize::is_well_formed;

static HOST: HeaderName = header::HOST;
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static(X_FORWARDED_PROTO);
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// The near end of a client's connection.
#[derive(Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    source_port: u16,
    /// The same as text, made once for all requests of the connection.
    address_text: String,
    port: u16,
    /// The listener's port, as text.
    port_text: String,
    pub(crate) tls: bool,
    /// Whether it speaks no TLS where it should.
    pub(crate) bare: bool,
    /// The client's address, where a trusted proxy has said it before the first request.
    pub(crate) announced: Option<IpAddr>,
    /// What its TLS handshake has settled.
    pub(crate) handshake: Option<Handshake>,
    given_up: Cell<GivenUp>,
    /// What all clients of its address have under way, where that is counted.
    pub(crate) requests: Option<Requests>,
    pub(super) kept: RefCell<Kept>,
    /// What it is to be told before the answer to the request under way.
    pub(crate) interim: Interim,
}

/// How many requests a client has given up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GivenUp {
    /// All.
    pub(crate) all: u32,
    /// Those that it has not waited for.
    pub(crate) hasty: u32,
}

impl Peer {
    /// A client at `source`, on a connection to `port`.
    pub(crate) fn new(source: SocketAddr, port: u16, tls: bool) -> Self {
        let address = source.ip().to_canonical();
        Self {
            address,
            source_port: source.port(),
            address_text: address.to_string(),
            port,
            port_text: port.to_string(),
            tls,
            bare: false,
            announced: None,
            handshake: None,
            given_up: Cell::default(),
            requests: None,
            kept: RefCell::default(),
            interim: Interim::default(),
        }
    }

    /// How many requests the client has given up so far.
    pub(crate) fn given_up(&self) -> GivenUp {
        self.given_up.get()
    }

    /// Notes that it has given up one more.
    pub(super) fn gives_up(&self, hasty: bool) {
        let before = self.given_up.get();
        self.given_up.set(GivenUp {
            all: before.all.saturating_add(1),
            hasty: before.hasty.saturating_add(hasty.into()),
        });
    }

    /// Where the connection's other end is.
    pub(crate) const fn address(&self) -> IpAddr {
        self.address
    }

    /// Where the client is, as far as is known before it asks for anything.
    pub(crate) fn client(&self) -> IpAddr {
        self.announced.unwrap_or(self.address)
    }

    /// The name that it has asked for in its TLS handshake.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.handshake.as_ref()?.server_name.as_deref()
    }

    /// Whether its TLS handshake went without the question for a certificate.
    pub(super) fn was_not_asked(&self) -> bool {
        self.handshake
            .as_ref()
            .is_some_and(|handshake| !handshake.asked)
    }

    /// The port that the client has connected to.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }
}

/// The host that is asked for, in lower case, from a request whose path and host can be read in only one way.
pub(super) fn authority(head: &RequestHead, peer: &Peer) -> Result<Rc<str>, GatewayError> {
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        return Err(GatewayError::Method);
    }
    if !is_well_formed(head.uri.path()) {
        return Err(GatewayError::BadRequest("the path has a malformed triplet"));
    }
    let headers = head.headers.view();
    // Where it is said in one place, and no other request of the connection can have said it in another.
    let once = match head.uri.authority() {
        None => headers.sole(Kind::HOST, &HOST),
        // There the field says it, too, if the client has not said something else.
        Some(authority) if head.version == Version::HTTP_2 => {
            let host = headers.sole(Kind::HOST, &HOST);
            host.filter(|host| *host == authority.as_str().as_bytes())
        }
        Some(_) => None,
    };
    if let Some(host) = once
        && let Some(known) = peer.kept.borrow().host(host)
    {
        return Ok(known);
    }
    let optional = match head.version {
        Version::HTTP_10 => true,
        // There `:authority` says it.
        Version::HTTP_2 => head.uri.authority().is_some(),
        _ => false,
    };
    let host =
        check_host(&head.uri, headers, optional).map_err(|_| GatewayError::BadRequest("Host"))?;
    let host = match head.uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            return Err(GatewayError::BadRequest("userinfo"));
        }
        Some(authority) => authority.as_str(),
        None => host
            .and_then(|host| str::from_utf8(host).ok())
            .unwrap_or_default(),
    };
    let host: Rc<str> = host.to_ascii_lowercase().into();
    if head.uri.authority().is_none() || once.is_some() {
        peer.kept.borrow_mut().keep_host(&host);
    }
    Ok(host)
}

/// The host that is asked for as the client has written it, whatever proxies say. None if there is none.
pub(super) fn received_host(head: &RequestHead) -> Option<HeaderValue> {
    if let Some(authority) = head.uri.authority() {
        return HeaderValue::from_str(authority.as_str()).ok();
    }
    let name = header::HOST;
    let mut hosts = head.headers.view().values(Kind::HOST, &name);
    let host = hosts.next().filter(|host| !host.is_empty())?;
    HeaderValue::from_bytes(host).ok()
}

/// The client, by the word of `trusted` fields, which a trusted peer has sent. Of a list, which a chain of
/// proxies makes, the first entry counts (Kong 3.9, `kong.request.get_forwarded_*`). `real` is the address
/// that it gives.
pub(super) fn client(
    trusted: Option<&HeaderMap>,
    peer: &Peer,
    real: Option<IpAddr>,
    authority: &Rc<str>,
) -> Client {
    let said = |name: &HeaderName| {
        let text = trusted?.get(name)?.to_str().ok()?;
        let first = text.split(',').next().unwrap_or_default().trim();
        (!first.is_empty()).then_some(first)
    };
    let https =
        said(&FORWARDED_PROTO).map_or(peer.tls, |scheme| scheme.eq_ignore_ascii_case("https"));
    let host = said(&FORWARDED_HOST)
        .filter(|text| text.parse::<Authority>().is_ok() && !text.contains('@'));
    let port = said(&FORWARDED_PORT).and_then(|port| port.parse().ok());
    Client {
        address: real.unwrap_or_else(|| peer.client()),
        https,
        authority: match (host, port) {
            (None, None) => Rc::clone(authority),
            (Some(host), None) => host.into(),
            (host, Some(port)) => with_port(host.unwrap_or(authority), port, https).into(),
        },
        certificate: peer.handshake.as_ref().and_then(|known| known.certificate),
        port: peer.port,
        peer: peer.address,
        source_port: (real.is_none() && peer.announced.is_none()).then_some(peer.source_port),
    }
}

/// The authority with another port, which goes without saying if it is the scheme's own.
fn with_port(authority: &str, port: u16, https: bool) -> String {
    let (host, _) = shared::authority::split_port(authority);
    let own = if https { 443 } else { 80 };
    if port == own {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    }
}

/// A field that the gateway adds to a request: its name in lower case, and its value.
pub(crate) type Added<'a> = (&'a str, Cow<'a, [u8]>);

/// The same of a value that is at hand.
pub(crate) type AtHand<'a> = (&'static str, &'a [u8]);

/// Whether `text` can stand in a field as it is.
fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

/// What tells the upstream where the client's path was found.
pub(super) fn forwarded_path<'a>(
    headers: View<'_>,
    trusted: bool,
    path: &'a str,
    prefix: Option<&'a str>,
) -> [Option<AtHand<'a>>; 2] {
    let told = |name, text: &'a str| {
        let tells = is_visible(text) && !is_said(name, headers, trusted);
        tells.then_some((name, text.as_bytes()))
    };
    [
        told("x-forwarded-path", path),
        prefix.and_then(|prefix| told("x-forwarded-prefix", prefix)),
    ]
}

/// What tells it who asked, and for what else. Of the client's own fields only those pass that are not
/// [`replaced`].
pub(super) fn forwarded<'a>(
    headers: View<'_>,
    peer: &'a Peer,
    trusted: bool,
    client: &'a Client,
    added: &mut Vec<Added<'a>>,
) {
    let (host, _) = shared::authority::split_port(&client.authority);
    let scheme = if client.https { "https" } else { "http" };
    for (name, value) in [
        (X_FORWARDED_PROTO, scheme),
        ("x-forwarded-host", host),
        ("x-forwarded-port", &*peer.port_text),
    ] {
        if !is_said(name, headers, trusted) {
            added.push((name, Cow::Borrowed(value.as_bytes())));
        }
    }
    let address = if client.address == peer.address {
        Cow::Borrowed(peer.address_text.as_bytes())
    } else {
        Cow::Owned(client.address.to_string().into_bytes())
    };
    let before = headers.values(Kind::FORWARDED_FOR, &FORWARDED_FOR);
    let before = before.filter_map(|value| str::from_utf8(value).ok());
    let mut before = before.filter(|text| is_visible(text));
    let chain = match before.next() {
        None => address.clone(),
        Some(first) => {
            let mut chain = first.to_owned();
            for more in before.chain([peer.address_text.as_str()]) {
                chain.push_str(", ");
                chain.push_str(more);
            }
            Cow::Owned(chain.into_bytes())
        }
    };
    added.push(("x-forwarded-for", chain));
    added.push(("x-real-ip", address));
}

/// Whether a peer that is believed has said of the URL what the field `name` tells: that stays.
fn is_said(name: &'static str, headers: View<'_>, trusted: bool) -> bool {
    trusted && headers.has(Kind::FORWARDED_URL, &HeaderName::from_static(name))
}

/// What [`forwarded`] and [`via`] add to a request of a client that nobody else speaks for, as lines: written once for all
/// of its requests for the same host, which come by the same version of HTTP unless that is 1.0. `None`: they are to be
/// asked.
pub(super) fn usual_lines(
    headers: View<'_>,
    version: Version,
    peer: &Peer,
    trusted: bool,
    client: &Client,
) -> Option<Rc<[u8]>> {
    if trusted
        || version == Version::HTTP_10
        || headers.has(Kind::FORWARDED_FOR, &FORWARDED_FOR)
        || headers.has(Kind::VIA, &header::VIA)
    {
        return None;
    }
    peer.kept.borrow_mut().lines(&client.authority, || {
        let none = HeaderMap::new();
        let mut added = Vec::new();
        forwarded(View::Map(&none), peer, trusted, client, &mut added);
        added.push(via(View::Map(&none), version));
        let mut lines = BytesMut::new();
        for (name, value) in added {
            field(&mut lines, name, &value);
        }
        lines.to_vec().into()
    })
}

/// The `Via` of a request.
pub(super) fn via(headers: View<'_>, version: Version) -> Added<'static> {
    let value = if headers.has(Kind::VIA, &header::VIA) {
        let whole = fields::via(&headers.map(), version);
        Cow::Owned(whole.as_bytes().to_vec())
    } else {
        Cow::Borrowed(fields::own_via(version).as_bytes())
    };
    ("via", value)
}

/// Which of a client's fields do not go upstream as they are: the gateway tells them itself, they speak of the
/// message's framing, which is made anew, or they are for proxies. Of a client that is `trusted` more passes.
pub(super) const fn replaced(trusted: bool) -> Kind {
    let always = Kind::HOST
        .and(Kind::CONTENT_LENGTH)
        .and(Kind::EXPECT)
        .and(Kind::VIA)
        .and(Kind::FORWARDED_FOR)
        .and(Kind::PROXY)
        .and(Kind::REQUEST_ID);
    if trusted {
        always
    } else {
        always.and(Kind::FORWARDED_URL)
    }
}

#[cfg(test)]
mod tests;

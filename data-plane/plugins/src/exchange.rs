//! The request in flight, as filters see and change it.

use std::any::Any;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;
use shared::clock::UnixTime;
use shared::entity::{Consumer, DEFAULT_WORKSPACE};
use shared::error_form::ErrorTemplates;
use uuid::Uuid;

use crate::credentials::secret_names::SecretNames;
use crate::environment::{Environment, Membership};
use crate::listed_host::ListedHost;
use crate::request_id::RequestId;
use crate::sessions::tenure::Tenure;

/// One request and what filters have found out about it.
pub struct Exchange<'a> {
    /// The request's head: what filters leave here goes upstream.
    ///
    /// Identity headers of the client (`X-Consumer-*` and the like) are already removed.
    pub request: http::request::Parts,
    /// The request's path in the one normalised form that routing used, without the query.
    pub path: String,
    /// Who asked, over what.
    pub client: Client,
    /// Who the request is known to come from.
    pub identity: Identity,
    /// Headers to put on the response, whoever answers.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// The request's body, for the few filters that read one.
    pub body: &'a mut dyn BodySource,
    /// The parts of the snapshot that filters may look things up in.
    pub environment: &'a Environment,
    /// The route that the request has matched.
    pub matched: &'a Matched,
    /// What the route's regular expression has captured of the path.
    pub captures: Captures,
    /// What goes upstream otherwise than it came.
    pub upstream: Overrides,
    /// What filters keep for their later phases.
    pub notes: Notes,
    /// What names this exchange in logs and answers.
    pub request_id: RequestId,
    /// What the request was let through by, if that may end before an answer does.
    pub tenure: Option<Rc<Tenure>>,
    /// How the node's operator writes errors.
    pub error_templates: &'a ErrorTemplates,
}

impl std::fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

/// The near side of the connection, after trusted `X-Forwarded-*` headers were taken into account.
#[derive(Clone, Debug)]
pub struct Client {
    /// The client's address.
    pub address: IpAddr,
    /// Whether the client spoke TLS to us, or to the trusted proxy before us.
    pub https: bool,
    /// Host and, if it is not the scheme's default, port that the client asked for.
    pub authority: Rc<str>,
    /// SHA-256 of the certificate that the client presented in its TLS handshake with us, whoever
    /// issued it.
    pub certificate: Option<[u8; 32]>,
    /// The listener's port.
    pub port: u16,
    /// The address of the connection's other end, whatever its headers say.
    pub peer: IpAddr,
    /// The client's port, unless a proxy stands before us.
    pub source_port: Option<u16>,
}

impl Client {
    /// The host that the client asked for, without the port; an IPv6 address in its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port))
                if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                host
            }
            _ => &self.authority,
        }
    }
}

/// The route that a request has matched, and its service.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    /// The route.
    pub route: Named,
    /// The hosts that the route lists; none if it is for any.
    pub hosts: Box<[ListedHost]>,
    /// Its service, if it has one.
    pub service: Option<Named>,
    /// Both records whole, where a filter of the route logs them.
    pub records: Option<Records>,
}

/// A record by what filters call it.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Option<String>,
}

impl Named {
    /// The name, else the id.
    pub fn shown(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.id.to_string())
    }
}

/// The workspace that a record is in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workspace {
    /// Its id.
    pub id: Uuid,
    /// Its name; its id, where the control plane does not tell names yet.
    pub name: Arc<str>,
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            id: DEFAULT_WORKSPACE,
            name: "default".into(),
        }
    }
}

/// The records of a route and its service, as the Admin API shows them.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The route.
    pub route: Arc<Value>,
    /// Its service; null without one.
    pub service: Arc<Value>,
    /// The workspace that the route is in.
    pub workspace: Workspace,
}

/// What a route's regular expression has captured of the path.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Captures {
    /// All that it has matched, if it captures anything.
    pub whole: String,
    /// By number, the first at place 0.
    pub numbered: Vec<String>,
    /// By name.
    pub named: Vec<(String, String)>,
}

/// What goes upstream otherwise than it came, beyond what filters change in the request's head.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The whole path, in place of the one that service and route make.
    pub path: Option<String>,
    /// The `Host`.
    pub host: Option<HeaderValue>,
    /// The whole body, in place of the client's.
    pub body: Option<Bytes>,
    /// Longest body, in bytes, of a request that does not say how long it is.
    pub body_limit: Option<u64>,
}

/// Values that filters keep from one phase of an exchange to the next: one per type.
#[derive(Default)]
pub struct Notes(Vec<Box<dyn Any>>);

impl Notes {
    /// Keeps `value`, in place of an earlier one of its type.
    pub fn put<T: 'static>(&mut self, value: T) {
        match self.get_mut::<T>() {
            Some(kept) => *kept = value,
            None => self.0.push(Box::new(value)),
        }
    }

    /// The value of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.iter().find_map(|value| value.downcast_ref())
    }

    /// The value of this type, to change.
    pub fn get_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.0.iter_mut().find_map(|value| value.downcast_mut())
    }
}

impl std::fmt::Debug for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notes").finish_non_exhaustive()
    }
}

/// A note of what the filters of a request tell its client beside the answer: of nobody else's concern.
pub struct Told(pub Vec<(HeaderName, HeaderValue)>);

shared::unsaid!(Told);

impl Told {
    /// `headers` without it.
    pub(crate) fn apart_from(&self, headers: &HeaderMap) -> HeaderMap {
        let mut told: Vec<_> = self.0.iter().collect();
        let mut rest = HeaderMap::new();
        for (name, value) in headers {
            let is_it = |told: &&(HeaderName, HeaderValue)| told.0 == *name && told.1 == *value;
            match told.iter().position(is_it) {
                Some(place) => _ = told.swap_remove(place),
                None => _ = rest.append(name, value.clone()),
            }
        }
        rest
    }
}

/// What stays of a request after its filters have let it through or answered it.
pub struct Seen {
    /// The head as it went upstream.
    pub request: http::request::Parts,
    /// The method that the client has sent.
    pub method: Method,
    /// Path and query that the client has sent.
    pub uri: http::Uri,
    /// Who asked, over what.
    pub client: Client,
    /// Who the request is known to come from.
    pub identity: Identity,
    /// What filters have kept.
    pub notes: Notes,
    /// What names the exchange in logs and answers.
    pub request_id: RequestId,
}

shared::unsaid!(Seen);

/// Who made an answer.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// The gateway, because something went wrong.
    Error,
    /// A filter.
    Exit,
    /// The upstream.
    Service,
}

impl Source {
    /// The value of Kong's metric label `source`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error | Self::Exit => "kong",
            Self::Service => "service",
        }
    }
}

/// A response on its way to the client, whoever made it.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The request.
    pub seen: &'a mut Seen,
    /// Its route; none if it matched none.
    pub matched: Option<&'a Matched>,
    /// The status.
    pub status: &'a mut StatusCode,
    /// The header fields.
    pub headers: &'a mut HeaderMap,
    /// Who made it.
    pub source: Source,
    /// What the filter wants of the body: [`BodyWish::Nothing`] unless it says otherwise.
    pub wish: BodyWish,
    /// What the body's parts go through on their way, the first one first.
    pub maps: Vec<Box<dyn BodyMap>>,
}

/// Changes a response's body on its way, part by part.
pub trait BodyMap: std::fmt::Debug {
    /// What goes on in place of `data`.
    fn data(&mut self, data: Bytes) -> Bytes;

    /// What goes on behind the last part, in place of the trailers.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Bytes;
}

/// What a filter wants of a response's body.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BodyWish {
    /// It passes as it comes.
    #[default]
    Nothing,
    /// To see all of it, if it is no longer than so many bytes; else it passes unseen.
    Look(usize),
    /// To see all of it, and parse it as JSON. A body that is longer than so many bytes never reaches the client.
    Need(usize),
    /// That the client gets none of it.
    Discard,
}

/// A response's whole body.
#[derive(Debug)]
pub struct WholeBody<'a> {
    /// The request.
    pub seen: &'a mut Seen,
    /// Its route; none if it matched none.
    pub matched: Option<&'a Matched>,
    /// The status.
    pub status: StatusCode,
    /// The header fields. The body's length is set by the pipeline.
    pub headers: &'a mut HeaderMap,
    /// The bytes, to be replaced at will.
    pub body: Bytes,
}

/// An exchange that is over.
#[derive(Debug)]
pub struct Log<'a> {
    /// The request.
    pub seen: &'a Seen,
    /// Its route; none if it matched none.
    pub matched: Option<&'a Matched>,
    /// What is told to no log.
    pub secrets: &'a SecretNames,
    /// The status that the client was sent; 499 if it left before.
    pub status: StatusCode,
    /// The header fields that the client was sent.
    pub headers: &'a HeaderMap,
    /// Who made the answer.
    pub source: Source,
    /// The status that the upstream answered with.
    pub upstream_status: Option<StatusCode>,
    /// Path and query that it was asked for; empty if it was not.
    pub upstream_uri: &'a str,
    /// Bytes of the request as the client has sent it: head and body.
    pub received: u64,
    /// Bytes of the answer: head and body.
    pub sent: u64,
    /// When the request came.
    pub started_at: UnixTime,
    /// Durations.
    pub latencies: Latencies,
    /// Upstream servers that were tried, in order.
    pub tries: &'a [Try],
    /// The TLS that the client spoke, if it did.
    pub tls: Option<TlsSession>,
}

/// What a TLS handshake with a client has settled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TlsSession {
    /// The version, such as `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, as OpenSSL calls it.
    pub cipher: &'static str,
}

/// How long what has taken, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies {
    /// From the first byte of the request to the last one of the answer.
    pub request: u64,
    /// In the gateway, before the upstream was asked; all of it if none was.
    pub kong: u64,
    /// From asking the upstream to the head of its answer.
    pub proxy: Option<u64>,
    /// From the answer's head to its last byte.
    pub receive: u64,
}

/// An attempt to reach an upstream server.
#[derive(Clone, Debug, Default)]
pub struct Try {
    /// Where: the server's address, or its name where none was connected to.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What it is called where it is configured.
    pub name: String,
    /// When, in milliseconds since 1970.
    pub started_at: u64,
    /// How long it took to choose the server, in nanoseconds.
    pub chosen_within: u64,
    /// The status that stands for its failure.
    pub failed: Option<u16>,
}

/// Who a request comes from. Empty until an authentication filter fills it.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The consumer, real or anonymous.
    pub consumer: Option<Arc<Consumer>>,
    /// Whether `consumer` is the fallback of a failed or missing authentication.
    pub anonymous: bool,
    /// The credential's identifier: a key's id, or the claim that stands for one.
    pub credential: Option<String>,
    /// Groups that the authentication itself asserts, such as a token's claim. Not those of `consumer`.
    pub authenticated_groups: Option<Vec<String>>,
    /// Consumer groups that the authentication itself asserts, beside those of `consumer`.
    pub consumer_groups: Vec<Membership>,
}

/// A request's body before it is forwarded.
pub trait BodySource {
    /// Reads the whole body, to be parsed as `parsing` says; it is still forwarded afterwards. A second call returns the same
    /// bytes.
    fn read(
        &mut self,
        limit: usize,
        parsing: Parsing,
    ) -> LocalBoxFuture<'_, Result<Bytes, BodyError>>;

    /// Makes room for what becomes of `bytes`, which a filter has made of a body that it has read, as they are parsed. It does
    /// nothing where memory is not counted.
    ///
    /// # Errors
    ///
    /// There is no room: the request is answered for that.
    fn make_room(&mut self, _bytes: &[u8], _parsing: Parsing) -> Result<(), BodyError> {
        Ok(())
    }
}

/// What a filter parses a body as, which takes up memory beside its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parsing {
    /// It stays bytes.
    Nothing,
    /// The arguments of a form.
    Form,
    /// Values of JSON, alone or in frames.
    Json,
    /// The parts of `multipart/form-data`.
    Multipart,
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than the caller's limit. What was read so far is still forwarded.
    #[error("the request body is larger than {0} bytes")]
    TooLarge(usize),
    /// The client went away or broke the framing, or there is no memory for it: the request is answered for that.
    #[error("the request body ended early")]
    Broken,
}

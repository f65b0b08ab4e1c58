//! The request in flight, as filters see and change it.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::{HeaderName, HeaderValue};
use shared::entity::Consumer;

use crate::environment::Environment;

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
    /// 32 hexadecimal digits that name this exchange in logs and answers.
    pub request_id: String,
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
    pub authority: String,
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
}

/// A request's body before it is forwarded.
pub trait BodySource {
    /// Reads the whole body; it is still forwarded afterwards. A second call returns the same bytes.
    fn read(&mut self, limit: usize) -> LocalBoxFuture<'_, Result<Bytes, BodyError>>;
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than the caller's limit. What was read so far is still forwarded.
    #[error("the request body is larger than {0} bytes")]
    TooLarge(usize),
    /// The client went away or broke the framing.
    #[error("the request body ended early")]
    Broken,
}

//! Builds requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{FakeHost, key_ring};
use crate::credentials::secret_names::SecretNames;
use crate::environment::Environment;
use crate::exchange::{
    BodyError, BodySource, Captures, Client, Exchange, Identity, Matched, Notes, Overrides,
    Parsing, Try,
};
use crate::filter::Filter;
use crate::glance::{Fields, Glance, Looks, Made, Pass, Usual, Value};
use crate::host::Host as _;
use crate::request_id::RequestId;

/// A request to be.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    pub(crate) https: bool,
    /// Where its client is.
    pub(crate) address: IpAddr,
    /// The host that its client asked for.
    pub(crate) authority: &'static str,
    pub(crate) certificate: Option<[u8; 32]>,
    pub(crate) environment: Environment,
    pub(crate) matched: Matched,
    /// What its route's filters let no log tell.
    pub(crate) secrets: SecretNames,
    /// What other filters tell the client.
    pub(crate) told: Vec<(HeaderName, HeaderValue)>,
    /// The servers that it is sent to.
    pub(crate) tries: Vec<Try>,
}

impl Request {
    pub(crate) fn get(uri: &str) -> Self {
        Self {
            method: Method::GET,
            uri: uri.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            https: false,
            address: [127, 0, 0, 1].into(),
            authority: "gateway.example",
            certificate: None,
            environment: Environment {
                session_keys: key_ring(),
                ..Environment::default()
            },
            matched: Matched::default(),
            secrets: SecretNames::default(),
            told: Vec::new(),
            tries: vec![Try {
                host: "127.0.0.1".to_owned(),
                port: 80,
                name: "up.example".to_owned(),
                started_at: 1,
                ..Try::default()
            }],
        }
    }

    /// Shows the request to `look` as a filter sees it.
    pub(crate) fn with_exchange<T>(&self, look: impl FnOnce(&mut Exchange<'_>) -> T) -> T {
        let mut builder = http::Request::builder()
            .method(self.method.clone())
            .uri(&self.uri);
        for (name, value) in &self.headers {
            builder = builder.header(name, value);
        }
        let (request, ()) = builder.body(()).unwrap().into_parts();
        let mut body = Body(self.body.clone());
        let mut exchange = Exchange {
            path: request.uri.path().to_owned(),
            request,
            client: Client {
                address: self.address,
                https: self.https,
                authority: self.authority.into(),
                certificate: self.certificate,
                port: 8000,
                peer: [127, 0, 0, 1].into(),
                source_port: Some(40_000),
            },
            identity: Identity::default(),
            response_headers: Vec::new(),
            body: &mut body,
            environment: &self.environment,
            error_templates: &shared::error_form::NO_TEMPLATES,
            matched: &self.matched,
            captures: Captures::default(),
            upstream: Overrides::default(),
            notes: Notes::default(),
            tenure: None,
            request_id: RequestId::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        };
        look(&mut exchange)
    }
}

impl Request {
    /// What `filter` says of it at a glance.
    pub(crate) fn glance(&self, filter: &impl Filter, host: &FakeHost) -> Option<Pass> {
        self.with_exchange(|exchange| {
            let fields = &exchange.request.headers;
            glance(exchange, fields, filter, host, Pass::default())
        })
    }
}

/// Fields of a connection that has brought each of its values before.
struct Repeated<'a> {
    fields: &'a HeaderMap,
    cookie: Rc<Made>,
    authorization: Rc<Made>,
}

/// What was made of the values of all requests to a core.
#[derive(Default)]
struct AllMade(RefCell<HashMap<Vec<u8>, Rc<Made>>>);

impl<'a> Repeated<'a> {
    fn of(fields: &'a HeaderMap, host: &FakeHost) -> Self {
        let all = host.core_state::<AllMade>();
        let made = |name| {
            let text = fields.get(name).map_or(&[][..], HeaderValue::as_bytes);
            let mut all = all.0.borrow_mut();
            Rc::clone(all.entry(text.to_vec()).or_default())
        };
        Self {
            cookie: made(COOKIE),
            authorization: made(AUTHORIZATION),
            fields,
        }
    }
}

impl Fields for Repeated<'_> {
    fn value<'a>(&'a self, name: &'a HeaderName) -> Value<'a> {
        self.fields.value(name)
    }

    fn made(&self, field: Usual) -> Option<&Made> {
        match field {
            Usual::Cookie => Some(&self.cookie),
            Usual::Authorization => Some(&self.authorization),
            Usual::ContentType => None,
        }
    }
}

/// What `filter` says at a glance of the request in `exchange`, if that came with `fields` and goes on with `pass` so far.
pub(crate) fn glance(
    exchange: &Exchange<'_>,
    fields: &HeaderMap,
    filter: &impl Filter,
    host: &FakeHost,
    mut pass: Pass,
) -> Option<Pass> {
    let glance = Glance {
        method: &exchange.request.method,
        path: &exchange.path,
        query: exchange.request.uri.query(),
        client: &exchange.client,
        fields: &Repeated::of(fields, host),
        environment: exchange.environment,
        matched: exchange.matched,
    };
    if filter.looks() == Looks::Never {
        return None;
    }
    filter.on_glance(&glance, &mut pass, host)?;
    Some(pass)
}

struct Body(Bytes);

impl BodySource for Body {
    fn read(&mut self, limit: usize, _: Parsing) -> LocalBoxFuture<'_, Result<Bytes, BodyError>> {
        let body = if self.0.len() > limit {
            Err(BodyError::TooLarge(limit))
        } else {
            Ok(self.0.clone())
        };
        Box::pin(std::future::ready(body))
    }
}

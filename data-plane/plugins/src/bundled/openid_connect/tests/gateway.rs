//! A node with one route that runs the plugin, and a browser that keeps its cookies.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::{Map, Value, json};
use shared::entity::Consumer;
use shared::schema::FieldErrors;
use std::sync::Arc;
use uuid::Uuid;

use super::glance::Foreseen;
use super::provider::{ISSUER, Provider};
use crate::bundled::openid_connect::{OpenidConnect, OpenidConnectFilter};
use crate::environment::Environment;
use crate::exchange::Identity;
use crate::filter::{Filter, Flow, Instance, Plugin};
use crate::host::Host as _;
use crate::testing::{FakeHost, Landed, Request, key_ring};

/// A node, its provider and its configuration.
pub(super) struct Gateway {
    pub(super) filter: OpenidConnectFilter,
    pub(super) host: FakeHost,
    pub(super) provider: Rc<Provider>,
    pub(super) environment: Environment,
    pub(super) https: bool,
}

/// A request for `uri` with `headers`.
pub(super) fn request(uri: &str, headers: &[(&'static str, &str)]) -> Request {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers.push((HeaderName::from_static(name), value));
    }
    request
}

/// What is said to a configuration with a client and these `changes`.
pub(super) fn judged(changes: &Value) -> Result<Value, FieldErrors> {
    let mut config = json!({ "issuer": ISSUER, "client_id": ["client"] });
    let members = config.as_object_mut().unwrap();
    members.extend(changes.as_object().unwrap().clone());
    crate::registry::check(OpenidConnect::NAME, &config)
}

/// What became of a request.
#[derive(Debug)]
pub(super) struct Reply {
    /// 200 if the request went upstream.
    pub(super) status: u16,
    /// What the upstream saw, if it saw something.
    pub(super) upstream: Option<(Uri, HeaderMap)>,
    /// The body that went upstream in place of the client's.
    pub(super) sent: Option<Bytes>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) identity: Identity,
}

impl Gateway {
    /// A node with `config` over a client id, a secret and the provider.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "tests write the value in place"
    )]
    pub(super) fn new(config: Value) -> Self {
        Self::with_provider(&config, Provider::new(), 1)
    }

    /// Another node, or another route, at the same provider.
    pub(super) fn with_provider(config: &Value, provider: Rc<Provider>, seed: u64) -> Self {
        let host = FakeHost::on_node(Arc::default(), seed);
        let network = Rc::clone(&provider);
        host.connect(Rc::new(move |request| network.handle(request)));
        Self {
            filter: compile(config, 7),
            host,
            provider,
            environment: Environment {
                session_keys: key_ring(),
                ..Environment::default()
            },
            https: false,
        }
    }

    /// Two nodes at one provider.
    pub(super) fn two(config: &Value) -> [Self; 2] {
        let provider = Provider::new();
        [1, 2].map(|seed| Self::with_provider(config, Rc::clone(&provider), seed))
    }

    /// Two nodes at one provider that hear one control plane, which holds `cluster`.
    pub(super) fn joined(config: &Value, cluster: &Rc<Landed>) -> [Self; 2] {
        let nodes = Self::two(config);
        for node in &nodes {
            node.host.join(cluster);
        }
        nodes
    }

    pub(super) fn add_consumer(&mut self, consumer: &Arc<Consumer>) {
        self.environment.consumers.add(consumer);
    }

    /// Lets time pass, here and at the provider.
    pub(super) fn advance(&self, seconds: u64) {
        self.host
            .advance(f64::from(u32::try_from(seconds).unwrap()));
        *self.provider.clock.borrow_mut() += seconds;
    }

    /// Lets time pass, here, at `other` and at their provider.
    pub(super) fn advance_with(&self, other: &Self, seconds: u64) {
        self.advance(seconds);
        other.host.set_clock(self.host.now());
    }

    pub(super) fn send(&mut self, request: Request) -> Reply {
        let (filter, host) = (&self.filter, &self.host);
        let environment = std::mem::take(&mut self.environment);
        let request = Request {
            environment,
            https: self.https,
            ..request
        };
        let reply = request.with_exchange(|exchange| {
            let foreseen = Foreseen::of(filter, exchange, host);
            let flow = host.run(filter.on_request(exchange, host));
            foreseen.check(exchange, &flow);
            let mut headers: HeaderMap = exchange.response_headers.drain(..).fold(
                HeaderMap::new(),
                |mut headers, (name, value)| {
                    headers.append(name, value);
                    headers
                },
            );
            let identity = exchange.identity.clone();
            let sent = exchange.upstream.body.clone();
            match flow {
                Flow::Continue => Reply {
                    status: 200,
                    upstream: Some((
                        exchange.request.uri.clone(),
                        exchange.request.headers.clone(),
                    )),
                    sent,
                    headers,
                    body: Bytes::new(),
                    identity,
                },
                Flow::Answer(answer) | Flow::Kept(answer) => {
                    for (name, value) in answer.headers() {
                        headers.append(name, value.clone());
                    }
                    Reply {
                        status: answer.status().as_u16(),
                        upstream: None,
                        sent: None,
                        headers,
                        body: answer.into_body(),
                        identity,
                    }
                }
            }
        });
        self.environment = request.environment;
        reply
    }

    /// A call of a program: no cookies, a bearer token.
    pub(super) fn call(&mut self, token: &str) -> Reply {
        let mut request = Request::get("/api");
        request.headers.push((
            AUTHORIZATION,
            HeaderValue::from_str(&format!("Bearer {token}")).unwrap(),
        ));
        self.send(request)
    }
}

pub(super) fn compile(config: &Value, id: u128) -> OpenidConnectFilter {
    let mut all: Map<String, Value> = json!({
        "issuer": ISSUER, "client_id": ["client"], "client_secret": ["secret"],
    })
    .as_object()
    .unwrap()
    .clone();
    all.extend(config.as_object().unwrap().clone());
    let config = crate::registry::check(OpenidConnect::NAME, &Value::Object(all)).unwrap();
    let config: OpenidConnect = serde_json::from_value(config).unwrap();
    config
        .compile(&Instance {
            id: Uuid::from_u128(id),
        })
        .unwrap()
}

impl Reply {
    pub(super) fn location(&self) -> &str {
        self.headers
            .get(LOCATION)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn set_cookies(&self) -> Vec<&str> {
        self.headers
            .get_all(SET_COOKIE)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect()
    }

    /// Whether a session was handed out.
    pub(super) fn sets_session(&self) -> bool {
        self.set_cookies()
            .iter()
            .any(|cookie| cookie.starts_with("session=") && !cookie.contains("Max-Age=0"))
    }

    pub(super) fn ends_session(&self) -> bool {
        self.set_cookies()
            .iter()
            .any(|cookie| cookie.starts_with("session=;"))
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The header `name` as the upstream saw it.
    pub(super) fn seen(&self, name: &str) -> Option<&str> {
        let (_, headers) = self.upstream.as_ref().expect("the request went upstream");
        headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(super) fn challenge(&self) -> &str {
        self.headers
            .get("www-authenticate")
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn argument(&self, name: &str) -> Option<String> {
        let url = url::Url::parse(self.location()).unwrap();
        url.query_pairs()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.into_owned())
    }
}

/// Keeps cookies and follows nobody by itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Browser {
    pub(super) cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(super) fn get(&mut self, gateway: &mut Gateway, uri: &str) -> Reply {
        self.send(gateway, Request::get(uri))
    }

    pub(super) fn post(&mut self, gateway: &mut Gateway, uri: &str, form: &str) -> Reply {
        let mut request = Request::get(uri);
        request.method = Method::POST;
        request.body = Bytes::copy_from_slice(form.as_bytes());
        request.headers.push((
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        ));
        self.send(gateway, request)
    }

    pub(super) fn get_with(
        &mut self,
        gateway: &mut Gateway,
        uri: &str,
        header: &'static str,
        value: &str,
    ) -> Reply {
        let mut request = Request::get(uri);
        request.headers.push((
            HeaderName::from_static(header),
            HeaderValue::from_str(value).unwrap(),
        ));
        self.send(gateway, request)
    }

    pub(super) fn send(&mut self, gateway: &mut Gateway, mut request: Request) -> Reply {
        if !self.cookies.is_empty() {
            let cookies: Vec<_> = self
                .cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            request
                .headers
                .push((COOKIE, HeaderValue::from_str(&cookies.join("; ")).unwrap()));
        }
        let reply = gateway.send(request);
        self.keep(&reply);
        reply
    }

    /// Keeps the cookies of `reply`, and forgets those that it takes back.
    pub(super) fn keep(&mut self, reply: &Reply) {
        for cookie in reply.set_cookies() {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if cookie.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// Signs in at `uri` and answers what became of the way back.
    pub(super) fn sign_in(&mut self, gateway: &mut Gateway, uri: &str) -> Reply {
        let start = self.get(gateway, uri);
        assert_eq!(start.status, 302, "{start:?}");
        let query = gateway.provider.authorize(start.location());
        // A pushed or a signed request does not show where the way back leads: where it came from.
        let back = start
            .argument("redirect_uri")
            .map(|uri| url::Url::parse(&uri).unwrap());
        let back = back.map_or(uri.to_owned(), |back| back.path().to_owned());
        self.get(gateway, &format!("{back}?{query}"))
    }
}

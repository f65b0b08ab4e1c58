//! A request to a route that signs in.

use std::sync::LazyLock;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::Method;
use plugins::environment::Environment;
use plugins::exchange::{
    BodyError, BodySource, Captures, Client, Exchange, Identity, Matched, Notes, Overrides,
    Parsing,
};
use plugins::filter::{Filter as _, Flow, Instance};
use plugins::registry::{self, AnyFilter};
use plugins::request_id::RequestId;
use plugins::sessions::session_keys::{KeyRing, SessionKey};
use serde_json::{Value, json};
use shared::secret::Secret;
use uuid::Uuid;

use crate::host::OfflineHost;

/// The provider.
pub const ISSUER: &str = "https://idp.example";

/// The secret that the client shares with the provider, and that some tokens are signed with.
pub const SECRET: &str = "a-secret-of-some-length-that-is-shared";

/// The plugin that every request meets.
pub static FILTER: LazyLock<AnyFilter> = LazyLock::new(|| {
    let config = json!({
        "issuer": ISSUER,
        "client_id": ["client"],
        "client_secret": [SECRET],
        "enable_hs_signatures": true,
        "introspect_jwt_tokens": false,
        "backchannel_logout_uri_suffix": "/backchannel",
        "frontchannel_logout_uri_suffix": "/frontchannel",
        "logout_uri_suffix": "/logout",
        "logout_query_arg": "logout",
        "preserve_post": true,
    });
    let config = registry::check("openid-connect", &config).expect("the configuration is valid");
    registry::compile("openid-connect", config, &Instance { id: Uuid::nil() })
        .expect("the configuration compiles")
});

/// What the provider says of itself.
pub fn discovery() -> Value {
    json!({
        "issuer": ISSUER,
        "authorization_endpoint": format!("{ISSUER}/authorize"),
        "token_endpoint": format!("{ISSUER}/token"),
        "jwks_uri": format!("{ISSUER}/keys"),
        "userinfo_endpoint": format!("{ISSUER}/userinfo"),
        "introspection_endpoint": format!("{ISSUER}/introspect"),
        "end_session_endpoint": format!("{ISSUER}/logout"),
        "revocation_endpoint": format!("{ISSUER}/revoke"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "HS256"],
        "frontchannel_logout_supported": true,
        "backchannel_logout_supported": true,
    })
}

/// Sends a request through the plugin; its status if it is answered.
pub fn send(
    host: &OfflineHost,
    method: Method,
    uri: &str,
    headers: &[(&str, &[u8])],
    body: &[u8],
) -> Option<u16> {
    let mut builder = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let (request, ()) = builder.body(()).ok()?.into_parts();
    let environment = Environment {
        session_keys: KeyRing {
            keys: vec![SessionKey {
                id: [1; 8],
                secret: Secret::new([1; 32]),
                activate_at: 0,
                decrypt_until: None,
            }],
        },
        ..Environment::default()
    };
    let matched = Matched::default();
    let mut body = Body(Bytes::copy_from_slice(body));
    let mut exchange = Exchange {
        path: request.uri.path().to_owned(),
        request,
        client: Client {
            address: [127, 0, 0, 1].into(),
            https: true,
            authority: "gateway.example".into(),
            certificate: None,
            port: 8443,
            peer: [127, 0, 0, 1].into(),
            source_port: Some(40_000),
        },
        identity: Identity::default(),
        response_headers: Vec::new(),
        body: &mut body,
        environment: &environment,
        error_templates: &shared::error_form::NO_TEMPLATES,
        matched: &matched,
        captures: Captures::default(),
        upstream: Overrides::default(),
        notes: Notes::default(),
        tenure: None,
        request_id: RequestId::new(1),
    };
    match host.run(FILTER.on_request(&mut exchange, host)) {
        Flow::Continue => None,
        Flow::Answer(answer) | Flow::Kept(answer) => Some(answer.status().as_u16()),
    }
}

struct Body(Bytes);

impl BodySource for Body {
    fn read(
        &mut self,
        limit: usize,
        _: Parsing,
    ) -> LocalBoxFuture<'_, Result<Bytes, BodyError>> {
        let body = if self.0.len() > limit {
            Err(BodyError::TooLarge(limit))
        } else {
            Ok(self.0.clone())
        };
        Box::pin(std::future::ready(body))
    }
}

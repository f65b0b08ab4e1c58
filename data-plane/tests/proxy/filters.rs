//! Bundled plugins through the proxy: a bearer token of a provider, a consumer, and groups.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_plane::limits::Limits;
use data_plane::settings::Settings;
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::snapshot::Record;
use uuid::Uuid;

use crate::gateway::{
    OK, ask, closed_port, configuration, connect, plugin, read_until, record, scoped, settings,
    start, start_with, stop, upstream,
};
use crate::http2::status;

/// An OpenID provider that publishes one key and signs with it.
struct Provider {
    issuer: String,
    key: EcdsaKeyPair,
}

impl Provider {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = key.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        let keys = json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "1",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]});
        let discovery = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/keys"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(head) = read_until(&mut stream, "\r\n\r\n") else {
                    continue;
                };
                let body = if head.starts_with("GET /keys ") {
                    keys.to_string()
                } else {
                    discovery.to_string()
                };
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                );
            }
        });
        Self { issuer, key }
    }

    /// An access token for `subject`, with claims changed as given.
    fn token(&self, subject: &str, changed: &Value) -> String {
        let now = UnixTime::now().as_millis() / 1000;
        let mut claims = json!({"iss": self.issuer, "sub": subject, "aud": "shop", "iat": now, "exp": now + 600});
        for (name, value) in changed.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = json!({"alg": "ES256", "kid": "1", "typ": "JWT"});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn consumer(number: u128, name: &str, group: &str) -> [Record; 2] {
    let consumer = json!({"id": Uuid::from_u128(number)});
    [
        record("consumers", number, json!({"username": name})),
        record(
            "acls",
            number + 1,
            json!({"consumer": consumer, "group": group}),
        ),
    ]
}

#[test]
fn a_bearer_token_makes_a_consumer_and_groups_decide() {
    let provider = Provider::start();
    let (port, heads) = upstream(&[OK]);
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    records.push(plugin(
        200,
        "openid-connect",
        &json!({
            "issuer": provider.issuer, "client_id": ["shop"], "auth_methods": ["bearer"],
            "consumer_claim": ["sub"], "consumer_by": ["username"],
        }),
    ));
    records.push(plugin(201, "acl", &json!({"allow": ["staff"]})));
    records.extend(consumer(300, "ann", "staff"));
    records.extend(consumer(400, "bob", "guests"));
    let proxy = start(records);
    let get = |token: Option<&str>| {
        let authorization = token
            .map(|token| format!("Authorization: Bearer {token}\r\n"))
            .unwrap_or_default();
        ask(
            &proxy,
            &format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX-Consumer-Username: root\r\nConnection: close, X-Consumer-Username, x-authenticated-groups\r\n{authorization}\r\n"
            ),
        )
    };

    let answer = get(Some(&provider.token("ann", &json!({}))));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let head = heads.recv().unwrap().to_ascii_lowercase();
    assert!(head.contains("x-consumer-username: ann\r\n"), "{head}");
    assert!(!head.contains("root"), "{head}");

    let answer = get(Some(&provider.token("bob", &json!({}))));
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("You cannot consume this service"),
        "{answer}"
    );

    let answer = get(None);
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("www-authenticate: bearer"),
        "{answer}"
    );

    let other = Provider::start();
    let forged = other.token("ann", &json!({"iss": provider.issuer}));
    let expired = provider.token("ann", &json!({"exp": 1_000_000}));
    let foreign = provider.token("ann", &json!({"iss": "http://127.0.0.1:1"}));
    for token in [forged.as_str(), &expired, &foreign, "a.b.c", ""] {
        let answer = get(Some(token));
        assert!(answer.starts_with("HTTP/1.1 401 "), "{token} {answer}");
        assert!(token.is_empty() || !answer.contains(token), "{answer}");
    }
    assert!(heads.try_recv().is_err(), "the upstream heard of none");
    stop(proxy);
}

/// An upstream that says what only the gateway may say.
const FORGING: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Email: root\r\nx_email: root\r\n\
     Set-Cookie: session=root; Path=/\r\nSet-Cookie: theme=dark\r\nSet-Cookie: =session2=root\r\n\
     Set-Cookie: __Host-session=root; Secure; Path=/\r\n\r\nok";

#[test]
fn headers_for_the_client_come_from_claims_and_never_from_the_upstream() {
    let provider = Provider::start();
    let (port, _heads) = upstream(&[FORGING]);
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    records.push(plugin(
        200,
        "openid-connect",
        &json!({
            "issuer": provider.issuer, "client_id": ["shop"], "auth_methods": ["session", "bearer"],
            "downstream_headers_claims": ["email"], "downstream_headers_names": ["x_email"],
        }),
    ));
    let proxy = start(records);
    for (email, lines) in [(json!("a@b.example"), 1), (Value::Null, 0)] {
        let token = provider.token("ann", &json!({"email": email}));
        let answer = ask(
            &proxy,
            &format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
            ),
        );
        let answer = answer.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200 "), "{answer}");
        assert_eq!(answer.matches("x-email: a@b.example\r\n").count(), lines);
        assert!(!answer.contains("root"), "{answer}");
        // Nor do cookies of the gateway's own; others are the upstream's to set.
        assert!(answer.contains("set-cookie: theme=dark\r\n"), "{answer}");
    }
    stop(proxy);
}

#[test]
fn a_known_token_passes_alike_at_a_glance_and_looked_at_whole() {
    let provider = Provider::start();
    let (port, heads) = upstream(&[OK]);
    let mut records = configuration(
        port,
        &json!({}),
        &[json!({"paths": ["/glance"]}), json!({"paths": ["/whole"]})],
    );
    let config = json!({
        "issuer": provider.issuer, "client_id": ["shop"], "auth_methods": ["bearer"],
        "authenticated_groups_claim": ["groups"],
        "upstream_headers_claims": ["sub", "none"], "upstream_headers_names": ["x-sub", "x-none"],
        "downstream_headers_claims": ["sub"], "downstream_headers_names": ["x-who"],
    });
    for (number, route) in [(200, 2), (201, 3)] {
        let route = json!({"route": {"id": Uuid::from_u128(route)}});
        records.push(scoped(plugin(number, "openid-connect", &config), &route));
    }
    let named = json!({"generator": "uuid"});
    records.push(plugin(203, "correlation-id", &named));
    records.push(plugin(
        204,
        "prometheus",
        &json!({"status_code_metrics": true}),
    ));
    // Where another filter has a part in the request, it is looked at whole.
    let limit = json!({"allowed_payload_size": 100});
    let other = plugin(202, "request-size-limiting", &limit);
    records.push(scoped(other, &json!({"route": {"id": Uuid::from_u128(3)}})));
    let proxy = start(records);
    let token = provider.token("ann", &json!({"groups": ["staff", "b"]}));
    for fields in [
        "",
        "Cookie: a=1; b=2\r\n",
        "Cookie: a=1; session=x\r\n",
        "X-Sub: root\r\nx_sub: root\r\nX_None: root\r\nX-None: root\r\n",
        "X-Consumer-Id: root\r\nX-Credential_Identifier: root\r\nX-Authenticated-Groups: root\r\n",
        "X-Forwarded-User: root\r\nX-Kept: yes\r\n",
        "Content-Type: application/json\r\nContent-Length: 2\r\n",
        "Kong-Request-ID: mine\r\n",
    ] {
        // Whichever core takes the request, it has seen the token by then.
        for round in 0..6 {
            let [glance, whole] = ["/glance", "/whole"].map(|path| {
                let body = if fields.contains("Length") { "{}" } else { "" };
                if round % 2 == 0 {
                    let answer = ask(
                        &proxy,
                        &format!(
                            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}Authorization: Bearer {token}\r\n\r\n{body}"
                        ),
                    );
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                    assert!(answer.contains("\r\nx-who: ann\r\n"), "{answer}");
                } else {
                    let bearer = format!("authorization: Bearer {token}");
                    // By HTTP/2 a cookie may come in crumbs.
                    let fields = fields.replace("; b", "\r\nCookie: b");
                    let fields: Vec<&str> = fields.lines().chain([&*bearer]).collect();
                    let status = status(&proxy, &format!("http://a{path}"), &fields, body);
                    assert_eq!(status, 200, "{fields:?}");
                }
                // A body may come along, with its head or with the next one.
                let head = heads.recv().unwrap().replace(path, "/route").replace("{}", "");
                let lines = head.lines().filter(|line| !line.starts_with("x-kong-request-id"));
                let mut lines: Vec<String> = lines.map(unnamed).collect();
                lines.sort();
                lines
            });
            assert_eq!(glance, whole, "{fields}");
            assert!(
                glance.iter().all(|line| !line.contains("root")),
                "{glance:?}"
            );
            for told in [
                "x-sub: ann",
                "x-credential-identifier: ann",
                "x-authenticated-groups: staff, b",
            ] {
                assert!(glance.iter().any(|line| line == told), "{glance:?}");
            }
        }
    }
    // The same token beside another one.
    for path in ["/glance", "/whole"].repeat(3) {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
        let tokens = format!("Access-Token: theirs\r\nAuthorization: Bearer {token}\r\n\r\n");
        let answer = ask(&proxy, &(head + &tokens));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
    stop(proxy);
}

/// `line` without the name that the gateway has made for a request.
fn unnamed(line: &str) -> String {
    match line.strip_prefix("kong-request-id: ") {
        Some(name) if Uuid::parse_str(name).is_ok() => "kong-request-id: made".to_owned(),
        _ => line.to_owned(),
    }
}

#[test]
fn a_provider_that_is_down_closes_its_routes_and_no_others() {
    let refused = format!("127.0.0.1:{}", closed_port());
    let (port, heads) = upstream(&[OK]);
    let mut records = configuration(
        port,
        &json!({}),
        &[json!({"paths": ["/open"]}), json!({"paths": ["/closed"]})],
    );
    let mut closed = plugin(
        200,
        "openid-connect",
        &json!({"issuer": format!("http://{refused}"), "client_id": ["shop"], "auth_methods": ["bearer"]}),
    );
    let mut fields: Value = serde_json::from_slice(&closed.json).unwrap();
    fields["route"] = json!({"id": Uuid::from_u128(3)});
    closed.json = serde_json::to_vec(&fields).unwrap().into();
    records.push(closed);
    let proxy = start(records);
    let request = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a.b.c\r\nConnection: close\r\n\r\n"
        )
    };
    let answer = ask(&proxy, &request("/closed"));
    assert!(
        ["401", "500", "502", "503"].contains(&answer.split(' ').nth(1).unwrap()),
        "{answer}"
    );
    assert!(heads.try_recv().is_err(), "it fails closed");
    assert!(ask(&proxy, &request("/open")).starts_with("HTTP/1.1 200 "));
    stop(proxy);
}

#[test]
fn rule_95_what_was_begun_with_a_token_ends_with_it() {
    let provider = Provider::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut streams = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = read_until(&mut stream, "\r\n\r\n").unwrap();
            let begun: &[u8] = if head.to_ascii_lowercase().contains("upgrade: websocket") {
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi"
            } else {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"
            };
            stream.write_all(begun).unwrap();
            // Neither says anything more, nor ends.
            streams.push(stream);
        }
    });
    let mut records = configuration(
        port,
        &json!({"read_timeout": 60_000}),
        &[json!({"paths": ["/"]})],
    );
    records.push(plugin(
        200,
        "openid-connect",
        &json!({"issuer": provider.issuer, "client_id": ["shop"], "auth_methods": ["bearer"]}),
    ));
    let proxy = start(records);
    let now = UnixTime::now().as_secs();
    let token = provider.token("ann", &json!({"exp": now + 2}));
    let begin = |fields: &str| {
        let mut stream = connect(&proxy);
        let request =
            format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        assert!(read_until(&mut stream, "\r\n\r\n").is_some());
        stream
    };
    let mut events = begin("");
    let mut messages = begin("Connection: Upgrade\r\nUpgrade: websocket\r\n");
    for (stream, all) in [
        (&mut events, &b"2\r\nhi\r\n"[..]),
        // It closes for a reason that its client can read.
        (&mut messages, b"\x81\x02hi\x88\x02\x03\xf0"),
    ] {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, all);
    }
    let over = UnixTime::now().as_secs();
    assert!(over >= now + 2, "{over} {now}");
    stop(proxy);
}

#[test]
fn the_node_says_what_share_of_traces_is_kept_where_the_plugin_does_not() {
    for (share, own, expected) in [
        (1.0, None, "-01"),
        (0.0, None, "-00"),
        (0.0, Some(1), "-01"),
    ] {
        let (port, heads) = upstream(&[OK]);
        let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
        let collector = format!("http://127.0.0.1:{}/v1/traces", closed_port());
        let config = json!({"traces_endpoint": collector, "sampling_rate": own});
        records.push(plugin(200, "opentelemetry", &config));
        let settings = Settings {
            tracing_sampling_rate: share,
            ..settings()
        };
        let proxy = start_with(&settings, Limits::default(), records);
        ask(
            &proxy,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        );
        let head = heads.recv().unwrap();
        let mut lines = head.lines();
        let told = lines.find(|line| line.starts_with("traceparent: "));
        let told = told.expect("the upstream is told of the trace");
        assert!(told.ends_with(expected), "{share} {own:?} {told}");
        stop(proxy);
    }
}

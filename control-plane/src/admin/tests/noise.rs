//! Whatever comes, the answer is Kong's: JSON, and never a 500.

use proptest::prelude::*;

use super::*;

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "services", "routes", "consumers", "plugins", "acls", "upstreams", "schemas", "tags",
            "validate", "enabled", "service", "consumer", "s", "r", "config", "status", "session_keys",
            "00000000-0000-0000-0000-000000000001", "openid-connect", "acl", "",
        ])
        .prop_map(str::to_owned),
        1 => "(%[0-9a-fA-F]{2}|[a-z~._-]){1,8}",
        1 => "[%a-z0-9\\[\\]~.-]{0,6}".prop_filter("no stray percent sign in a URI", |text| {
            text.parse::<http::Uri>().is_ok() || text.is_empty()
        }),
    ]
}

fn query() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        ("(size|offset|tags|custom_id)", "[A-Za-z0-9=,/%+._-]{0,24}")
            .prop_map(|(name, value)| format!("?{name}={value}")),
    ]
}

/// Names that schemas know and others.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "name",
            "host",
            "port",
            "protocol",
            "protocols",
            "url",
            "paths",
            "hosts",
            "headers",
            "service",
            "route",
            "consumer",
            "config",
            "tags",
            "id",
            "issuer",
            "client_id",
            "allow",
            "sources",
            "enabled",
            "created_at",
            "username",
            "custom_id",
            "group",
            "regex_priority",
            "scopes",
        ])
        .prop_map(str::to_owned),
        "[a-z@\\[\\]. ]{0,6}",
    ]
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop::sample::select(vec![
            "openid-connect",
            "acl",
            "http",
            "https://a.test/",
            "/",
            "~/(",
            "*.a",
            ""
        ])
        .prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// A media type and a body of it, more or less.
fn body() -> impl Strategy<Value = (&'static str, String)> {
    let form_key = (
        name(),
        prop::collection::vec("\\.[a-z]{1,6}|\\[[0-9]{0,4}\\]", 0..5),
    )
        .prop_map(|(name, steps)| name + &steps.concat());
    let form = prop::collection::vec((form_key, "[ -~]{0,12}"), 0..6).prop_map(|pairs| {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(pairs);
        ("application/x-www-form-urlencoded", form.finish())
    });
    prop_oneof![
        3 => prop::collection::vec((name(), json_value()), 0..6).prop_map(|pairs| {
            let fields: Fields = pairs.into_iter().collect();
            ("application/json", Value::Object(fields).to_string())
        }),
        3 => form,
        1 => "\\PC{0,40}".prop_map(|text| ("application/json", text)),
        1 => "\\PC{0,40}".prop_map(|text| ("application/x-www-form-urlencoded", text)),
    ]
}

#[test]
fn no_request_is_answered_with_a_500() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let api = Api::new();
    runtime.block_on(async {
        api.json("PUT", "/services/s", json!({ "host": "h" })).await;
        let route = json!({ "paths": ["/"], "service": { "name": "s" } });
        api.json("PUT", "/routes/r", route).await;
    });
    let requests = (
        prop::sample::select(vec![
            "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE",
        ]),
        prop::collection::vec(segment(), 0..5),
        query(),
        body(),
    );
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&requests, |(method, segments, query, (kind, body))| {
            let url = format!("/{}{query}", segments.join("/"));
            prop_assume!(url.parse::<http::Uri>().is_ok() && !url.starts_with("//"));
            let (status, reply) = runtime.block_on(api.send(method, &url, kind, &body));
            prop_assert!(status < 500, "{method} {url} {body}: {status} {reply}");
            let shown = status != 204 && method != "HEAD";
            prop_assert!(
                !shown || reply.is_object(),
                "{method} {url} {body}: {status}"
            );
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn deep_and_long_bodies_are_refused() {
    let api = Api::new();
    let deep = format!(r#"{{"name":{}"#, "[".repeat(100_000));
    let closed = format!(r#"{{"name":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    for body in [deep, closed] {
        let (status, reply) = api
            .send("POST", "/services", "application/json", &body)
            .await;
        assert_eq!(
            (status, &reply["message"]),
            (400, &json!("Cannot parse JSON body"))
        );
    }
    for (levels, expected) in [(63, "schema violation"), (64, "nested deeper")] {
        let body = format!(r#"{{"name":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        let (status, reply) = api
            .send("POST", "/services", "application/json", &body)
            .await;
        let message = reply["message"].as_str().unwrap();
        assert!(
            status == 400 && message.contains(expected),
            "{levels}: {message}"
        );
    }
    let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(10 * 1024 * 1024));
    assert_eq!(
        api.send("POST", "/services", "application/json", &long)
            .await
            .0,
        413
    );
    // A body of many values costs no more than each of them.
    for (url, mut body, field) in [
        ("/services", json!({ "host": "h" }), "tags"),
        ("/routes", json!({}), "paths"),
        ("/routes", json!({}), "hosts"),
        ("/routes", json!({ "paths": ["/"] }), "snis"),
    ] {
        let value = |at| {
            if field == "paths" {
                format!("/{at}")
            } else {
                format!("n{at}")
            }
        };
        body[field] = (0..50_000).map(value).collect();
        let (status, reply) = api.json("POST", url, body).await;
        assert_eq!(status, 201, "{field}: {}", reply["message"]);
    }
    for count in [1000, 1001] {
        let query = vec!["a=1"; count].join("&");
        let expected = if count > 1000 { 400 } else { 200 };
        assert_eq!(api.get(&format!("/services?{query}")).await.0, expected);
        let (status, reply) = api.form("POST", "/services", &query).await;
        let refused = reply["message"] == "Too many arguments";
        assert_eq!((status, refused), (400, count > 1000));
    }
}

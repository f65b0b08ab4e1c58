//! Upstreams and targets: fields, defaults, rules and shapes, in Kong's words.

use shared::entity::Revocation;

use super::*;

#[tokio::test]
async fn upstreams_have_kongs_defaults() {
    let api = Api::new();
    let mut upstream = made(&api, "/upstreams", json!({ "name": "my.upstream" })).await;
    for field in ["id", "created_at", "updated_at"] {
        upstream.as_object_mut().unwrap().remove(field);
    }
    let expected = json!({
        "name": "my.upstream", "algorithm": "round-robin", "hash_on": "none", "hash_fallback": "none",
        "hash_on_header": null, "hash_fallback_header": null, "hash_on_cookie": null,
        "hash_on_cookie_path": "/", "hash_on_query_arg": null, "hash_fallback_query_arg": null,
        "hash_on_uri_capture": null, "hash_fallback_uri_capture": null, "slots": 10000,
        "healthchecks": {
            "active": {
                "concurrency": 10,
                "healthy": { "http_statuses": [200, 302], "interval": 0, "successes": 0 },
                "headers": null, "http_path": "/", "https_sni": null,
                "https_verify_certificate": true, "timeout": 1, "type": "http",
                "unhealthy": {
                    "http_failures": 0, "http_statuses": [429, 404, 500, 501, 502, 503, 504, 505],
                    "interval": 0, "tcp_failures": 0, "timeouts": 0,
                },
            },
            "passive": {
                "healthy": {
                    "http_statuses": [
                        200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306,
                        307, 308,
                    ],
                    "successes": 0,
                },
                "type": "http",
                "unhealthy": {
                    "http_failures": 0, "http_statuses": [429, 500, 503], "tcp_failures": 0, "timeouts": 0,
                },
            },
            "threshold": 0,
        },
        "tags": null, "host_header": null, "client_certificate": null, "use_srv_name": false,
    });
    assert_eq!(upstream, expected);
    // Whole numbers come without a fraction, also deep inside.
    assert!(!upstream.to_string().contains(".0"));
    let (_, schema) = api.get("/schemas/upstreams").await;
    let shown = schema["fields"].as_array().unwrap();
    let field = shown.iter().find_map(|field| field.get("healthchecks"));
    assert_eq!(field.unwrap()["default"], upstream["healthchecks"]);
    let patch = json!({ "healthchecks": { "active": { "healthy": { "interval": 5 } } } });
    let (_, patched) = api.json("PATCH", "/upstreams/my.upstream", patch).await;
    let active = &patched["healthchecks"]["active"];
    assert_eq!(
        active["healthy"],
        json!({ "http_statuses": [200, 302], "interval": 5, "successes": 0 })
    );
    assert_eq!(active["concurrency"], 10);
}

#[tokio::test]
async fn what_an_upstream_hashes_and_its_algorithm_go_together() {
    let api = Api::new();
    for (body, algorithm, hash_on) in [
        (json!({ "hash_on": "ip" }), "consistent-hashing", "ip"),
        (
            json!({ "algorithm": "least-connections", "hash_on": "ip" }),
            "least-connections",
            "none",
        ),
        (
            json!({ "algorithm": "consistent-hashing", "hash_on": "none" }),
            "round-robin",
            "none",
        ),
        (json!({ "hash_on": null }), "round-robin", "none"),
        (json!({ "algorithm": "latency" }), "latency", "none"),
    ] {
        let (status, upstream) = api.json("PUT", "/upstreams/u", body.clone()).await;
        assert_eq!(status, 200, "{upstream}");
        assert_eq!(
            (&upstream["algorithm"], &upstream["hash_on"]),
            (&json!(algorithm), &json!(hash_on)),
            "{body}"
        );
    }
}

#[tokio::test]
async fn upstreams_are_refused_in_kongs_words() {
    let api = Api::new();
    let cases = [
        (
            json!({ "slots": 50 }),
            json!({ "name": "required field missing" }),
        ),
        (
            json!({ "name": "some invalid host name" }),
            json!({ "name": "Invalid name; must be a valid hostname" }),
        ),
        (
            json!({ "name": "1.2.3.4" }),
            json!({ "name": "Invalid name; no ip addresses allowed" }),
        ),
        (
            json!({ "name": "a:80" }),
            json!({ "name": "Invalid name; no port allowed" }),
        ),
        (
            json!({ "name": "u", "slots": 65537 }),
            json!({ "slots": "value should be between 10 and 65536" }),
        ),
        (
            json!({ "name": "u", "healthchecks": { "active": { "timeout": -1, "unhealthy": { "http_statuses": [1, 200] } } } }),
            json!({
                "healthchecks": { "active": {
                    "timeout": "value should be between 0 and 65535",
                    "unhealthy": { "http_statuses": ["value should be between 100 and 999"] },
                } },
            }),
        ),
    ];
    wrong(&api, "upstreams", &cases).await;
    let deep = json!({ "name": "u", "healthchecks": { "active": { "timeout": -1 } } });
    let expected = "schema violation (healthchecks.active: {\n  timeout = \"value should be between 0 and 65535\"\n})";
    assert_eq!(
        api.json("POST", "/upstreams", deep).await.1["message"],
        expected
    );
    let name = "PUT /upstreams/a%20b {} => 400 Invalid name; must be a valid hostname";
    api.holds(name).await;
    assert_eq!(
        api.get("/upstreams/a%20b").await.1["name"],
        "invalid unique name"
    );
}

#[tokio::test]
async fn what_upstreams_hash_is_refused_in_kongs_words() {
    let bad_header =
        "bad header name 'not a <> name', allowed characters are A-Z, a-z, 0-9, '_', and '-'";
    let bad_cookie =
        "bad cookie name 'not a <> name', allowed characters are A-Z, a-z, 0-9, '_', and '-'";
    let given =
        |field: &str| format!("failed conditional validation given value of field '{field}'");
    let cases = [
        (
            json!({ "name": "u", "hash_on": "x" }),
            json!({
                "hash_on": "expected one of: none, consumer, ip, header, cookie, path, query_arg, uri_capture",
            }),
        ),
        (
            json!({ "name": "u", "hash_on": "consumer", "hash_fallback": "consumer" }),
            json!({
                "@entity": [given("hash_on")],
                "hash_fallback": "expected one of: none, ip, header, cookie, path, query_arg, uri_capture",
            }),
        ),
        (
            json!({ "name": "u", "hash_on": "consumer", "hash_fallback": "bad" }),
            json!({
                "@entity": [given("hash_on")],
                "hash_fallback": "expected one of: none, ip, header, cookie, path, query_arg, uri_capture",
            }),
        ),
        (
            json!({ "name": "u", "hash_on": "header", "hash_on_header": "not a <> name" }),
            json!({ "hash_on_header": bad_header }),
        ),
        (
            json!({ "name": "u", "hash_on": "cookie", "hash_on_cookie": "not a <> name" }),
            json!({ "hash_on_cookie": bad_cookie }),
        ),
        (
            json!({ "name": "u", "hash_on": "header", "hash_fallback": "header", "hash_fallback_header": "A" }),
            json!({
                "@entity": [given("hash_on")], "hash_on_header": "required field missing",
            }),
        ),
        (
            json!({ "name": "u", "hash_on": "consumer", "hash_fallback": "header" }),
            json!({
                "@entity": [given("hash_fallback")], "hash_fallback_header": "required field missing",
            }),
        ),
        (
            json!({ "name": "u", "hash_on": "header", "hash_fallback": "header", "hash_on_header": "a", "hash_fallback_header": "a" }),
            json!({
                "@entity": ["values of these fields must be distinct: 'hash_on_header', 'hash_fallback_header'"],
            }),
        ),
        (
            json!({ "name": "u", "hash_on": "cookie", "hash_on_cookie": "c", "hash_fallback": "ip" }),
            json!({
                "@entity": [given("hash_on")], "hash_fallback": "expected one of: none",
            }),
        ),
        (
            json!({ "name": "u", "hash_on": "cookie", "hash_on_cookie": "c", "hash_on_cookie_path": "not/a/path" }),
            json!({
                "hash_on_cookie_path": "should start with: /",
            }),
        ),
    ];
    wrong(&Api::new(), "upstreams", &cases).await;
}

#[tokio::test]
async fn targets_are_only_below_their_upstream() {
    let api = Api::new();
    let upstream = json!({ "id": Uuid::from_u128(9), "name": "u" });
    let upstream = made(&api, "/upstreams", upstream).await;
    assert_eq!(api.get("/targets").await.0, 404);
    let target = made(
        &api,
        "/upstreams/u/targets/",
        json!({ "target": "1.2.3.4" }),
    )
    .await;
    assert_eq!(
        (&target["target"], &target["weight"]),
        (&json!("1.2.3.4:8000"), &json!(100))
    );
    assert!(target["created_at"].is_f64() || target["created_at"].is_u64());
    assert_eq!(target["upstream"], json!({ "id": upstream["id"] }));
    let transcript = r#"
        POST /upstreams/u/targets {"target": "1.2.3.4:8000"} => 409 UNIQUE violation detected on '{target="1.2.3.4:8000",upstream={id="00000000-0000-0000-0000-000000000009"}}'
        POST /upstreams/u/targets {"weight": 0} => 400 schema violation (target: required field missing)
        POST /upstreams/u/targets {"target": "a", "weight": 65536} => 400 schema violation (weight: value should be between 0 and 65535)
        POST /upstreams/u/targets {"target": "a b"} => 400 schema violation (target: Invalid target ('a b'); not a valid hostname or ip address)
        POST /upstreams/x/targets {"target": "a"} => 404 Not found
        PUT /upstreams/u/targets {"target": "a"} => 405 Method not allowed
        PUT /upstreams/u/targets/00000000-0000-0000-0000-00000000abcd {"target": "a"} => 404 Not found
        PUT /upstreams/u/targets/nowhere:1 {"target": "a"} => 404 Not found
    "#;
    api.holds(transcript).await;
    // By its address in any form, and PUT changes what is given only.
    for name in ["1.2.3.4:8000", "1.2.3.4", id(&target)] {
        let url = format!("/upstreams/u/targets/{name}");
        let (status, put) = api.json("PUT", &url, json!({ "tags": ["a"] })).await;
        assert_eq!(
            (status, &put["id"], &put["tags"]),
            (200, &target["id"], &json!(["a"]))
        );
    }
    made(
        &api,
        "/upstreams/u/targets",
        json!({ "target": "::1", "weight": 0 }),
    )
    .await;
    assert_eq!(
        api.get("/upstreams/u/targets/all").await.1["data"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let (status, health) = api.get("/upstreams/u/health").await;
    assert_eq!((status, health["data"].as_array().unwrap().len()), (200, 2));
    for (at, weight) in [(0, 0), (1, 100)] {
        let target = &health["data"][at];
        assert_eq!(target["health"], "HEALTHCHECKS_OFF");
        assert_eq!(target["data"]["addresses"][0]["port"], 8000);
        assert_eq!(target["data"]["nodeWeight"], weight);
    }
    let (_, whole) = api.get("/upstreams/u/health?balancer_health=1").await;
    assert_eq!(whole["data"]["health"], "HEALTHCHECKS_OFF");
    assert_eq!(
        api.send("DELETE", "/upstreams/u/targets/1.2.3.4:8000", "", "")
            .await
            .0,
        204
    );
    assert_eq!(api.send("DELETE", "/upstreams/u", "", "").await.0, 204);
    assert_eq!(api.get("/upstreams/u/targets").await.0, 404);
}

#[tokio::test]
async fn a_mark_names_a_target_that_there_is() {
    let (api, publisher) = Api::revoking();
    let transcript = r#"
        POST /upstreams {"name": "u"} => 201
        POST /upstreams {"name": "other"} => 201
        POST /upstreams/u/targets {"id": "00000000-0000-0000-0000-00000000000a", "target": "10.0.0.1:80"} => 201

        PUT /upstreams/other/targets/00000000-0000-0000-0000-00000000000a/healthy => 404
        PUT /upstreams/x/targets/10.0.0.1:80/healthy => 404
        PUT /upstreams/u/targets/10.0.0.2:80/healthy => 404
        PUT /upstreams/u/targets/00000000-0000-0000-0000-00000000000a/well => 404
        PUT /upstreams/u/targets/00000000-0000-0000-0000-00000000000a/somewhere/healthy => 404
        PUT /upstreams/u/targets/00000000-0000-0000-0000-00000000000a/10.0.0.1/80/healthy => 404
        GET /upstreams/u/targets/00000000-0000-0000-0000-00000000000a/healthy => 405
        DELETE /upstreams/u/targets/00000000-0000-0000-0000-00000000000a/10.0.0.1/unhealthy => 405
        OPTIONS /upstreams/x/targets/y/healthy => 204
    "#;
    api.holds(transcript).await;
    assert_eq!(marks(&publisher), 0);
    // Without a way to the nodes nothing is promised.
    let transcript = r#"
        POST /upstreams {"name": "u"} => 201
        POST /upstreams/u/targets {"target": "10.0.0.1:80"} => 201
        PUT /upstreams/u/targets/10.0.0.1:80/healthy => 404
    "#;
    Api::new().holds(transcript).await;
}

/// How many marks are kept.
fn marks(publisher: &Publisher) -> usize {
    let config = publisher.config();
    config.keys(Revocation::KIND, Uuid::nil()).count()
}

#[tokio::test]
async fn all_nodes_are_told_how_a_target_is() {
    let (api, publisher) = Api::revoking();
    made(&api, "/upstreams", json!({ "name": "u" })).await;
    let target = json!({ "target": "10.0.0.1:80" });
    let target = made(&api, "/upstreams/u/targets", target).await;
    let said = |id| {
        let kind = Revocation::KIND;
        let key = Key { kind, id };
        let stored = publisher.config().stored(key)?.json().to_vec();
        serde_json::from_slice::<Revocation>(&stored).ok()
    };
    let target: Uuid = id(&target).parse().unwrap();
    let address = "10.0.0.1".parse().unwrap();
    let mut last = 0;
    for (method, target_and_word, address, healthy) in [
        ("PUT", format!("{target}/unhealthy"), None, false),
        ("PUT", format!("{target}/healthy"), None, true),
        ("POST", "10.0.0.1:80/unhealthy".to_owned(), None, false),
        (
            "PUT",
            format!("{target}/10.0.0.1/healthy/"),
            Some((address, None)),
            true,
        ),
        (
            "PUT",
            format!("{target}/10.0.0.1:80/unhealthy"),
            Some((address, Some(80))),
            false,
        ),
    ] {
        let url = format!("/upstreams/u/targets/{target_and_word}");
        assert_eq!(api.send(method, &url, "", "").await.0, 204, "{url}");
        let mark = said(Revocation::mark(target, address, healthy)).unwrap();
        assert!(address.is_some() || mark.before > last, "{url}");
        last = mark.before;
    }
    assert_eq!(marks(&publisher), 4);
}

#[tokio::test]
async fn a_mark_is_shown_until_nodes_tell_what_has_become_of_it() {
    let (api, _) = Api::revoking();
    let checks = json!({ "passive": { "unhealthy": { "http_failures": 1 } } });
    let upstream = json!({ "name": "u", "healthchecks": checks });
    made(&api, "/upstreams", upstream).await;
    for (address, word, health) in [
        ("10.0.0.2", "/unhealthy", "UNHEALTHY"),
        ("10.0.0.2", "/healthy", "HEALTHY"),
        ("10.0.0.3", "/10.0.0.3/unhealthy", "UNHEALTHY"),
        ("10.0.0.4", "/10.0.0.4:80/unhealthy", "UNHEALTHY"),
        ("10.0.0.5", "", "HEALTHY"),
    ] {
        let target = format!("{address}:80");
        let body = json!({ "target": target });
        api.json("POST", "/upstreams/u/targets", body).await;
        if !word.is_empty() {
            let url = format!("/upstreams/u/targets/{target}{word}");
            assert_eq!(api.send("PUT", &url, "", "").await.0, 204);
        }
        let (_, shown) = api.get("/upstreams/u/health").await;
        let mut shown = shown["data"].as_array().unwrap().iter();
        let shown = shown.find(|one| one["target"] == target.as_str()).unwrap();
        assert_eq!(shown["health"], health, "{target}{word}");
    }
}

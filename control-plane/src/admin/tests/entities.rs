//! Each entity's fields, defaults, rules and shapes, in Kong's words.

#![allow(clippy::too_many_lines, reason = "tables")]

use super::*;

/// Sends each body and compares status and message.
async fn refused(api: &Api, cases: &[(&str, &str, Value, u16, &str)]) {
    for (method, url, body, status, message) in cases {
        let (got, reply) = api.json(method, url, body.clone()).await;
        assert_eq!(
            (got, reply["message"].as_str().unwrap_or_default()),
            (*status, *message),
            "{method} {url} {body}"
        );
    }
}

async fn made(api: &Api, url: &str, body: Value) -> Value {
    let (status, reply) = api.json("POST", url, body.clone()).await;
    assert_eq!(status, 201, "POST {url} {body}: {reply}");
    reply
}

fn id(value: &Value) -> &str {
    value["id"].as_str().unwrap()
}

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
    let bad_header =
        "bad header name 'not a <> name', allowed characters are A-Z, a-z, 0-9, '_', and '-'";
    let bad_cookie =
        "bad cookie name 'not a <> name', allowed characters are A-Z, a-z, 0-9, '_', and '-'";
    let given =
        |field: &str| format!("failed conditional validation given value of field '{field}'");
    for (body, expected) in [
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
        (
            json!({ "name": "u", "healthchecks": { "active": { "timeout": -1, "unhealthy": { "http_statuses": [1, 200] } } } }),
            json!({
                "healthchecks": { "active": {
                    "timeout": "value should be between 0 and 65535",
                    "unhealthy": { "http_statuses": ["value should be between 100 and 999"] },
                } },
            }),
        ),
    ] {
        let (status, reply) = api.json("POST", "/upstreams", body.clone()).await;
        assert_eq!((status, &reply["fields"]), (400, &expected), "{body}");
    }
    let deep = json!({ "name": "u", "healthchecks": { "active": { "timeout": -1 } } });
    let expected = "schema violation (healthchecks.active: {\n  timeout = \"value should be between 0 and 65535\"\n})";
    refused(&api, &[("POST", "/upstreams", deep, 400, expected)]).await;
    let names = "Invalid name; must be a valid hostname";
    refused(&api, &[("PUT", "/upstreams/a%20b", json!({}), 400, names)]).await;
    assert_eq!(
        api.get("/upstreams/a%20b").await.1["name"],
        "invalid unique name"
    );
}

#[tokio::test]
async fn targets_are_only_below_their_upstream() {
    let api = Api::new();
    let upstream = made(&api, "/upstreams", json!({ "name": "u" })).await;
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
    let taken = format!(
        "UNIQUE violation detected on '{{target=\"1.2.3.4:8000\",upstream={{id=\"{}\"}}}}'",
        id(&upstream)
    );
    refused(&api, &[
        ("POST", "/upstreams/u/targets", json!({ "target": "1.2.3.4:8000" }), 409, &taken),
        ("POST", "/upstreams/u/targets", json!({ "weight": 0 }), 400, "schema violation (target: required field missing)"),
        ("POST", "/upstreams/u/targets", json!({ "target": "a", "weight": 65536 }), 400, "schema violation (weight: value should be between 0 and 65535)"),
        ("POST", "/upstreams/u/targets", json!({ "target": "a b" }), 400, "schema violation (target: Invalid target ('a b'); not a valid hostname or ip address)"),
        ("POST", "/upstreams/x/targets", json!({ "target": "a" }), 404, "Not found"),
        ("PUT", "/upstreams/u/targets", json!({ "target": "a" }), 405, "Method not allowed"),
        ("PUT", "/upstreams/u/targets/00000000-0000-0000-0000-00000000abcd", json!({ "target": "a" }), 404, "Not found"),
        ("PUT", "/upstreams/u/targets/nowhere:1", json!({ "target": "a" }), 404, "Not found"),
    ]).await;
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
    assert_eq!((status, health["data"].as_array().unwrap().len()), (200, 1));
    assert_eq!(health["data"][0]["health"], "HEALTHCHECKS_OFF");
    assert_eq!(health["data"][0]["data"]["addresses"][0]["port"], 8000);
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
async fn consumer_groups_have_shapes_of_their_own() {
    let api = Api::new();
    let group = made(&api, "/consumer_groups", json!({ "name": "gold" })).await;
    let consumer = made(&api, "/consumers", json!({ "username": "yoda" })).await;
    let joined = made(
        &api,
        "/consumer_groups/gold/consumers",
        json!({ "consumer": "yoda" }),
    )
    .await;
    assert_eq!(
        joined,
        json!({ "consumer_group": group, "consumers": [consumer] })
    );
    assert_eq!(api.get("/consumer_groups/gold").await.1, joined);
    let (_, without) = api.get("/consumer_groups/gold?list_consumers=false").await;
    assert_eq!(without, json!({ "consumer_group": group }));
    assert_eq!(
        api.get("/consumers/yoda/consumer_groups").await.1,
        json!({ "consumer_groups": [group] })
    );
    assert_eq!(api.get("/consumer_groups/gold/consumers/yoda").await.0, 200);
    let (status, _) = api
        .json(
            "POST",
            "/consumer_groups/gold/consumers",
            json!({ "consumer": id(&consumer) }),
        )
        .await;
    assert_eq!(status, 409);
    refused(
        &api,
        &[
            (
                "POST",
                "/consumer_groups/gold/consumers",
                json!({}),
                400,
                "schema violation (consumer: required field missing)",
            ),
            (
                "POST",
                "/consumer_groups/gold/consumers",
                json!({ "consumer": "nobody" }),
                404,
                "could not find the entity with '{username=\"nobody\"}'",
            ),
            (
                "POST",
                "/consumer_groups/none/consumers",
                json!({ "consumer": "yoda" }),
                404,
                "Not found",
            ),
            (
                "POST",
                "/consumer_groups",
                json!({ "name": "gold" }),
                409,
                "UNIQUE violation detected on '{name=\"gold\"}'",
            ),
            (
                "POST",
                "/consumer_groups",
                json!({}),
                400,
                "schema violation (name: required field missing)",
            ),
            (
                "GET",
                "/consumer_group_consumers",
                json!({}),
                404,
                "Not found",
            ),
        ],
    )
    .await;
    assert_eq!(
        api.send("DELETE", "/consumer_groups/gold/consumers/yoda", "", "")
            .await
            .0,
        204
    );
    assert_eq!(
        api.send("DELETE", "/consumer_groups/gold/consumers/yoda", "", "")
            .await
            .0,
        404
    );
    let (status, joined) = api
        .form("POST", "/consumers/yoda/consumer_groups", "group=gold")
        .await;
    assert_eq!(
        (status, joined["consumer_groups"][0]["name"].as_str()),
        (201, Some("gold"))
    );
    // What cannot be a consumer's cannot be a group's.
    let plugin = json!({ "name": "acl", "config": { "allow": ["a"] } });
    let (status, reply) = api
        .json("POST", "/consumer_groups/gold/plugins", plugin)
        .await;
    assert_eq!(
        (status, &reply["fields"]),
        (400, &json!({ "consumer_group": "value must be null" }))
    );
    assert_eq!(api.send("DELETE", "/consumers/yoda", "", "").await.0, 204);
    assert_eq!(
        api.get("/consumer_groups/gold/consumers").await.1,
        json!({ "consumers": [] })
    );
}

#[tokio::test]
async fn credentials_are_below_their_consumer_and_in_lists_of_their_own() {
    let api = Api::new();
    let consumer = made(&api, "/consumers", json!({ "username": "yoda" })).await;
    for (nested, list, schema, body, key) in [
        (
            "key-auth",
            "key-auths",
            "keyauth_credentials",
            json!({}),
            "key",
        ),
        (
            "basic-auth",
            "basic-auths",
            "basicauth_credentials",
            json!({ "username": "y", "password": "p" }),
            "username",
        ),
        (
            "hmac-auth",
            "hmac-auths",
            "hmacauth_credentials",
            json!({ "username": "y" }),
            "username",
        ),
        ("jwt", "jwts", "jwt_secrets", json!({}), "key"),
        (
            "oauth2",
            "oauth2",
            "oauth2_credentials",
            json!({ "name": "app" }),
            "client_id",
        ),
    ] {
        let made = made(&api, &format!("/consumers/yoda/{nested}"), body).await;
        assert_eq!(made["consumer"], json!({ "id": consumer["id"] }));
        let name = made[key].as_str().unwrap();
        for url in [
            format!("/{list}/{name}"),
            format!("/{list}/{}", id(&made)),
            format!("/consumers/yoda/{nested}/{name}"),
        ] {
            assert_eq!(api.get(&url).await.1, made, "{url}");
        }
        assert_eq!(api.get(&format!("/{list}")).await.1["data"], json!([made]));
        let (_, owner) = api.get(&format!("/{list}/{}/consumer", id(&made))).await;
        assert_eq!(owner["id"], consumer["id"]);
        let (status, _) = api.get(&format!("/schemas/{schema}")).await;
        assert_eq!(status, 200, "{schema}");
        assert!(made["created_at"].is_u64() && made["tags"].is_null());
    }
    let (_, keys) = api.get("/consumers/yoda/key-auth").await;
    let key = keys["data"][0]["key"].as_str().unwrap();
    assert!(key.len() == 32 && key.chars().all(|c| c.is_ascii_alphanumeric()));
    assert_eq!(keys["data"][0]["ttl"], Value::Null);
    let (_, secrets) = api.get("/consumers/yoda/jwt").await;
    let secret = &secrets["data"][0];
    assert_ne!(secret["key"], secret["secret"]);
    assert_eq!(
        (&secret["algorithm"], &secret["rsa_public_key"]),
        (&json!("HS256"), &Value::Null)
    );
    let invalid_key = "2 schema violations (failed conditional validation given value of field 'algorithm'; rsa_public_key: invalid key)";
    let missing_key = "2 schema violations (failed conditional validation given value of field 'algorithm'; rsa_public_key: required field missing)";
    refused(&api, &[
        ("POST", "/consumers/yoda/basic-auth", json!({}), 400, "2 schema violations (password: required field missing; username: required field missing)"),
        ("POST", "/consumers/yoda/basic-auth", json!({ "username": "y", "password": "p" }), 409, "UNIQUE violation detected on '{username=\"y\"}'"),
        ("POST", "/consumers/yoda/jwt", json!({ "algorithm": "RS256" }), 400, missing_key),
        ("POST", "/consumers/yoda/jwt", json!({ "algorithm": "ES256", "rsa_public_key": "x" }), 400, invalid_key),
        ("POST", "/consumers/yoda/key-auth", json!({ "key": "", "ttl": -1 }), 400, "2 schema violations (key: length must be at least 1; ttl: value should be between 0 and 100000000)"),
        ("POST", "/consumers/nobody/key-auth", json!({}), 404, "Not found"),
        ("POST", "/key-auths", json!({}), 400, "schema violation (consumer: required field missing)"),
        ("POST", "/consumers/yoda/oauth2", json!({ "name": "a", "redirect_uris": ["http://a/#f", "x"] }), 400, "2 schema violations (redirect_uris.1: fragment not allowed in 'http://a/#f'; redirect_uris.2: cannot parse 'x')"),
    ]).await;
    let (_, reply) = api
        .json(
            "POST",
            "/consumers/yoda/oauth2",
            json!({ "name": "a", "redirect_uris": ["http://a", "x"] }),
        )
        .await;
    assert_eq!(
        reply["fields"],
        json!({ "redirect_uris": [null, "cannot parse 'x'"] })
    );
    assert_eq!(api.send("DELETE", "/consumers/yoda", "", "").await.0, 204);
    assert_eq!(api.get("/key-auths").await.1["data"], json!([]));
}

#[tokio::test]
async fn a_password_is_stored_as_its_hash_and_hashed_once() {
    let api = Api::new();
    let consumer = made(&api, "/consumers", json!({ "username": "yoda" })).await;
    let stored = made(
        &api,
        "/consumers/yoda/basic-auth",
        json!({ "username": "y", "password": "kong" }),
    )
    .await;
    let expected = shared::entity::basic_auth_hash("kong", id(&consumer));
    assert_eq!(stored["password"], json!(expected));
    let (_, patched) = api
        .json(
            "PATCH",
            "/consumers/yoda/basic-auth/y",
            json!({ "tags": ["a"] }),
        )
        .await;
    assert_eq!(patched["password"], json!(expected));
    let (_, patched) = api
        .json(
            "PATCH",
            "/consumers/yoda/basic-auth/y",
            json!({ "password": "kong2" }),
        )
        .await;
    assert_ne!(patched["password"], json!(expected));
}

#[tokio::test]
async fn vaults_and_keys_are_checked() {
    let api = Api::new();
    let (status, vault) = api
        .json("PUT", "/vaults/env-1", json!({ "name": "env" }))
        .await;
    assert_eq!(
        (status, &vault["prefix"], &vault["config"]),
        (200, &json!("env-1"), &json!({ "prefix": null }))
    );
    let (_, patched) = api
        .form("PATCH", "/vaults/env-1", "config.prefix=SSL_")
        .await;
    assert_eq!(patched["config"], json!({ "prefix": "SSL_" }));
    let nil = "00000000-0000-0000-0000-000000000009";
    let by_id = format!("/vaults/{nil}");
    refused(
        &api,
        &[
            (
                "PUT",
                &by_id,
                json!({ "name": "env", "prefix": "env" }),
                400,
                "schema violation (prefix: must not be one of: env)",
            ),
            (
                "PUT",
                "/vaults/env",
                json!({ "name": "env" }),
                400,
                "must not be one of: env",
            ),
            (
                "PATCH",
                &by_id,
                json!({ "prefix": "env" }),
                404,
                &format!("could not find the entity with primary key '{{id=\"{nil}\"}}'"),
            ),
            (
                "POST",
                "/vaults",
                json!({ "name": "no", "prefix": "my-no" }),
                400,
                "schema violation (name: vault 'no' is not installed)",
            ),
            (
                "POST",
                "/vaults",
                json!({ "name": "env", "prefix": "my-env", "config": { "x": 1 } }),
                400,
                "schema violation (config.x: unknown field)",
            ),
            (
                "GET",
                "/schemas/vaults/no",
                json!({}),
                404,
                "No vault named 'no'",
            ),
        ],
    )
    .await;
    let (_, reply) = api
        .json("PUT", "/vaults/env", json!({ "name": "env" }))
        .await;
    assert_eq!(
        (&reply["code"], &reply["name"]),
        (&json!(10), &json!("invalid unique prefix"))
    );
    assert_eq!(api.get("/schemas/vaults/env").await.0, 200);
    let set = made(&api, "/key-sets", json!({ "name": "set" })).await;
    let jwk = json!({ "kid": "1", "kty": "oct", "k": "AAAA" }).to_string();
    let key = json!({ "name": "k", "kid": "1", "jwk": jwk, "set": { "name": "set" } });
    let key = made(&api, "/keys", key).await;
    assert_eq!(key["set"], json!({ "id": set["id"] }));
    assert_eq!(api.get("/key-sets/set/keys/k").await.1, key);
    let both = json!({ "kid": "2", "jwk": "{vault://env/jwk}", "pem": { "public_key": "{vault://env/pem}" } });
    refused(
        &api,
        &[
            (
                "POST",
                "/keys",
                json!({ "kid": "36", "jwk": "{\"kid\": \"36\"}" }),
                400,
                "schema violation (could not load JWK, likely not a valid key)",
            ),
            (
                "POST",
                "/keys",
                json!({ "kid": "36", "jwk": "{\"kid\": \"37\"}" }),
                400,
                "schema violation (kid in jwk.kid must be equal to keys.kid)",
            ),
            (
                "POST",
                "/keys",
                json!({ "kid": "36", "jwk": "{" }),
                400,
                "schema violation (could not json decode jwk string)",
            ),
            (
                "POST",
                "/keys",
                json!({ "kid": "36" }),
                400,
                "schema violation (at least one of these fields must be non-empty: 'jwk', 'pem')",
            ),
            (
                "POST",
                "/keys",
                both,
                400,
                "schema violation (only one or none of these fields must be set: 'jwk', 'pem')",
            ),
            (
                "POST",
                "/keys",
                json!({ "kid": "1", "jwk": jwk, "set": { "name": "set" } }),
                409,
                &format!(
                    "UNIQUE violation detected on '{{kid=\"1\",set={{id=\"{}\"}}}}'",
                    id(&set)
                ),
            ),
        ],
    )
    .await;
    assert_eq!(api.send("DELETE", "/key-sets/set", "", "").await.0, 204);
    assert_eq!(api.get("/keys").await.1["data"], json!([]));
}

//! What Kong's own tests fix of the schema language and of URLs, in Kong's words.

use super::*;

#[tokio::test]
async fn null_is_no_way_to_ask_for_a_default() {
    let api = Api::new();
    let missing = "required field missing";
    for (url, body, field) in [
        (
            "/services",
            json!({ "host": "h", "protocol": null }),
            "protocol",
        ),
        (
            "/services",
            json!({ "host": "h", "enabled": null }),
            "enabled",
        ),
        (
            "/routes",
            json!({ "paths": ["/"], "strip_path": null }),
            "strip_path",
        ),
        (
            "/routes",
            json!({ "paths": ["/"], "protocols": null }),
            "protocols",
        ),
        (
            "/plugins",
            json!({ "name": "cors", "enabled": null }),
            "enabled",
        ),
    ] {
        let (status, reply) = api.json("POST", url, body.clone()).await;
        assert_eq!(
            (status, &reply["fields"][field]),
            (400, &json!(missing)),
            "{body}"
        );
    }
    assert_eq!(
        api.form("POST", "/services", "host=h&protocol=").await.0,
        400
    );
    let service = made(&api, "/services", json!({ "name": "s", "host": "h" })).await;
    let url = format!("/services/{}", id(&service));
    assert_eq!(
        api.json("PATCH", &url, json!({ "port": null })).await.0,
        400
    );
    // What need not be there is not there, or is at its default where nothing could not be.
    let (status, reply) = api.json("PATCH", &url, json!({ "retries": null })).await;
    assert_eq!((status, &reply["retries"]), (200, &json!(null)));
    let upstream = json!({ "name": "u", "healthchecks": null, "use_srv_name": null });
    let upstream = made(&api, "/upstreams", upstream).await;
    assert_eq!(upstream["healthchecks"]["threshold"], 0);
    let target = json!({ "target": "h:1", "weight": null });
    assert_eq!(
        made(&api, "/upstreams/u/targets", target).await["weight"],
        100
    );
}

#[tokio::test]
async fn lists_and_maps_are_judged_as_lua_has_them() {
    let api = Api::new();
    wrong(
        &api,
        "routes",
        &[
            (
                json!({ "headers": { "location": true }, "paths": ["/"] }),
                json!({ "headers": "expected an array" }),
            ),
            (
                json!({ "headers": { "location": [true] }, "paths": ["/"] }),
                json!({ "headers": ["expected a string"] }),
            ),
            (
                json!({ "headers": [false], "paths": ["/"] }),
                json!({ "headers": "expected a string" }),
            ),
            (
                json!({ "headers": 1, "paths": ["/"] }),
                json!({ "headers": "expected a map" }),
            ),
            (
                json!({ "paths": ["/", null] }),
                json!({ "paths": [null, "required field missing"] }),
            ),
            (
                json!({ "paths": { "a": 1 } }),
                json!({ "paths": "expected an array" }),
            ),
            (
                json!({ "paths": ["/"], "created_at": -1 }),
                json!({ "created_at": "expected a valid timestamp" }),
            ),
        ],
    )
    .await;
    let route = json!({ "paths": ["/"], "hosts": {}, "methods": {} });
    let route = made(&api, "/routes", route).await;
    assert_eq!(
        (&route["hosts"], &route["methods"]),
        (&json!([]), &json!([]))
    );
}

#[tokio::test]
async fn hosts_and_paths_of_routes_are_judged_in_kongs_words() {
    let api = Api::new();
    let host = |text: &str, error: &str| (json!({ "hosts": [text] }), json!({ "hosts": [error] }));
    let path = |text: &str, error: &str| (json!({ "paths": [text] }), json!({ "paths": [error] }));
    let possessive = "possessive quantifiers (`*+`, `++`, `?+`, `}+`) are not supported";
    wrong(
        &api,
        "routes",
        &[
            host("mock;bin", "invalid hostname: mock;bin"),
            host("example.com:1000000", "invalid port number"),
            host("1.2.3", "invalid ipv4 address: 1.2.3"),
            host(":::1", "invalid ipv6 address: :::1"),
            host("*.a b", "invalid hostname: abc.a b"),
            host(
                "*example.com",
                "invalid wildcard: must be placed at leftmost or rightmost label",
            ),
            host(
                "*.example.*",
                "invalid wildcard: must have at most one wildcard",
            ),
            path(
                "/%c3%A4",
                "non-normalized path, consider use '/\u{e4}' instead",
            ),
            path("/a/../b", "non-normalized path, consider use '/b' instead"),
            path("/some%2words", "invalid url-encoded value: '%2w'"),
            path(
                "foo",
                "should start with: / (fixed path) or ~/ (regex path)",
            ),
            path("~/ad*+d$", &format!("invalid regex: {possessive}")),
            (
                json!({ "headers": { "x": ["~*a++"] } }),
                json!({ "headers": format!("invalid regex in header x: {possessive}") }),
            ),
        ],
    )
    .await;
    for text in ["/\u{e4}", "/a b?", "/{x}", "/%25", "~/\\d+$"] {
        made(&api, "/routes", json!({ "paths": [text] })).await;
    }
    wrong(
        &api,
        "upstreams",
        &[(
            json!({ "name": "u", "host_header": "a b" }),
            json!({ "host_header": "invalid hostname: a b" }),
        )],
    )
    .await;
}

#[tokio::test]
async fn a_sub_schema_that_is_not_named_ends_the_judgement() {
    let api = Api::new();
    let name = json!({ "name": "required field missing" });
    for kind in ["plugins", "vaults"] {
        let body = json!({ "unknown": 1, "config": { "nothing": true } });
        wrong(&api, kind, &[(body, name.clone())]).await;
    }
    let (status, reply) = api.send("POST", "/schemas/vaults/validate", "", "").await;
    assert_eq!((status, &reply["fields"]), (400, &name));
}

#[tokio::test]
async fn a_nested_patch_may_take_the_record_away() {
    let api = Api::new();
    for name in ["s", "t"] {
        made(&api, "/services", json!({ "name": name, "host": "h" })).await;
    }
    for (body, expected) in [
        (json!({ "service": { "name": "t" } }), Some("t")),
        (json!({ "service": null }), None),
    ] {
        let plugin = made(&api, "/services/s/plugins", json!({ "name": "key-auth" })).await;
        let url = format!("/services/s/plugins/{}", id(&plugin));
        let (status, patched) = api.json("PATCH", &url, json!({ "enabled": false })).await;
        assert_eq!((status, &patched["service"]), (200, &plugin["service"]));
        let (status, patched) = api.json("PATCH", &url, body.clone()).await;
        assert_eq!(status, 200, "{body} {patched}");
        let there = api
            .get(&format!("/plugins/{}/service", id(&plugin)))
            .await
            .1;
        assert_eq!(there["name"].as_str(), expected);
        assert_eq!(api.get(&url).await.0, 404);
    }
    // PUT and POST are for the record below this parent.
    let other = json!({ "name": "cors", "service": { "name": "t" } });
    let made = made(&api, "/services/s/plugins", other).await;
    let service = api.get("/services/s").await.1;
    assert_eq!(made["service"]["id"], service["id"]);
}

#[tokio::test]
async fn a_foreign_key_in_a_form_has_the_types_of_what_it_points_to() {
    let api = Api::new();
    let (status, reply) = api
        .form("POST", "/routes", "methods=GET&service.name=")
        .await;
    let missing = json!({ "service": { "id": "missing primary key" } });
    assert_eq!((status, &reply["fields"]), (400, &missing));
    // What a foreign key does not lead to cannot be deleted; what it leads to is not deleted there.
    let route = made(&api, "/routes", json!({ "paths": ["/"] })).await;
    let url = format!("/routes/{}/service", id(&route));
    assert_eq!(api.send("DELETE", &url, "", "").await.0, 404);
    assert_eq!(api.json("PUT", &url, json!({ "host": "h" })).await.0, 200);
    assert_eq!(api.send("DELETE", &url, "", "").await.0, 405);
}

#[tokio::test]
async fn a_password_may_come_hashed() {
    let api = Api::new();
    made(&api, "/consumers", json!({ "username": "bob" })).await;
    let hash = "c467a8cb9b417da18aaeec6387aa0f89ebf4325b";
    let body = json!({ "username": "b", "password": hash });
    let url = "/consumers/bob/basic-auth/b";
    let (status, kept) = api
        .json("PUT", &format!("{url}?skip_hash=true"), body.clone())
        .await;
    assert_eq!((status, &kept["password"]), (200, &json!(hash)));
    assert!(kept.get("skip_hash").is_none());
    let (_, hashed) = api.json("PUT", url, body).await;
    assert_ne!(hashed["password"], hash);
    // A password that is none of a hash's form would be kept as it is.
    let plain = json!({ "username": "c", "password": "secret", "skip_hash": true });
    let (status, reply) = api.json("POST", "/consumers/bob/basic-auth", plain).await;
    assert_eq!(
        (status, reply["fields"]["password"].is_string()),
        (400, true)
    );
    let asked = json!({
        "username": "c", "password": hash, "skip_hash": true, "consumer": { "username": "bob" }
    });
    let url = "/schemas/basicauth_credentials/validate";
    assert_eq!(api.json("POST", url, asked).await.0, 200);
    // So says decK.
    for said in [json!(null), json!(true)] {
        let asked = json!({
            "username": "c", "password": hash, "SkipHash": said, "consumer": { "username": "bob" }
        });
        assert_eq!(api.json("POST", url, asked).await.0, 200);
    }
}

#[tokio::test]
async fn the_halves_of_a_key_belong_together() {
    let api = Api::new();
    let pair = || {
        let key = rcgen::KeyPair::generate().unwrap();
        (key.serialize_pem(), key.public_key_pem())
    };
    let ((private, public), (_, other)) = (pair(), pair());
    let pem = |public: &str| json!({ "kid": "k", "pem": { "private_key": private, "public_key": public } });
    made(&api, "/keys", pem(&public)).await;
    let mismatch = json!({ "pem": "public key does not match private key" });
    wrong(&api, "keys", &[(pem(&other), mismatch)]).await;
}

//! What Kong's ingress controller asks for, as it was seen to: the start, the webhook, and the configuration
//! with and without a database. And decK with every entity that it knows.

use super::*;

/// A certificate for `name`, and its key.
fn pair(authority: bool) -> (String, String) {
    let mut parameters = rcgen::CertificateParams::new(vec!["x.test".to_owned()]).unwrap();
    if authority {
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn the_ingress_controller_starts() {
    let api = Api::new();
    let (_, root) = api.get("/").await;
    let version: Vec<u32> = root["version"]
        .as_str()
        .unwrap()
        .split('.')
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(version.as_slice() >= [3, 4, 1].as_slice(), "{version:?}");
    let configuration = &root["configuration"];
    assert_eq!(configuration["database"], "postgres");
    assert!(configuration["router_flavor"].is_string() && root["node_id"].is_string());
    assert_eq!(api.get("/status").await.0, 200);
    // A workspace that is not there is made.
    assert_eq!(api.get("/kic/workspaces/kic").await.0, 404);
    assert_eq!(
        api.json("POST", "/workspaces", json!({ "name": "kic" }))
            .await
            .0,
        201
    );
    assert_eq!(api.get("/kic/workspaces/kic").await.0, 200);
    assert_eq!(api.get("/kic/status").await.0, 200);
    assert_eq!(api.get("/licenses?size=1000").await.0, 404);
    assert_eq!(api.get("/kic/consumers/free").await.0, 404);
    for (url, body, status) in [
        (
            "/kic/schemas/plugins/validate",
            json!({ "name": "acl", "config": { "allow": ["a"] } }),
            200,
        ),
        (
            "/kic/schemas/plugins/validate",
            json!({ "name": "acl", "config": { "alow": ["a"] } }),
            400,
        ),
        (
            "/kic/schemas/routes/validate",
            json!({ "paths": ["/x"] }),
            200,
        ),
        (
            "/kic/schemas/routes/validate",
            json!({ "paths": ["x"] }),
            400,
        ),
    ] {
        assert_eq!(api.json("POST", url, body).await.0, status, "{url}");
    }
    assert_eq!(api.get("/kic/schemas/plugins/acl").await.0, 200);
}

#[tokio::test]
async fn the_ingress_controller_reads_what_is_wrong_by_record() {
    let api = Api::new();
    let tags = json!([
        "k8s-name:ingress",
        "k8s-namespace:default",
        "k8s-kind:Ingress"
    ]);
    let content = json!({
        "_format_version": "3.0",
        "upstreams": [{ "name": "good.default.80.svc", "targets": [{ "target": "10.0.0.1:80", "weight": 1 }] }],
        "services": [{
            "name": "default.svc.80", "host": "good.default.80.svc", "protocol": "wrong", "tags": tags,
            "routes": [{
                "name": "default.ingress.svc", "paths": ["~/x$"], "protocols": ["http", "tcp"], "tags": tags,
            }],
        }],
    });
    let url = "/config?check_hash=1&flatten_errors=1";
    let (status, reply) = api.json("POST", url, content.clone()).await;
    assert_eq!(status, 400);
    let mut named: Vec<&str> = reply["flattened_errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            assert_eq!(entry["entity_tags"], tags);
            assert!(entry["errors"][0]["message"].is_string());
            entry["entity_type"].as_str().unwrap()
        })
        .collect();
    named.sort_unstable();
    assert_eq!(named, ["route", "service"]);
    assert_eq!(
        api.get("/upstreams").await.1["data"],
        json!([]),
        "nothing took effect"
    );
    let mut good = content;
    good["services"][0]["protocol"] = "http".into();
    good["services"][0]["routes"][0]["protocols"] = json!(["http", "https"]);
    let (status, reply) = api.json("POST", url, good.clone()).await;
    assert_eq!(status, 201, "{reply}");
    assert_eq!(api.json("POST", url, good).await.0, 304);
    let (_, targets) = api.get("/upstreams/good.default.80.svc/targets").await;
    assert_eq!(targets["data"][0]["target"], "10.0.0.1:80");
}

/// Every entity of decK's, by the path that it is put to, parents first.
fn everything() -> Vec<(String, Value)> {
    let id = |at: u128| Uuid::from_u128(at).to_string();
    let of = |at: u128| json!({ "id": id(at) });
    let ((certificate, key), (authority, _)) = (pair(false), pair(true));
    let put = |path: &str, at: u128, mut body: Value| {
        body["id"] = id(at).into();
        (format!("{path}/{}", id(at)), body)
    };
    let consumer = format!("/consumers/{}", id(5));
    vec![
        put(
            "/certificates",
            1,
            json!({ "cert": certificate, "key": key }),
        ),
        put("/ca_certificates", 2, json!({ "cert": authority })),
        put(
            "/snis",
            3,
            json!({ "name": "x.test", "certificate": of(1) }),
        ),
        put(
            "/services",
            4,
            json!({ "name": "s", "host": "u.test", "client_certificate": of(1), "protocol": "https" }),
        ),
        put(
            "/consumers",
            5,
            json!({ "username": "yoda", "custom_id": "sub" }),
        ),
        put("/consumer_groups", 6, json!({ "name": "gold" })),
        put(
            "/routes",
            7,
            json!({ "name": "r", "paths": ["~/x$"], "service": of(4), "headers": { "x-a": ["1"] } }),
        ),
        put(
            "/upstreams",
            8,
            json!({ "name": "u.test", "algorithm": "round-robin" }),
        ),
        put(
            "/plugins",
            9,
            json!({ "name": "acl", "route": of(7), "config": { "allow": ["g"] } }),
        ),
        put(
            "/vaults",
            10,
            json!({ "name": "env", "prefix": "my-env", "config": { "prefix": "X_" } }),
        ),
        put("/key-sets", 11, json!({ "name": "set" })),
        put(
            "/keys",
            12,
            json!({ "name": "k", "kid": "1", "set": of(11), "jwk": "{\"kty\":\"oct\",\"kid\":\"1\",\"k\":\"AAAA\"}" }),
        ),
        put(
            &format!("{consumer}/key-auth"),
            13,
            json!({ "key": "secret-key" }),
        ),
        put(
            &format!("{consumer}/hmac-auth"),
            14,
            json!({ "username": "h", "secret": "s" }),
        ),
        put(
            &format!("{consumer}/jwt"),
            15,
            json!({ "key": "iss", "secret": "s", "algorithm": "HS256" }),
        ),
        put(&format!("{consumer}/acls"), 16, json!({ "group": "g" })),
    ]
}

/// The lists that decK reads, and those that it compares nothing in but must be able to read.
const LISTS: [&str; 15] = [
    "services",
    "routes",
    "plugins",
    "certificates",
    "snis",
    "upstreams",
    "consumers",
    "ca_certificates",
    "vaults",
    "keys",
    "key-sets",
    "key-auths",
    "hmac-auths",
    "jwts",
    "acls",
];

async fn dump(api: &Api) -> Vec<Value> {
    let mut state = Vec::new();
    for list in LISTS {
        let (status, page) = api.get(&format!("/{list}?size=1000")).await;
        assert_eq!(status, 200, "{list}");
        for record in page["data"].as_array().unwrap() {
            let mut record = record.as_object().unwrap().clone();
            record.shift_remove("created_at");
            record.shift_remove("updated_at");
            state.push(Value::Object(record));
        }
    }
    state
}

#[tokio::test]
async fn deck_syncs_compares_dumps_and_resets_every_entity() {
    let api = Api::new();
    for (url, body) in everything() {
        let (status, reply) = api.json("PUT", &url, body.clone()).await;
        assert_eq!(status, 200, "{url}: {reply}");
        for (name, sent) in body.as_object().unwrap() {
            if let Some(sent) = sent.as_object() {
                for (name, value) in sent {
                    assert!(
                        reply.to_string().contains(&value.to_string()),
                        "{url}: {name}"
                    );
                }
            } else {
                assert_eq!(&reply[name], sent, "{url}: {name}");
            }
        }
    }
    // A target that is not there by PUT is made by POST, with the id that decK has chosen.
    let target = json!({ "id": Uuid::from_u128(20), "target": "10.0.0.1:80", "weight": 5 });
    let targets = "/upstreams/u.test/targets";
    let put = format!("{targets}/{}", Uuid::from_u128(20));
    assert_eq!(api.json("PUT", &put, target.clone()).await.0, 404);
    assert_eq!(api.json("POST", targets, target.clone()).await.0, 201);
    let group = "/consumer_groups/gold";
    let member = json!({ "consumer": Uuid::from_u128(5) });
    assert_eq!(
        api.json("POST", &format!("{group}/consumers"), member)
            .await
            .0,
        201
    );
    assert_eq!(api.get(group).await.1["consumers"][0]["username"], "yoda");
    let before = dump(&api).await;
    assert_eq!(before.len(), 16 - 1);
    // What was dumped is put again, as a second sync would if it saw a difference: there is none.
    for (url, body) in everything() {
        if body.get("cert").is_none() {
            assert_eq!(api.json("PUT", &url, body).await.0, 200, "{url}");
        }
    }
    assert_eq!(dump(&api).await, before);
    // The same as a file: another control plane that gets it holds the same.
    let (_, file) = api.get("/config").await;
    let copy = Api::new();
    let (status, reply) = copy.json("POST", "/config", file).await;
    assert_eq!(status, 201, "{reply}");
    assert_eq!(dump(&copy).await, before);
    // Reset: children first, each by its id in its own collection.
    assert_eq!(api.send("DELETE", &put, "", "").await.0, 204);
    for (url, _) in everything().into_iter().rev() {
        assert_eq!(api.send("DELETE", &url, "", "").await.0, 204, "{url}");
    }
    assert!(dump(&api).await.is_empty());
}

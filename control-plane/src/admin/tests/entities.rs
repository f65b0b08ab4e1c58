//! Each entity's fields, defaults, rules and shapes, in Kong's words.

#![allow(clippy::too_many_lines, reason = "tables")]

use super::*;

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
    for (query, expected) in [
        ("", json!(null)),
        ("?counter=1", json!(1)),
        ("?counter=0", json!(null)),
    ] {
        let (_, listed) = api.get(&format!("/consumer_groups{query}")).await;
        assert_eq!(listed["data"][0]["consumers_count"], expected, "{query}");
    }
    let (_, without) = api.get("/consumer_groups/gold?list_consumers=false").await;
    assert_eq!(without, json!({ "consumer_group": group }));
    assert_eq!(
        api.get("/consumers/yoda/consumer_groups").await.1,
        json!({ "consumer_groups": [group] })
    );
    assert_eq!(api.get("/consumer_groups/gold/consumers/yoda").await.0, 200);
    made(&api, "/consumers", json!({ "username": "han" })).await;
    let url = "/consumer_groups/gold/consumers";
    let (status, joined) = api.form("POST", url, "consumer.username=han").await;
    let shown = &joined["consumers"][0]["username"];
    assert_eq!((status, shown), (201, &json!("han")), "{joined}");
    let url = format!("{url}/han");
    assert_eq!(api.send("DELETE", &url, "", "").await.0, 204);
    // The reply to a write shows who has come, not who was there.
    for name in ["luke", "leia"] {
        api.json("POST", "/consumers", json!({ "username": name }))
            .await;
        let body = json!({ "consumer": name });
        let (_, reply) = api
            .json("POST", "/consumer_groups/gold/consumers", body)
            .await;
        let shown = reply["consumers"].as_array().unwrap();
        assert_eq!((shown.len(), &shown[0]["username"]), (1, &json!(name)));
        let url = format!("/consumers/{name}");
        assert_eq!(api.send("DELETE", &url, "", "").await.0, 204);
    }
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
                "must provide consumer",
            ),
            (
                "POST",
                "/consumer_groups/gold/consumers",
                json!({ "consumer": "nobody" }),
                404,
                "Consumer 'nobody' not found",
            ),
            (
                "POST",
                "/consumer_groups/none/consumers",
                json!({ "consumer": "yoda" }),
                404,
                "Group 'none' not found",
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

//! Each entity's fields, defaults, rules and shapes, in Kong's words.

use super::*;

#[tokio::test]
async fn consumer_groups_have_shapes_of_their_own() {
    let api = Api::new();
    let group = made(&api, "/consumer_groups", json!({ "name": "gold" })).await;
    let consumer = made(&api, "/consumers", json!({ "username": "yoda" })).await;
    let members = "/consumer_groups/gold/consumers";
    let joined = made(&api, members, json!({ "consumer": "yoda" })).await;
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
    let (status, _) = api
        .json("POST", members, json!({ "consumer": id(&consumer) }))
        .await;
    assert_eq!(status, 409);
    // What cannot be a consumer's cannot be a group's.
    let plugin = json!({ "name": "acl", "config": { "allow": ["a"] } });
    let (status, reply) = api
        .json("POST", "/consumer_groups/gold/plugins", plugin)
        .await;
    assert_eq!(
        (status, &reply["fields"]),
        (400, &json!({ "consumer_group": "value must be null" }))
    );
}

#[tokio::test]
async fn a_group_is_joined_and_left_from_either_side() {
    let api = Api::new();
    let transcript = r#"
        POST /consumer_groups {"name": "gold"} => 201
        POST /consumers {"username": "yoda"} => 201
        POST /consumers {"username": "han"} => 201
        POST /consumer_groups/gold/consumers {"consumer": "yoda"} => 201
        GET /consumer_groups/gold/consumers/yoda => 200
        DELETE /consumer_groups/gold/consumers/yoda => 204
        DELETE /consumer_groups/gold/consumers/yoda => 404
    "#;
    api.holds(transcript).await;
    let members = "/consumer_groups/gold/consumers";
    let (status, joined) = api.form("POST", members, "consumer.username=han").await;
    let shown = &joined["consumers"][0]["username"];
    assert_eq!((status, shown), (201, &json!("han")), "{joined}");
    // The reply to a write shows who has come, not who was there.
    let groups = "/consumers/yoda/consumer_groups";
    let (status, joined) = api.form("POST", groups, "group=gold").await;
    let shown = &joined["consumer_groups"][0]["name"];
    assert_eq!((status, shown), (201, &json!("gold")), "{joined}");
    for name in ["luke", "leia"] {
        made(&api, "/consumers", json!({ "username": name })).await;
        let reply = made(&api, members, json!({ "consumer": name })).await;
        let shown = reply["consumers"].as_array().unwrap();
        assert_eq!((shown.len(), &shown[0]["username"]), (1, &json!(name)));
    }
    // Whoever is gone is in no group.
    for name in ["yoda", "han", "luke", "leia"] {
        let url = format!("/consumers/{name}");
        assert_eq!(api.send("DELETE", &url, "", "").await.0, 204);
    }
    assert_eq!(api.get(members).await.1, json!({ "consumers": [] }));
}

#[tokio::test]
async fn groups_are_refused_in_kongs_words() {
    let transcript = r#"
        POST /consumer_groups {"name": "gold"} => 201
        POST /consumers {"username": "yoda"} => 201
        POST /consumer_groups/gold/consumers {} => 400 must provide consumer
        POST /consumer_groups/gold/consumers {"consumer": "nobody"} => 404 Consumer 'nobody' not found
        POST /consumer_groups/none/consumers {"consumer": "yoda"} => 404 Group 'none' not found
        POST /consumer_groups {"name": "gold"} => 409 UNIQUE violation detected on '{name="gold"}'
        POST /consumer_groups {} => 400 schema violation (name: required field missing)
        GET /consumer_group_consumers => 404 Not found
    "#;
    Api::new().holds(transcript).await;
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
    let transcript = r#"
        POST /consumers/yoda/basic-auth {} => 400 2 schema violations (password: required field missing; username: required field missing)
        POST /consumers/yoda/basic-auth {"username": "y", "password": "p"} => 409 UNIQUE violation detected on '{username="y"}'
        POST /consumers/yoda/jwt {"algorithm": "RS256"} => 400 2 schema violations (failed conditional validation given value of field 'algorithm'; rsa_public_key: required field missing)
        POST /consumers/yoda/jwt {"algorithm": "ES256", "rsa_public_key": "x"} => 400 2 schema violations (failed conditional validation given value of field 'algorithm'; rsa_public_key: invalid key)
        POST /consumers/yoda/key-auth {"key": "", "ttl": -1} => 400 2 schema violations (key: length must be at least 1; ttl: value should be between 0 and 100000000)
        POST /consumers/nobody/key-auth {} => 404 Not found
        POST /key-auths {} => 400 schema violation (consumer: required field missing)
        POST /consumers/yoda/oauth2 {"name": "a", "redirect_uris": ["http://a/#f", "x"]} => 400 2 schema violations (redirect_uris.1: fragment not allowed in 'http://a/#f'; redirect_uris.2: cannot parse 'x')
    "#;
    api.holds(transcript).await;
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
async fn vaults_are_checked() {
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
    let transcript = r#"
        PUT /vaults/00000000-0000-0000-0000-000000000009 {"name": "env", "prefix": "env"} => 400 schema violation (prefix: must not be one of: env)
        PATCH /vaults/00000000-0000-0000-0000-000000000009 {"prefix": "env"} => 404 could not find the entity with primary key '{id="00000000-0000-0000-0000-000000000009"}'
        PUT /vaults/env {"name": "env"} => 400 code 10: must not be one of: env
        POST /vaults {"name": "no", "prefix": "my-no"} => 400 schema violation (name: vault 'no' is not installed)
        POST /vaults {"name": "env", "prefix": "my-env", "config": {"x": 1}} => 400 schema violation (config.x: unknown field)
        GET /schemas/vaults/env => 200
        GET /schemas/vaults/no => 404 No vault named 'no'
    "#;
    api.holds(transcript).await;
    let (_, reply) = api
        .json("PUT", "/vaults/env", json!({ "name": "env" }))
        .await;
    assert_eq!(reply["name"], "invalid unique prefix");
}

#[tokio::test]
async fn keys_are_checked() {
    let api = Api::new();
    let set = json!({ "id": Uuid::from_u128(9), "name": "set" });
    let set = made(&api, "/key-sets", set).await;
    let jwk = json!({ "kid": "1", "kty": "oct", "k": "AAAA" }).to_string();
    let key = json!({ "name": "k", "kid": "1", "jwk": jwk, "set": { "name": "set" } });
    let key = made(&api, "/keys", key).await;
    assert_eq!(key["set"], json!({ "id": set["id"] }));
    assert_eq!(api.get("/key-sets/set/keys/k").await.1, key);
    let transcript = r#"
        POST /keys {"kid": "36", "jwk": "{\"kid\": \"36\"}"} => 400 schema violation (could not load JWK, likely not a valid key)
        POST /keys {"kid": "36", "jwk": "{\"kid\": \"37\"}"} => 400 schema violation (kid in jwk.kid must be equal to keys.kid)
        POST /keys {"kid": "36", "jwk": "{"} => 400 schema violation (could not json decode jwk string)
        POST /keys {"kid": "36"} => 400 schema violation (at least one of these fields must be non-empty: 'jwk', 'pem')
        POST /keys {"kid": "2", "jwk": "{vault://env/jwk}", "pem": {"public_key": "{vault://env/pem}"}} => 400 schema violation (only one or none of these fields must be set: 'jwk', 'pem')
        POST /keys {"kid": "1", "jwk": "{\"kid\": \"1\", \"kty\": \"oct\", \"k\": \"AAAA\"}", "set": {"name": "set"}} => 409 UNIQUE violation detected on '{kid="1",set={id="00000000-0000-0000-0000-000000000009"}}'
        DELETE /key-sets/set => 204
    "#;
    api.holds(transcript).await;
    assert_eq!(api.get("/keys").await.1["data"], json!([]));
}

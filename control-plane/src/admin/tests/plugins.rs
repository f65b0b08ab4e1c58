//! What is wrong with a plugin's configuration, where Kong says it.

use super::*;

#[tokio::test]
async fn rules_of_a_plugin_are_said_where_kong_says_them() {
    let api = Api::new();
    let needed = |fields: &str| format!("at least one of these fields must be non-empty: {fields}");
    let lists = needed("'config.allow', 'config.deny'");
    let one = lists.replace("at least", "exactly");
    let limits = needed(
        "'config.second', 'config.minute', 'config.hour', 'config.day', 'config.month', 'config.year'",
    );
    let order = "The limit for hour(10.0) cannot be lower than the limit for second(20.0)";
    let whole = "message cannot be used with content_type or body";
    for (name, config, fields, message) in [
        // A rule between fields is one of the whole plugin.
        (
            "acl",
            json!({}),
            json!({ "@entity": [one, lists] }),
            format!("{one}; {lists}"),
        ),
        (
            "acl",
            json!({ "allow": ["a"], "deny": ["b"] }),
            json!({ "@entity": [one] }),
            one.clone(),
        ),
        // A field that there is not takes nothing away from that.
        (
            "rate-limiting",
            json!({ "invalid": 1 }),
            json!({ "@entity": [limits], "config": { "invalid": "unknown field" } }),
            format!("{limits}; config.invalid: unknown field"),
        ),
        (
            "ip-restriction",
            json!({ "invalid": 1, "allow": 5 }),
            json!({ "config": { "allow": "expected an array", "invalid": "unknown field" } }),
            "config.allow: expected an array; config.invalid: unknown field".to_owned(),
        ),
        (
            "rate-limiting",
            json!({ "second": 10, "limit_by": "header" }),
            json!({
                "@entity": ["failed conditional validation given value of field 'config.limit_by'"],
                "config": { "header_name": "required field missing" },
            }),
            "failed conditional validation given value of field 'config.limit_by'; config.header_name: required field missing".to_owned(),
        ),
        // One that the configuration as such breaks is said of it.
        (
            "rate-limiting",
            json!({ "second": 20, "hour": 10 }),
            json!({ "config": order }),
            format!("config: {order}"),
        ),
        (
            "request-termination",
            json!({ "message": "a", "body": "b" }),
            json!({ "config": whole }),
            format!("config: {whole}"),
        ),
        // And only once its fields are right.
        (
            "request-termination",
            json!({ "message": "a", "body": "b", "status_code": 99 }),
            json!({ "config": { "status_code": "value should be between 100 and 599" } }),
            "config.status_code: value should be between 100 and 599".to_owned(),
        ),
        // Elements of a list are named by their place, entries of a map are not.
        (
            "ip-restriction",
            json!({ "deny": ["10.0.0.1", "foo"] }),
            json!({ "config": { "deny": [null, "invalid ip or cidr range: 'foo'"] } }),
            String::new(),
        ),
        (
            "http-log",
            json!({ "http_endpoint": "http://h", "headers": { "Host": "a" } }),
            json!({ "config": { "headers": "cannot contain 'Host' header" } }),
            "config.headers: cannot contain 'Host' header".to_owned(),
        ),
        (
            "response-ratelimiting",
            json!({ "limits": { "video": { "second": "a" } } }),
            json!({ "config": { "limits": { "second": "expected a number" } } }),
            String::new(),
        ),
    ] {
        let body = json!({ "name": name, "config": config });
        let (status, reply) = api.json("POST", "/plugins", body).await;
        assert_eq!((status, &reply["fields"]), (400, &fields), "{name} {config}");
        if !message.is_empty() {
            let count = message.contains("; ").then_some("2 schema violations");
            let message = format!("{} ({message})", count.unwrap_or("schema violation"));
            assert_eq!(reply["message"], message, "{name} {config}");
        }
    }
}

#[tokio::test]
async fn each_plugin_has_the_protocols_that_it_can_see() {
    let api = Api::new();
    let route = json!({ "protocols": ["tcp"], "sources": [{ "ip": "10.0.0.0/8" }] });
    let (_, route) = api.json("POST", "/routes", route).await;
    let http = json!(["grpc", "grpcs", "http", "https"]);
    let log = json!({ "path": "/tmp/streams.log" });
    let url = format!("/routes/{}/plugins", route["id"].as_str().unwrap());
    let elsewhere = json!({ "protocols": "must match the associated route's protocols" });
    let only = "expected one of: grpc, grpcs, http, https";
    let any = format!("{only}, tcp, tls, tls_passthrough, udp");
    for (name, config, protocols, expected) in [
        ("file-log", &log, None, Err(elsewhere)),
        ("file-log", &log, Some(json!(["tcp"])), Ok(json!(["tcp"]))),
        (
            "ip-restriction",
            &json!({ "deny": ["10.0.0.1"] }),
            None,
            Ok(json!(["http", "https", "tcp", "tls", "grpc", "grpcs"])),
        ),
        (
            "key-auth",
            &json!({}),
            Some(json!(["http", "tcp"])),
            Err(json!({ "protocols": [null, only] })),
        ),
        (
            "key-auth",
            &json!({}),
            Some(json!(["x"])),
            Err(json!({ "protocols": [only] })),
        ),
        (
            "tcp-log",
            &json!({ "host": "a", "port": 1 }),
            Some(json!(["x"])),
            Err(json!({ "protocols": [any] })),
        ),
    ] {
        let mut body = json!({ "name": name, "config": config });
        if let Some(protocols) = protocols {
            body["protocols"] = protocols;
        }
        let (status, reply) = api.json("POST", &url, body).await;
        match expected {
            Ok(protocols) => {
                assert_eq!(
                    (status, &reply["protocols"]),
                    (201, &protocols),
                    "{name} {reply}"
                );
            }
            Err(fields) => assert_eq!((status, &reply["fields"]), (400, &fields), "{name}"),
        }
    }
    // What a change leaves out stays.
    let (_, plugin) = api
        .json(
            "POST",
            "/plugins",
            json!({ "name": "file-log", "config": log, "protocols": ["udp"] }),
        )
        .await;
    let url = format!("/plugins/{}", plugin["id"].as_str().unwrap());
    let (_, plugin) = api.json("PATCH", &url, json!({ "enabled": false })).await;
    assert_eq!(plugin["protocols"], json!(["udp"]));
    let shown = |name: &str| {
        let (api, url) = (&api, format!("/schemas/plugins/{name}"));
        async move {
            let (_, schema) = api.get(&url).await;
            let fields = schema["fields"].as_array().unwrap().clone();
            let field = fields
                .into_iter()
                .find_map(|field| field.get("protocols").cloned());
            let field = field.unwrap();
            (
                field["default"].clone(),
                field["elements"]["one_of"].clone(),
            )
        }
    };
    assert_eq!(shown("key-auth").await, (http.clone(), http));
    let (default, allowed) = shown("ip-restriction").await;
    assert_eq!(
        default,
        json!(["http", "https", "tcp", "tls", "grpc", "grpcs"])
    );
    assert_eq!(allowed.as_array().unwrap().len(), 8);
}

#[tokio::test]
async fn redis_has_its_old_names_too() {
    let api = Api::new();
    let limits = json!({ "video": { "minute": 1 } });
    for (name, mut config) in [
        ("rate-limiting", json!({ "minute": 1 })),
        ("response-ratelimiting", json!({ "limits": limits })),
    ] {
        for (field, value) in [
            ("policy", "redis"),
            ("redis_host", "r.test"),
            ("redis_password", "p"),
        ] {
            config[field] = json!(value);
        }
        let body = json!({ "name": name, "config": config });
        let (status, made) = api.json("POST", "/plugins", body).await;
        assert_eq!(status, 201, "{made}");
        let url = format!("/plugins/{}", made["id"].as_str().unwrap());
        let change = json!({ "config": { "redis_host": "s.test" } });
        let (_, changed) = api.json("PATCH", &url, change).await;
        let (_, list) = api.get("/plugins").await;
        for (plugin, host) in [
            (&made, "r.test"),
            (&changed, "s.test"),
            (&list["data"][0], "s.test"),
        ] {
            let config = &plugin["config"];
            for (old, new, value) in [
                ("redis_host", "host", json!(host)),
                ("redis_port", "port", json!(6379)),
                ("redis_password", "password", json!("p")),
                ("redis_username", "username", Value::Null),
                ("redis_ssl", "ssl", json!(false)),
            ] {
                assert_eq!(
                    (&config[old], &config["redis"][new]),
                    (&value, &value),
                    "{name} {old}"
                );
            }
        }
        // What was read may be written again.
        let (status, again) = api
            .json(
                "PUT",
                &url,
                json!({ "name": name, "config": changed["config"] }),
            )
            .await;
        assert_eq!((status, &again["config"]), (200, &changed["config"]));
        // But no longer if one of the two was changed alone.
        for (field, value, shown) in [
            (
                "redis_host",
                json!("t.test"),
                "t.test vs redis.host = s.test",
            ),
            (
                "redis_password",
                json!("q"),
                "[redacted] vs redis.password = [redacted]",
            ),
        ] {
            let mut config = changed["config"].clone();
            config[field] = value;
            let (status, reply) = api
                .json("PUT", &url, json!({ "name": name, "config": config }))
                .await;
            let expected = format!(
                "both deprecated and new field are used but their values mismatch: {field} = {shown}"
            );
            assert_eq!(
                (status, &reply["fields"]),
                (400, &json!({ field: expected }))
            );
        }
        api.send("DELETE", &url, "", "").await;
    }
}

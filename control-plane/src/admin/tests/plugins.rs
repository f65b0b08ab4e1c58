//! What is wrong with a plugin's configuration, where Kong says it.

use super::*;

#[tokio::test]
async fn rules_of_a_plugin_are_said_where_kong_says_them() {
    let api = Api::new();
    let needed = |fields: &str| format!("at least one of these fields must be non-empty: {fields}");
    let lists = needed("'config.allow', 'config.deny'");
    let order = "The limit for hour(10.0) cannot be lower than the limit for second(20.0)";
    let whole = "message cannot be used with content_type or body";
    for (name, config, fields, message) in [
        // A rule between fields is one of the whole plugin.
        (
            "acl",
            json!({}),
            json!({ "@entity": [lists] }),
            lists.clone(),
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

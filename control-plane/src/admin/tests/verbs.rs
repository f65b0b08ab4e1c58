//! Each verb on each kind of endpoint.

use super::*;

#[tokio::test]
async fn verbs_do_what_kongs_do() {
    let api = Api::new();
    let transcript = r#"
        PUT /services/s {"host": "h"} => 200
        PUT /routes/r {"paths": ["/"], "service": {"name": "s"}} => 200
        GET /services/s/routes/r => 200
        HEAD /services => 200
        OPTIONS /services => 204
        POST /schemas/services/validate {"host": "a"} => 200 schema validation successful
        POST /schemas/services/validate {} => 400
    "#;
    api.holds(transcript).await;
    let (_, routes) = api.get("/services/s/routes").await;
    assert_eq!(routes["data"][0]["name"], "r", "{routes}");
    assert_eq!(api.get("/routes/r/service").await.1["name"], "s");
    let transcript = "
        DELETE /routes/r => 204
        DELETE /routes/r => 204
        GET /routes/r => 404
    ";
    api.holds(transcript).await;
    let (status, root) = api.get("/").await;
    assert_eq!((status, &root["version"]), (200, &json!("3.9.1")));
    assert!(root["plugins"]["available_on_server"]["openid-connect"].is_object());
}

#[tokio::test]
async fn forms_of_both_kinds_are_read() {
    let api = Api::new();
    api.holds("PUT /consumers/yoda {} => 200").await;
    let (status, acl) = api.form("POST", "/consumers/yoda/acls", "group=jedi").await;
    assert_eq!((status, &acl["group"]), (201, &json!("jedi")));
    let (_, named) = api.get("/consumers/yoda/acls/jedi").await;
    assert_eq!(named["id"], acl["id"]);
    let multipart =
        "--b\r\nContent-Disposition: form-data; name=\"host\"\r\n\r\nx.com\r\n--b--\r\n";
    let kind = "multipart/form-data; boundary=b";
    let (status, service) = api.send("POST", "/services", kind, multipart).await;
    assert_eq!((status, &service["host"]), (201, &json!("x.com")));
}

#[tokio::test]
async fn put_on_an_empty_foreign_key_makes_the_record_and_links_it() {
    let api = Api::new();
    let transcript = r#"
        PUT /routes/r {"paths": ["/"]} => 200
        GET /routes/r/service => 404
        PATCH /routes/r/service {"retries": 1} => 404
        PUT /routes/r/service {"port": 0.5} => 400
    "#;
    api.holds(transcript).await;
    assert_eq!(api.get("/services").await.1["data"], json!([]));
    let (status, made) = api
        .form("PUT", "/routes/r/service", "name=made&host=h")
        .await;
    assert_eq!((status, &made["name"]), (200, &json!("made")));
    let (_, route) = api.get("/routes/r").await;
    assert_eq!(route["service"], json!({ "id": made["id"] }));
    // Now that there is one, it is replaced.
    let (status, replaced) = api
        .form("PUT", "/routes/r/service", "name=again&host=h")
        .await;
    assert_eq!((status, &replaced["id"]), (200, &made["id"]));
    assert_eq!(
        api.get("/services").await.1["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_link_that_the_owner_forbids_changes_nothing() {
    let api = Api::new();
    let plugin = json!({ "name": "acl", "config": { "allow": ["a"] } });
    let (_, plugin) = api.json("POST", "/plugins", plugin).await;
    let url = format!("/plugins/{}/consumer", plugin["id"].as_str().unwrap());
    let (status, reply) = api.json("PUT", &url, json!({ "username": "u" })).await;
    assert_eq!(
        (status, &reply["fields"]["consumer"]),
        (400, &json!("value must be null"))
    );
    assert_eq!(api.get("/consumers").await.1["data"], json!([]));
}

#[tokio::test]
async fn validation_looks_at_the_record_alone() {
    let api = Api::new();
    let route = json!({ "name": "a b", "paths": ["/"], "service": { "name": "nobody" } });
    let (status, reply) = api.json("POST", "/schemas/routes/validate", route).await;
    assert_eq!((status, &reply["code"]), (400, &json!(2)));
    assert!(reply["fields"]["name"].is_string() && reply["fields"]["service"].is_null());
    let transcript = r#"
        POST /schemas/routes/validate {"paths": ["/"], "service": {"name": "nobody"}} => 200
        POST /schemas/routes/validate {"paths": ["/"], "service": {"id": "00000000-0000-0000-0000-000000000001"}} => 200
    "#;
    api.holds(transcript).await;
}

#[tokio::test]
async fn a_group_goes_by_its_name_below_its_consumer() {
    let api = Api::new();
    api.json("PUT", "/consumers/yoda", json!({})).await;
    let (status, acl) = api
        .json("PUT", "/consumers/yoda/acls/jedi", json!({}))
        .await;
    assert_eq!((status, &acl["group"]), (200, &json!("jedi")));
    assert!(acl["consumer"]["id"].is_string());
    let (status, again) = api
        .json(
            "PUT",
            "/consumers/yoda/acls/jedi",
            json!({ "group": "jedi" }),
        )
        .await;
    assert_eq!((status, &again["id"]), (200, &acl["id"]));
    // The path says which group: again, in a form, and whatever the body says.
    let form = api.form("PUT", "/consumers/yoda/acls/jedi", "tags=a").await;
    let body = json!({ "group": "sith" });
    let other = api.json("PUT", "/consumers/yoda/acls/jedi", body).await;
    for (status, put) in [form, other] {
        assert_eq!((status, &put["id"]), (200, &acl["id"]), "{put}");
        assert_eq!(put["group"], "jedi");
    }
    let puts = (0..20).map(|_| api.json("PUT", "/consumers/yoda/acls/new", json!({})));
    let puts = futures::future::join_all(puts).await;
    for (status, put) in &puts {
        assert_eq!((*status, &put["id"]), (200, &puts[0].1["id"]), "{put}");
    }
    // A new one takes no id from another. By its id one is replaced whole.
    let id = id(&acl);
    let transcript = format!(
        r#"
        PUT /consumers/yoda/acls/third {{"id": "{id}"}} => 400
        PUT /consumers/yoda/acls/{id} {{}} => 400
        GET /consumers/yoda/acls/sith => 404
        PATCH /consumers/yoda/acls/sith {{}} => 404
        DELETE /consumers/yoda/acls/sith => 404
        "#
    );
    api.holds(&transcript).await;
}

#[tokio::test]
async fn a_plugin_goes_by_its_instance_name() {
    let api = Api::new();
    let transcript = r#"
        POST /services {"name": "s", "host": "h"} => 201
        PUT /plugins/mine {"name": "key-auth"} => 200
        POST /services/s/plugins {"name": "acl", "instance_name": "below", "config": {"allow": ["a"]}} => 201
    "#;
    api.holds(transcript).await;
    let (_, made) = api.get("/plugins/mine").await;
    assert_eq!(made["instance_name"], "mine");
    let body = json!({ "config": { "key_in_body": true } });
    let (status, changed) = api.json("PATCH", "/plugins/mine", body).await;
    assert_eq!((status, &changed["id"]), (200, &made["id"]));
    assert_eq!(changed["config"]["key_in_body"], true);
    let transcript = "
        GET /plugins/mine => 200
        GET /services/s/plugins/below => 200
        GET /services/s/plugins/mine => 404
        GET /plugins/below/service => 200
        GET /plugins/none => 404
        DELETE /plugins/mine => 204
        GET /plugins/mine => 404
    ";
    api.holds(transcript).await;
}

#[tokio::test]
async fn filter_chains_need_webassembly() {
    let api = Api::new();
    made(&api, "/services", json!({ "name": "s", "host": "h" })).await;
    for (method, path) in [
        ("GET", "/filter-chains"),
        ("POST", "/filter-chains"),
        ("PATCH", "/filter-chains/a"),
        ("PUT", "/filter-chains/a"),
        ("DELETE", "/filter-chains/a"),
        ("GET", "/services/s/filter-chains"),
        ("POST", "/routes/r/filter-chains"),
        ("DELETE", "/services/s/filter-chains/a"),
        ("GET", "/routes/r/filters/enabled"),
    ] {
        let chain = json!({ "filters": [{ "name": "tests" }] });
        let (status, reply) = api.json(method, path, chain).await;
        let message = json!("this endpoint is only available when wasm is enabled");
        assert_eq!(
            (status, &reply["message"]),
            (400, &message),
            "{method} {path}"
        );
    }
    assert_eq!(api.get("/routes/r/filters/others").await.0, 404);
}

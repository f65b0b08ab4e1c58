//! Each verb on each kind of endpoint.

use super::*;

#[tokio::test]
async fn verbs_do_what_kongs_do() {
    let api = Api::new();
    assert_eq!(
        api.json("PUT", "/services/s", json!({ "host": "h" }))
            .await
            .0,
        200
    );
    let (status, route) = api
        .json(
            "PUT",
            "/routes/r",
            json!({ "paths": ["/"], "service": { "name": "s" } }),
        )
        .await;
    assert_eq!((status, &route["name"]), (200, &json!("r")));
    assert_eq!(api.get("/routes/r/service").await.1["name"], "s");
    assert_eq!(api.get("/services/s/routes/r").await.0, 200);
    assert_eq!(
        api.get("/services/s/routes").await.1["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        api.send("DELETE", "/routes/r", "", "").await,
        (204, Value::Null)
    );
    assert_eq!(api.send("DELETE", "/routes/r", "", "").await.0, 204);
    assert_eq!(api.get("/routes/r").await.0, 404);
    api.json("PUT", "/consumers/yoda", json!({})).await;
    let (status, acl) = api.form("POST", "/consumers/yoda/acls", "group=jedi").await;
    assert_eq!((status, &acl["group"]), (201, &json!("jedi")));
    assert_eq!(
        api.get("/consumers/yoda/acls/jedi").await.1["id"],
        acl["id"]
    );
    let multipart =
        "--b\r\nContent-Disposition: form-data; name=\"host\"\r\n\r\nx.com\r\n--b--\r\n";
    let (status, service) = api
        .send(
            "POST",
            "/services",
            "multipart/form-data; boundary=b",
            multipart,
        )
        .await;
    assert_eq!((status, &service["host"]), (201, &json!("x.com")));
    let (status, root) = api.get("/").await;
    assert_eq!((status, &root["version"]), (200, &json!("3.9.1")));
    assert!(root["plugins"]["available_on_server"]["openid-connect"].is_object());
    assert_eq!(
        api.send("HEAD", "/services", "", "").await,
        (200, Value::Null)
    );
    assert_eq!(api.send("OPTIONS", "/services", "", "").await.0, 204);
    let (status, reply) = api
        .json("POST", "/schemas/services/validate", json!({ "host": "a" }))
        .await;
    assert_eq!(
        (status, &reply["message"]),
        (200, &json!("schema validation successful"))
    );
    assert_eq!(
        api.json("POST", "/schemas/services/validate", json!({}))
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn put_on_an_empty_foreign_key_makes_the_record_and_links_it() {
    let api = Api::new();
    let route = json!({ "paths": ["/"] });
    api.json("PUT", "/routes/r", route).await;
    assert_eq!(api.get("/routes/r/service").await.0, 404);
    let (status, _) = api
        .json("PATCH", "/routes/r/service", json!({ "retries": 1 }))
        .await;
    assert_eq!(status, 404);
    let (status, reply) = api
        .json("PUT", "/routes/r/service", json!({ "port": 0.5 }))
        .await;
    assert_eq!(status, 400, "{reply}");
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
    let (status, reply) = api
        .json(
            "POST",
            "/schemas/routes/validate",
            json!({ "name": "a b", "paths": ["/"], "service": { "name": "nobody" } }),
        )
        .await;
    assert_eq!((status, &reply["code"]), (400, &json!(2)));
    assert!(reply["fields"]["name"].is_string() && reply["fields"]["service"].is_null());
    for service in [
        json!({ "name": "nobody" }),
        json!({ "id": Uuid::from_u128(1) }),
    ] {
        let body = json!({ "paths": ["/"], "service": service });
        let (status, reply) = api.json("POST", "/schemas/routes/validate", body).await;
        assert_eq!(status, 200, "{reply}");
    }
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
    // A new one takes no id from another.
    let body = json!({ "id": acl["id"] });
    let (status, _) = api.json("PUT", "/consumers/yoda/acls/third", body).await;
    assert_eq!(status, 400);
    // By its id it is replaced whole.
    let url = format!("/consumers/yoda/acls/{}", acl["id"].as_str().unwrap());
    assert_eq!(api.json("PUT", &url, json!({})).await.0, 400);
    for method in ["GET", "PATCH", "DELETE"] {
        let (status, _) = api
            .json(method, "/consumers/yoda/acls/sith", json!({}))
            .await;
        assert_eq!(status, 404, "{method}");
    }
}

#[tokio::test]
async fn a_plugin_goes_by_its_instance_name() {
    let api = Api::new();
    api.json("POST", "/services", json!({ "name": "s", "host": "h" }))
        .await;
    let (status, made) = api
        .json("PUT", "/plugins/mine", json!({ "name": "key-auth" }))
        .await;
    assert_eq!((status, &made["instance_name"]), (200, &json!("mine")));
    let body = json!({ "name": "acl", "instance_name": "below", "config": { "allow": ["a"] } });
    assert_eq!(api.json("POST", "/services/s/plugins", body).await.0, 201);
    let body = json!({ "config": { "key_in_body": true } });
    let (status, changed) = api.json("PATCH", "/plugins/mine", body).await;
    assert_eq!((status, &changed["id"]), (200, &made["id"]));
    assert_eq!(changed["config"]["key_in_body"], true);
    for (url, status) in [
        ("/plugins/mine", 200),
        ("/services/s/plugins/below", 200),
        ("/services/s/plugins/mine", 404),
        ("/plugins/below/service", 200),
        ("/plugins/none", 404),
    ] {
        assert_eq!(api.get(url).await.0, status, "{url}");
    }
    assert_eq!(api.send("DELETE", "/plugins/mine", "", "").await.0, 204);
    assert_eq!(api.get("/plugins/mine").await.0, 404);
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

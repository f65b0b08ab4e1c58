//! The configuration as a whole: `/config`, workspaces and the past.

use super::*;

/// A file with two records.
fn file(host: &str) -> Value {
    json!({
        "_format_version": "3.0",
        "services": [{ "name": "s", "host": host, "routes": [{ "name": "r", "paths": ["/"] }] }],
    })
}

#[tokio::test]
async fn a_file_is_posted_compared_and_read_back() {
    let api = Api::new();
    let (status, planned) = api.json("POST", "/config?dry_run=1", file("a")).await;
    assert_eq!((status, &planned["changes"]["created"]), (200, &json!(2)));
    assert_eq!(api.get("/services").await.1["data"], json!([]));
    let (status, loaded) = api.json("POST", "/config?check_hash=1", file("a")).await;
    assert_eq!(status, 201);
    let services = loaded["services"].as_object().unwrap();
    assert_eq!(services.values().next().unwrap()["name"], "s");
    assert_eq!(
        api.json("POST", "/config?check_hash=1", file("a")).await.0,
        304
    );
    let yaml = "_format_version: \"3.0\"\nservices:\n- name: s\n  host: b\n";
    let (status, reply) = api.send("POST", "/config", "text/yaml", yaml).await;
    assert_eq!(status, 201, "{reply}");
    assert_eq!(api.get("/routes/r").await.0, 404);
    let (_, read) = api.get("/config").await;
    let text = read["config"].as_str().unwrap();
    let (status, _) = api
        .json("POST", "/config?check_hash=1", json!({ "config": text }))
        .await;
    assert_eq!(status, 304, "{text}");
    let wrong = json!({ "_format_version": "3.0", "services": [{ "name": "x" }] });
    let (status, reply) = api.json("POST", "/config", wrong.clone()).await;
    assert_eq!((status, &reply["code"]), (400, &json!(14)));
    assert_eq!(
        reply["message"],
        "declarative config is invalid: {services={{host=\"required field missing\"}}}"
    );
    let (_, reply) = api.json("POST", "/config?flatten_errors=1", wrong).await;
    assert_eq!(reply["fields"], json!({}));
    assert_eq!(reply["flattened_errors"][0]["entity_name"], "x");
    // What is wrong with elements of a list is a list, too.
    let paths =
        json!({ "_format_version": "3.0", "routes": [{ "name": "q", "paths": ["/ok", "bad"] }] });
    let (_, reply) = api.json("POST", "/config", paths).await;
    let told = &reply["fields"]["routes"][0]["paths"];
    assert!(told[0].is_null() && told[1].is_string(), "{reply}");
    let message = reply["message"].as_str().unwrap();
    assert!(message.contains("paths={[2]="), "{message}");
    for (kind, body) in [
        ("text/yaml", "- a"),
        ("text/yaml", "{"),
        ("application/json", "{}"),
    ] {
        assert_eq!(
            api.send("POST", "/config", kind, body).await.0,
            400,
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_past_is_listed_compared_and_returned_to() {
    let api = Api::new();
    api.json("POST", "/config", file("a")).await;
    api.form("PATCH", "/services/s", "host=b").await;
    let plugin = json!({ "name": "session", "config": { "secret": "geheim" } });
    api.json("POST", "/routes/r/plugins", plugin).await;
    let (_, list) = api.get("/revisions?size=2").await;
    assert_eq!(list["data"][0]["revision"], 3);
    assert_eq!(list["data"][1]["method"], "PATCH");
    assert_eq!(list["data"][1]["changes"]["updated"], 1);
    let next = list["next"].as_str().unwrap();
    let (_, rest) = api.get(next).await;
    assert_eq!(
        (&rest["data"][0]["revision"], &rest["next"]),
        (&json!(1), &Value::Null)
    );
    let (_, one) = api.get("/revisions/2").await;
    assert_eq!(
        one["data"][0]["fields"]["host"],
        json!({ "before": "a", "after": "b" })
    );
    let (_, between) = api.get("/revisions/1..3").await;
    assert_eq!(
        between["changes"],
        json!({ "created": 1, "updated": 1, "deleted": 0 })
    );
    let text = between.to_string();
    assert!(
        text.contains("config.secret") && !text.contains("geheim"),
        "{text}"
    );
    let (_, back) = api.get("/revisions/3..1").await;
    assert_eq!(back["changes"]["deleted"], 1);
    let before = api.get("/config").await.1;
    let (status, plan) = api
        .send("POST", "/revisions/1/rollback?dry_run=1", "", "")
        .await;
    assert_eq!((status, &plan["changes"]), (200, &back["changes"]));
    let (status, done) = api.send("POST", "/revisions/1/rollback", "", "").await;
    assert_eq!((status, &done["revision"]), (201, &json!(4)));
    assert_eq!(api.get("/services/s").await.1["host"], "a");
    assert_eq!(api.get("/plugins").await.1["data"], json!([]));
    assert_eq!(api.get("/revisions/1..4").await.1["data"], json!([]));
    api.send("POST", "/revisions/3/rollback", "", "").await;
    assert_eq!(api.get("/config").await.1, before);
    let (_, audit) = api.get("/audit/requests").await;
    assert_eq!(audit["data"][0]["path"], "/revisions/3/rollback");
    for (method, url, status) in [
        ("GET", "/revisions/9", 404),
        ("GET", "/revisions/x", 404),
        ("GET", "/revisions/1..9", 404),
        ("POST", "/revisions/0/rollback", 404),
        ("POST", "/revisions/9/rollback", 404),
        ("GET", "/revisions/1/rollback", 405),
        ("DELETE", "/revisions/1", 405),
        ("GET", "/revisions?offset=x", 400),
    ] {
        assert_eq!(
            api.send(method, url, "", "").await.0,
            status,
            "{method} {url}"
        );
    }
}

#[tokio::test]
async fn a_workspace_has_names_of_its_own() {
    let api = Api::new();
    let team = made(&api, "/workspaces", json!({ "name": "team" })).await;
    let theirs = json!({ "name": "s", "host": "theirs" });
    let theirs = made(&api, "/team/services", theirs).await;
    assert!(theirs.get("ws_id").is_none());
    made(&api, "/services", json!({ "name": "s", "host": "ours" })).await;
    let by_id = format!("/{}/services/{}", id(&team), id(&theirs));
    for (url, host) in [
        ("/services/s", "ours"),
        ("/default/services/s", "ours"),
        ("/team/services/s", "theirs"),
        (&*by_id, "theirs"),
    ] {
        assert_eq!(api.get(url).await.1["host"], host, "{url}");
    }
    // decK's probes.
    assert_eq!(api.get("/team/workspaces/team").await.0, 200);
    assert_eq!(
        api.get("/team/kong").await.1["version"],
        api.get("/").await.1["version"]
    );
    let none = "GET /nobody/workspaces/nobody => 404 Workspace 'nobody' not found";
    api.holds(none).await;
}

#[tokio::test]
async fn what_is_in_another_workspace_is_not_there() {
    let api = Api::new();
    // Not to be read, changed, pointed to or made again.
    let transcript = r#"
        POST /workspaces {"name": "team"} => 201
        POST /team/services {"id": "00000000-0000-0000-0000-00000000000a", "name": "s", "host": "theirs"} => 201
        GET /services/00000000-0000-0000-0000-00000000000a => 404
        PATCH /services/00000000-0000-0000-0000-00000000000a {"host": "x"} => 404
        DELETE /services/00000000-0000-0000-0000-00000000000a => 204
        POST /routes {"paths": ["/"], "service": {"id": "00000000-0000-0000-0000-00000000000a"}} => 400 code 4: the foreign key '{id="00000000-0000-0000-0000-00000000000a"}' does not reference an existing 'services' entity.
        PUT /services/00000000-0000-0000-0000-00000000000a {"host": "x"} => 400 code 3: primary key violation on key '{id="00000000-0000-0000-0000-00000000000a"}'
    "#;
    api.holds(transcript).await;
    assert_eq!(api.get("/team/services/s").await.1["host"], "theirs");
}

#[tokio::test]
async fn lists_counts_and_the_past_are_of_one_workspace() {
    let api = Api::new();
    made(&api, "/workspaces", json!({ "name": "team" })).await;
    let ours = made(&api, "/services", json!({ "name": "s", "host": "ours" })).await;
    let transcript = r#"
        POST /team/services {"name": "s", "host": "theirs"} => 201
        POST /team/consumers {"username": "c0"} => 201
        POST /team/consumers {"username": "c1"} => 201
    "#;
    api.holds(transcript).await;
    assert_eq!(api.all("/team/services?size=1").await.len(), 1);
    let (_, page) = api.get("/team/consumers?size=1").await;
    let next = page["next"].as_str().unwrap();
    assert!(next.starts_with("/team/consumers?"), "{next}");
    let (_, meta) = api.get("/workspaces/team/meta").await;
    assert_eq!(meta["counts"], json!({ "services": 1, "consumers": 2 }));
    let (_, past) = api.get("/team/revisions").await;
    assert!(!past.to_string().contains(id(&ours)));
    assert_eq!(past["data"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_file_is_for_one_workspace() {
    let api = Api::new();
    let transcript = r#"
        POST /workspaces {"name": "team"} => 201
        POST /team/consumers {"username": "c"} => 201
        POST /services {"name": "s", "host": "ours"} => 201
    "#;
    api.holds(transcript).await;
    made(&api, "/team/config", file("team")).await;
    assert_eq!(api.get("/team/consumers").await.1["data"], json!([]));
    assert_eq!(api.get("/services/s").await.1["host"], "ours");
    let (_, read) = api.get("/team/config").await;
    let file = read["config"].as_str().unwrap();
    assert!(file.contains("_workspace: team"), "{file}");
    let elsewhere = api.json("POST", "/config", json!({ "config": file })).await;
    assert_eq!(elsewhere.0, 400);
}

#[tokio::test]
async fn a_workspace_goes_only_when_it_is_empty() {
    let api = Api::new();
    api.json("POST", "/workspaces", json!({ "name": "team" }))
        .await;
    api.json(
        "POST",
        "/team/services",
        json!({ "name": "s", "host": "h" }),
    )
    .await;
    let (status, reply) = api.send("DELETE", "/workspaces/team", "", "").await;
    assert_eq!(
        (status, &reply["message"]),
        (400, &json!("Workspace is not empty"))
    );
    let (status, reply) = api
        .json("PATCH", "/workspaces/team", json!({ "name": "x" }))
        .await;
    assert_eq!(
        reply["fields"]["name"], "immutable field cannot be updated",
        "{status}"
    );
    let (status, changed) = api
        .json("PATCH", "/workspaces/default", json!({ "comment": "ours" }))
        .await;
    assert_eq!(
        (status, &changed["comment"]),
        (200, &json!("ours")),
        "{changed}"
    );
    assert_eq!(
        api.get("/workspaces").await.1["data"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    api.send("DELETE", "/team/services/s", "", "").await;
    assert_eq!(api.send("DELETE", "/workspaces/team", "", "").await.0, 204);
    assert_eq!(api.get("/team/services").await.0, 404);
    assert_eq!(
        api.send("DELETE", "/workspaces/default", "", "").await.0,
        400
    );
    for name in ["services", "rbac", "config", "a b", "key-auth"] {
        let (status, _) = api
            .json("POST", "/workspaces", json!({ "name": name }))
            .await;
        assert_eq!(
            status,
            if name == "key-auth" { status } else { 400 },
            "{name}"
        );
    }
}

#[tokio::test]
async fn files_come_in_every_kind_of_body() {
    let api = Api::new();
    let text = "_format_version: \"3.0\"\nconsumers:\n- username: yoda\n";
    let multipart = format!(
        "--xX\r\nContent-Disposition: form-data; name=\"config\"\r\n\r\n{text}\r\n--xX--\r\n"
    );
    let form: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("config", text)
        .finish();
    for (kind, body) in [
        ("application/yaml", text.to_owned()),
        ("Text/YAML; charset=utf-8", text.to_owned()),
        ("multipart/form-data; boundary=xX", multipart),
        ("application/x-www-form-urlencoded", form),
    ] {
        let (status, reply) = api.send("POST", "/config", kind, &body).await;
        assert_eq!(status, 201, "{kind}: {reply}");
    }
    let (status, reply) = api.send("POST", "/config", "", "").await;
    let said = json!({ "message": "expected a declarative configuration" });
    assert_eq!((status, reply), (400, said));
    let (status, reply) = api
        .json("POST", "/config", json!({ "config": "yoda" }))
        .await;
    assert_eq!(status, 400);
    assert_eq!(
        reply["fields"]["error"],
        "failed parsing declarative configuration: expected an object"
    );
}

#[tokio::test]
async fn protocols_of_which_none_is_known_have_one_error() {
    let api = Api::new();
    let body = json!({ "paths": ["/"], "protocols": ["nope", "ftp"] });
    let (status, reply) = api.json("POST", "/routes", body).await;
    assert_eq!(
        (status, &reply["fields"]),
        (400, &json!({ "protocols": "unknown type: nope" }))
    );
}

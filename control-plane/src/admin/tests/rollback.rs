//! What comes back: an earlier revision, and a file that says what is there already.

use super::*;
use crate::config::{Change, Stored};

/// An API and the publisher below it.
fn api() -> (Api, Publisher) {
    let entries = Kept::default();
    let broken = false;
    let publisher = Publisher::new(Config::default(), 1, Box::new(Memory { broken, entries }));
    let admin = Admin::new(publisher.clone(), Uuid::nil(), Vec::new());
    (Api(admin.router()), publisher)
}

/// Commits `record` as if an earlier version had accepted it.
fn accepted_once(publisher: &Publisher, kind: &'static str, record: &Value) -> Revision {
    let id = id(record).parse().unwrap();
    let record = Stored::of(record.as_object().unwrap());
    let change = Change {
        puts: vec![(Key { kind, id }, record)],
        removes: Vec::new(),
    };
    let now = UnixTime::from_secs(1);
    let committed = publisher.transact(&Origin::system(), now, |_, _| {
        Ok::<_, JournalFault>(change.clone())
    });
    committed.unwrap().0
}

#[tokio::test]
async fn what_would_not_be_accepted_any_more_does_not_come_back() {
    let (api, publisher) = api();
    let plugin = made(
        &api,
        "/plugins",
        json!({ "name": "acl", "config": { "allow": ["a"] } }),
    )
    .await;
    let mut old = plugin.clone();
    old["config"]["of_old"] = json!(true);
    let service = made(&api, "/services", json!({ "name": "s", "host": "h" })).await;
    let mut far = service.clone();
    far["port"] = json!(70_000);
    accepted_once(&publisher, "plugins", &old);
    let revision = accepted_once(&publisher, "services", &far);
    let url = |record: &Value, kind: &str| format!("/{kind}/{}", id(record));
    api.send("DELETE", &url(&plugin, "plugins"), "", "").await;
    api.send("DELETE", &url(&service, "services"), "", "").await;
    let before = api.get("/config").await.1;
    for query in ["", "?dry_run=1"] {
        let path = format!("/revisions/{revision}/rollback{query}");
        let (status, refused) = api.send("POST", &path, "", "").await;
        assert_eq!((status, &refused["code"]), (400, &json!(2)), "{refused}");
        assert_eq!(
            refused["fields"],
            json!({
                "plugins": { id(&plugin): { "config": { "of_old": "unknown field" } } },
                "services": { id(&service): { "port": "value should be between 0 and 65535" } },
            })
        );
        let message = refused["message"].as_str().unwrap();
        let start = format!("revision {revision} cannot be gone back to: ");
        assert!(message.starts_with(&start), "{message}");
    }
    assert_eq!(api.get("/config").await.1, before);
}

#[tokio::test]
async fn what_others_have_meanwhile_is_not_taken_from_them() {
    let (api, publisher) = api();
    made(&api, "/workspaces", json!({ "name": "team" })).await;
    made(
        &api,
        "/team/vaults",
        json!({ "name": "env", "prefix": "mine" }),
    )
    .await;
    let revision = publisher.config().revision();
    api.send("DELETE", "/team/vaults/mine", "", "").await;
    let theirs = made(&api, "/vaults", json!({ "name": "env", "prefix": "mine" })).await;
    let path = format!("/team/revisions/{revision}/rollback");
    let (status, refused) = api.send("POST", &path, "", "").await;
    assert_eq!(status, 400, "{refused}");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("uniqueness violation"),
        "{refused}"
    );
    assert_eq!(api.get("/vaults/mine").await.1, theirs);
}

#[tokio::test]
async fn a_workspace_that_goes_by_a_rollback_leaves_no_permission_for_the_next_of_its_name() {
    let (api, publisher) = api();
    let revision = {
        made(&api, "/services", json!({ "name": "s", "host": "h" })).await;
        publisher.config().revision()
    };
    made(&api, "/workspaces", json!({ "name": "team" })).await;
    made(&api, "/rbac/roles", json!({ "name": "r" })).await;
    let endpoint = json!({ "workspace": "team", "endpoint": "*", "actions": "read" });
    made(&api, "/rbac/roles/r/endpoints", endpoint).await;
    let path = format!("/revisions/{revision}/rollback");
    let (status, done) = api.send("POST", &path, "", "").await;
    assert_eq!(status, 201, "{done}");
    assert_eq!(api.get("/workspaces/team").await.0, 404);
    assert_eq!(
        api.get("/rbac/roles/r/endpoints").await.1["data"],
        json!([])
    );
}

/// Records of most kinds, with secrets, members and names.
async fn filled() -> (Api, Publisher) {
    let (api, publisher) = api();
    made(&api, "/services", json!({ "name": "s", "host": "u" })).await;
    made(
        &api,
        "/services/s/routes",
        json!({ "name": "r", "paths": ["/"] }),
    )
    .await;
    made(&api, "/routes/r/plugins", json!({ "name": "key-auth" })).await;
    made(&api, "/consumers", json!({ "username": "c" })).await;
    made(
        &api,
        "/consumers/c/basic-auth",
        json!({ "username": "c", "password": "geheim" }),
    )
    .await;
    made(&api, "/consumers/c/key-auth", json!({})).await;
    made(&api, "/consumers/c/acls", json!({ "group": "g" })).await;
    made(&api, "/consumer_groups", json!({ "name": "g" })).await;
    made(
        &api,
        "/consumer_groups/g/consumers",
        json!({ "consumer": "c" }),
    )
    .await;
    made(&api, "/upstreams", json!({ "name": "u" })).await;
    made(
        &api,
        "/upstreams/u/targets",
        json!({ "target": "127.0.0.1:1" }),
    )
    .await;
    made(&api, "/vaults", json!({ "name": "env", "prefix": "mine" })).await;
    made(&api, "/key-sets", json!({ "name": "k" })).await;
    (api, publisher)
}

#[tokio::test]
async fn everything_goes_and_comes_back_as_it_was() {
    let (api, publisher) = filled().await;
    let (full, before) = (publisher.config().revision(), api.get("/config").await.1);
    let (_, password) = api.get("/consumers/c/basic-auth").await;
    let (status, reply) = api.send("POST", "/revisions/1/rollback", "", "").await;
    assert_eq!(status, 201, "{reply}");
    assert_eq!(api.get("/services/s").await.0, 200);
    assert_eq!(api.get("/consumers/c").await.0, 404);
    let path = format!("/revisions/{full}/rollback");
    let (status, reply) = api.send("POST", &path, "", "").await;
    assert_eq!(status, 201, "{reply}");
    assert_eq!(api.get("/config").await.1, before);
    assert_eq!(api.get("/consumers/c/basic-auth").await.1, password);
}

#[tokio::test]
async fn a_file_that_says_what_is_there_changes_nothing_not_even_a_hashed_password() {
    let (api, publisher) = filled().await;
    let revision = publisher.config().revision();
    let (_, exported) = api.get("/config").await;
    let (status, reply) = api
        .json("POST", "/config?check_hash=1", exported.clone())
        .await;
    assert_eq!(status, 304, "{reply}");
    let (status, plan) = api
        .json("POST", "/config?dry_run=1", exported.clone())
        .await;
    assert_eq!((status, &plan["data"]), (200, &json!([])));
    assert_eq!(publisher.config().revision(), revision);
    // A file with another password is one: it is hashed, unless the file says that it holds hashes.
    let text = exported["config"].as_str().unwrap();
    let (_, stored) = api.get("/basic-auths").await;
    let hash = stored["data"][0]["password"].as_str().unwrap();
    let file = text.replace(hash, "another");
    let (status, reply) = api.send("POST", "/config", "text/yaml", &file).await;
    assert_eq!(status, 400);
    assert!(reply["message"].as_str().unwrap().contains("_transform"));
    let file = file.replace("_transform: false\n", "");
    let (status, _) = api.send("POST", "/config", "text/yaml", &file).await;
    assert_eq!(status, 201);
    let (_, changed) = api.get("/basic-auths").await;
    let changed = changed["data"][0]["password"].as_str().unwrap();
    assert!(changed != hash && changed != "another", "{changed}");
}

#[tokio::test]
async fn what_may_be_a_secret_is_in_no_difference() {
    let api = Api::new();
    made(&api, "/consumers", json!({ "username": "c" })).await;
    let key = json!({ "key": "CANARY-key" });
    made(&api, "/consumers/c/key-auth", key).await;
    for (name, config) in [
        (
            "opentelemetry",
            json!({ "endpoint": "http://a.test/", "headers": { "Authorization": "CANARY" } }),
        ),
        (
            "zipkin",
            json!({ "http_endpoint": "http://u:CANARY@a.test/" }),
        ),
        (
            "request-transformer",
            json!({ "add": { "headers": ["authorization:CANARY"] } }),
        ),
        (
            "openid-connect",
            json!({
                "issuer": "https://op.test", "client_id": ["x"],
                "token_headers_names": ["a"], "token_headers_values": ["CANARY"],
                "token_post_args_names": ["a"], "token_post_args_values": ["CANARY"],
            }),
        ),
        (
            "rate-limiting",
            json!({
                "minute": 1, "policy": "redis",
                "redis": { "host": "r.test", "username": "CANARY", "password": "CANARY" },
            }),
        ),
    ] {
        let plugin = json!({ "name": name, "config": config });
        made(&api, "/plugins", plugin).await;
    }
    let (_, newest) = api.get("/revisions?size=1").await;
    let newest = newest["data"][0]["revision"].as_u64().unwrap();
    let mut pages = vec![format!("/revisions/1..{newest}")];
    pages.extend((1..=newest).map(|revision| format!("/revisions/{revision}")));
    for page in pages {
        let (status, shown) = api.get(&page).await;
        let text = shown.to_string();
        assert!(status == 200 && !text.contains("CANARY"), "{page}: {text}");
        if page.contains("..") {
            for named in ["authorization:[redacted]", "token_headers_values"] {
                assert!(text.contains(named), "{named}: {text}");
            }
        }
    }
}

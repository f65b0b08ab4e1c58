//! What a role forbids.

use super::*;

#[tokio::test]
async fn what_is_forbidden_by_name_is_so_however_one_comes_by_it() {
    let api = Api::guarded();
    let all = json!("read,create,update,delete");
    for (url, body) in [
        ("/workspaces", json!({ "name": "team" })),
        ("/team/services", json!({ "name": "secret", "host": "s" })),
        ("/team/services", json!({ "name": "open", "host": "o" })),
        (
            "/team/services/secret/routes",
            json!({ "name": "r", "paths": ["/r"], "tags": ["t"] }),
        ),
        (
            "/team/services/open/routes",
            json!({ "name": "hidden", "paths": ["/h"], "tags": ["t"] }),
        ),
        ("/team/consumers", json!({ "username": "c" })),
        ("/team/consumers/c/acls", json!({ "group": "g" })),
        ("/rbac/roles", json!({ "name": "ta" })),
        ("/rbac/roles", json!({ "name": "config" })),
    ] {
        let (status, reply) = api.ask(OWNER, "POST", url, body).await;
        assert_eq!(status, 201, "{url}: {reply}");
    }
    for (role, endpoint, actions, negative) in [
        ("ta", "*", all.clone(), false),
        ("ta", "/services/secret", all.clone(), true),
        ("ta", "/services/*/plugins", json!("read"), false),
        ("ta", "/services/open/routes/hidden", json!("read"), true),
        ("ta", "/consumers/c/acls/g", json!("delete"), true),
        ("ta", "/plugins", json!("create"), true),
        ("config", "/config", json!("read,create"), false),
    ] {
        let endpoint = json!({
            "workspace": "team", "endpoint": endpoint, "actions": actions, "negative": negative,
        });
        let url = format!("/rbac/roles/{role}/endpoints");
        let (status, reply) = api.ask(OWNER, "POST", &url, endpoint).await;
        assert_eq!(status, 201, "{reply}");
    }
    let bob = api.user("bob", "ta").await;
    let eve = api.user("eve", "ta,config").await;
    let id = |url: &'static str| {
        let asked = api.ask(OWNER, "GET", url, Value::Null);
        async move { asked.await.1["id"].as_str().unwrap().to_owned() }
    };
    let secret = id("/team/services/secret").await;
    let hidden = id("/team/routes/hidden").await;
    let acl = id("/team/consumers/c/acls/g").await;
    let plugin = json!({ "name": "cors" });
    for (method, url, body, expected) in [
        ("GET", "/services/secret".to_owned(), json!({}), 403),
        ("GET", format!("/services/{secret}"), json!({}), 403),
        (
            "PATCH",
            format!("/services/{secret}"),
            json!({ "port": 9 }),
            403,
        ),
        (
            "PUT",
            format!("/services/{secret}"),
            json!({ "host": "x" }),
            403,
        ),
        ("DELETE", format!("/services/{secret}"), json!({}), 403),
        ("GET", "/services/secret/routes".to_owned(), json!({}), 403),
        (
            "POST",
            format!("/services/{secret}/routes"),
            json!({ "paths": ["/n"] }),
            403,
        ),
        ("GET", "/routes/r/service".to_owned(), json!({}), 403),
        (
            "PATCH",
            "/routes/r/service".to_owned(),
            json!({ "port": 9 }),
            403,
        ),
        ("GET", format!("/routes/{hidden}"), json!({}), 403),
        (
            "GET",
            format!("/services/open/routes/{hidden}"),
            json!({}),
            403,
        ),
        (
            "PATCH",
            "/routes/hidden".to_owned(),
            json!({ "paths": ["/i"] }),
            200,
        ),
        ("DELETE", format!("/consumers/c/acls/{acl}"), json!({}), 403),
        ("DELETE", format!("/acls/{acl}"), json!({}), 403),
        // A way that is permitted by itself is one; the collection that is closed is closed from every side.
        ("GET", "/services/secret/plugins".to_owned(), json!({}), 200),
        (
            "POST",
            "/services/open/plugins".to_owned(),
            plugin.clone(),
            403,
        ),
        (
            "PUT",
            format!("/plugins/{}", Uuid::from_u128(5)),
            plugin.clone(),
            403,
        ),
        ("GET", "/plugins".to_owned(), json!({}), 200),
        // What tells of everything, or replaces it.
        (
            "POST",
            "/config".to_owned(),
            json!({ "_format_version": "3.0" }),
            403,
        ),
        ("GET", "/revisions".to_owned(), json!({}), 403),
        ("GET", "/audit/requests".to_owned(), json!({}), 403),
        ("POST", "/revisions/1/rollback".to_owned(), json!({}), 403),
        (
            "PATCH",
            "/services/open".to_owned(),
            json!({ "port": 9 }),
            200,
        ),
        ("GET", "/services/nothing".to_owned(), json!({}), 404),
    ] {
        let url = format!("/team{url}");
        let (status, reply) = api.ask(&bob, method, &url, body).await;
        assert_eq!(status, expected, "{method} {url}: {reply}");
    }
    // Lists leave it out, for those who may not know of it.
    for (url, names) in [
        ("/team/services", "open"),
        ("/team/routes", "r"),
        ("/team/services/open/routes", ""),
        ("/team/consumers", "c"),
    ] {
        let (status, list) = api.ask(&bob, "GET", url, Value::Null).await;
        let data = list["data"].as_array().unwrap().iter();
        let name = |one: &Value| {
            let name = one["name"].as_str().or(one["username"].as_str());
            name.unwrap_or_default().to_owned()
        };
        let shown: Vec<String> = data.map(name).collect();
        assert_eq!((status, shown.join(" ").as_str()), (200, names), "{url}");
    }
    let (_, tagged) = api.ask(&bob, "GET", "/team/tags/t", Value::Null).await;
    assert_eq!(tagged["data"].as_array().unwrap().len(), 1, "{tagged}");
    for token in [&bob, &eve] {
        let (status, file) = api.ask(token, "GET", "/team/config", Value::Null).await;
        let text = file["config"].as_str().unwrap();
        assert_eq!(status, 200);
        assert!(
            text.contains("name: open") && !text.contains("name: secret"),
            "{text}"
        );
    }
    // Whoever is given the whole by its own path may replace it.
    let whole = json!({ "_format_version": "3.0", "services": [{ "name": "only", "host": "o" }] });
    let (status, reply) = api.ask(&eve, "POST", "/team/config", whole).await;
    assert_eq!(status, 201, "{reply}");
    // Users and roles go by their names and ids, too.
    let bobs = id("/rbac/users/bob").await;
    let endpoint = |endpoint: &str, actions: &str, negative: bool| json!({ "workspace": "*", "endpoint": endpoint, "actions": actions, "negative": negative });
    api.ask(OWNER, "POST", "/rbac/roles", json!({ "name": "people" }))
        .await;
    for (path, negative) in [("*", false), ("/rbac/users/bob", true)] {
        let url = "/rbac/roles/people/endpoints";
        let made = api
            .ask(OWNER, "POST", url, endpoint(path, "*", negative))
            .await;
        assert_eq!(made.0, 201, "{made:?}");
    }
    let ann = api.user("ann", "people").await;
    for (method, url, expected) in [
        ("GET", "/rbac/users/bob".to_owned(), 403),
        ("PATCH", format!("/rbac/users/{bobs}"), 403),
        ("GET", format!("/rbac/users/{bobs}/roles"), 403),
        ("GET", "/rbac/users/eve/roles".to_owned(), 200),
    ] {
        let (status, reply) = api.ask(&ann, method, &url, json!({})).await;
        assert_eq!(status, expected, "{method} {url}: {reply}");
    }
    let (_, list) = api.ask(&ann, "GET", "/rbac/users", Value::Null).await;
    assert!(!list.to_string().contains("\"bob\""), "{list}");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn what_a_body_points_to_is_judged_as_what_a_path_leads_through() {
    let api = Api::guarded();
    for (url, body) in [
        ("/workspaces", json!({ "name": "team" })),
        ("/team/services", json!({ "name": "secret", "host": "s" })),
        ("/team/services", json!({ "name": "open", "host": "o" })),
        (
            "/team/services/secret/routes",
            json!({ "name": "old", "paths": ["/old"] }),
        ),
        ("/team/services/open/plugins", json!({ "name": "cors" })),
        ("/team/consumers", json!({ "username": "c" })),
        ("/team/consumer_groups", json!({ "name": "vip" })),
        ("/team/consumer_groups", json!({ "name": "all" })),
        ("/rbac/roles", json!({ "name": "team" })),
        ("/rbac/roles", json!({ "name": "people" })),
    ] {
        let (status, reply) = api.ask(OWNER, "POST", url, body).await;
        assert_eq!(status, 201, "{url}: {reply}");
    }
    for (role, workspace, endpoint, actions, negative) in [
        ("team", "team", "*", "*", false),
        ("team", "team", "/services/secret", "*", true),
        ("team", "team", "/consumer_groups/vip", "read", true),
        ("people", "*", "*", "*", false),
        ("people", "*", "/rbac/roles/super-admin", "create", true),
    ] {
        let body = json!({
            "workspace": workspace, "endpoint": endpoint, "actions": actions, "negative": negative,
        });
        let url = format!("/rbac/roles/{role}/endpoints");
        let (status, reply) = api.ask(OWNER, "POST", &url, body).await;
        assert_eq!(status, 201, "{reply}");
    }
    let bob = api.user("bob", "team").await;
    let ann = api.user("ann", "people").await;
    let secret = api
        .ask(OWNER, "GET", "/team/services/secret", Value::Null)
        .await;
    let secret = json!({ "id": secret.1["id"] });
    let (_, plugins) = api.ask(OWNER, "GET", "/team/plugins", Value::Null).await;
    let plugin = format!(
        "/team/plugins/{}",
        plugins["data"][0]["id"].as_str().unwrap()
    );
    let route = |service: Value| json!({ "name": "new", "paths": ["/new"], "service": service });
    for (token, method, url, body, expected) in [
        (
            &bob,
            "POST",
            "/team/routes",
            route(json!({ "name": "secret" })),
            Some("service"),
        ),
        (
            &bob,
            "POST",
            "/team/routes",
            route(secret.clone()),
            Some("service"),
        ),
        (
            &bob,
            "PUT",
            "/team/routes/new",
            route(secret.clone()),
            Some("service"),
        ),
        (
            &bob,
            "POST",
            "/team/routes",
            route(json!({ "name": "open" })),
            None,
        ),
        (
            &bob,
            "PATCH",
            "/team/routes/new",
            json!({ "service": secret }),
            Some("service"),
        ),
        (
            &bob,
            "PATCH",
            &*plugin,
            json!({ "service": secret }),
            Some("service"),
        ),
        // It was so before.
        (
            &bob,
            "PATCH",
            "/team/routes/old",
            json!({ "tags": ["t"] }),
            None,
        ),
        (
            &bob,
            "PUT",
            "/team/routes/old",
            json!({ "paths": ["/o"], "service": secret }),
            None,
        ),
        // What may not be read is not to be seen through a record that points to it.
        (
            &bob,
            "POST",
            "/team/consumers/c/consumer_groups",
            json!({ "group": "vip" }),
            Some("consumer_group"),
        ),
        (
            &bob,
            "POST",
            "/team/consumers/c/consumer_groups",
            json!({ "group": "all" }),
            None,
        ),
        (
            &ann,
            "POST",
            "/rbac/users/bob/roles",
            json!({ "roles": "read-only,super-admin" }),
            Some("role"),
        ),
        (
            &ann,
            "POST",
            "/rbac/users/bob/roles",
            json!({ "roles": "read-only" }),
            None,
        ),
    ] {
        let (status, reply) = api.ask(token, method, url, body.clone()).await;
        match expected {
            None => assert!(status < 300, "{method} {url} {body}: {status} {reply}"),
            Some(field) => {
                let end = format!("you do not have permissions to use what '{field}' points to");
                let message = reply["message"].as_str().unwrap_or_default();
                assert!(
                    status == 403 && message.ends_with(&end),
                    "{method} {url} {body}: {status} {reply}"
                );
            }
        }
    }
    let (_, roles) = api
        .ask(OWNER, "GET", "/rbac/users/bob/roles", Value::Null)
        .await;
    assert!(!roles.to_string().contains("super-admin"), "{roles}");
}

#[tokio::test]
async fn who_may_not_change_a_target_may_not_mark_it_either() {
    let api = Api::guarded();
    let target = |address: &str| json!({ "target": address });
    for (url, body) in [
        ("/upstreams", json!({ "name": "u" })),
        ("/upstreams", json!({ "name": "shut" })),
        ("/upstreams/u/targets", target("10.0.0.1:80")),
        ("/upstreams/u/targets", target("10.0.0.2:80")),
        ("/upstreams/shut/targets", target("10.0.0.3:80")),
        ("/rbac/roles", json!({ "name": "ta" })),
    ] {
        let (status, reply) = api.ask(OWNER, "POST", url, body).await;
        assert_eq!(status, 201, "{url}: {reply}");
    }
    let all = "read,create,update,delete";
    for (endpoint, actions, negative) in [
        ("*", all, false),
        ("/upstreams/u/targets/10.0.0.1:80", "update", true),
        ("/upstreams/shut", all, true),
    ] {
        let endpoint = json!({ "endpoint": endpoint, "actions": actions, "negative": negative });
        let (status, reply) = api
            .ask(OWNER, "POST", "/rbac/roles/ta/endpoints", endpoint)
            .await;
        assert_eq!(status, 201, "{reply}");
    }
    let bob = api.user("bob", "ta").await;
    let id = async |url: &str| {
        let (_, found) = api.ask(OWNER, "GET", url, Value::Null).await;
        found["id"].as_str().unwrap().to_owned()
    };
    let kept = id("/upstreams/u/targets/10.0.0.1:80").await;
    let shut = id("/upstreams/shut").await;
    // This control plane has no nodes to tell, which whoever may mark learns.
    for (url, expected) in [
        (format!("/upstreams/u/targets/{kept}/unhealthy"), 403),
        (format!("/upstreams/u/targets/{kept}/10.0.0.1/healthy"), 403),
        ("/upstreams/u/targets/10.0.0.1:80/healthy".to_owned(), 403),
        (
            format!("/upstreams/{shut}/targets/10.0.0.3:80/healthy"),
            403,
        ),
        ("/upstreams/u/targets/10.0.0.2:80/healthy".to_owned(), 404),
    ] {
        let (status, reply) = api.ask(&bob, "PUT", &url, json!({})).await;
        assert_eq!(status, expected, "{url}: {reply}");
    }
}

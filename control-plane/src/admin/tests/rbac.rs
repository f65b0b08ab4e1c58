//! Tokens, users and roles.

mod prohibitions;

use super::*;

/// The token of the file.
const OWNER: &str = "owner-owner-owner-owner";

impl Api {
    /// An API that asks for tokens.
    fn guarded() -> Self {
        let entries = Kept::default();
        let broken = false;
        let publisher = Publisher::new(Config::default(), 1, Box::new(Memory { broken, entries }));
        let admin = Admin::new(publisher, Uuid::nil(), Vec::new());
        Self(admin.with_access(Access::enforced(Some(OWNER))).router())
    }

    async fn ask(&self, token: &str, method: &str, url: &str, body: Value) -> (u16, Value) {
        let request = http::Request::builder()
            .method(method)
            .uri(url)
            .header("content-type", "application/json")
            .header("kong-admin-token", token)
            .body(HttpBody::from(if body.is_null() {
                String::new()
            } else {
                body.to_string()
            }))
            .unwrap();
        let response = self.0.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// A user with `roles`; returns the token.
    async fn user(&self, name: &str, roles: &str) -> String {
        let (status, user) = self
            .ask(OWNER, "POST", "/rbac/users", json!({ "name": name }))
            .await;
        assert_eq!(status, 201, "{user}");
        let url = format!("/rbac/users/{name}/roles");
        let (status, reply) = self
            .ask(OWNER, "POST", &url, json!({ "roles": roles }))
            .await;
        assert_eq!(status, 201, "{reply}");
        user["user_token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn nobody_without_a_good_token_is_told_anything() {
    let api = Api::guarded();
    for url in [
        "/",
        "/services",
        "/status",
        "/nothing",
        "/rbac/users",
        "/team/services",
    ] {
        for (status, reply) in [
            api.get(url).await,
            api.ask("wrong-wrong-wrong", "GET", url, Value::Null).await,
            api.ask("", "POST", url, json!({})).await,
        ] {
            assert_eq!(status, 401, "{url}");
            assert_eq!(reply["message"], "Invalid RBAC credentials");
        }
    }
    assert_eq!(api.send("OPTIONS", "/services", "", "").await.0, 204);
    assert_eq!(
        api.send("OPTIONS", "/services/x/routes", "", "").await.0,
        204
    );
    let (status, root) = api.ask(OWNER, "GET", "/", Value::Null).await;
    assert_eq!(
        (status, &root["configuration"]["rbac"]),
        (200, &json!("on"))
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn roles_permit_what_they_say() {
    let api = Api::guarded();
    let admin = api.user("ann", "admin").await;
    let reader = api.user("bob", "read-only").await;
    let nobody = api.user("eve", "").await;
    let service = json!({ "name": "s", "host": "h" });
    let (status, reply) = api.ask(&reader, "POST", "/services", service.clone()).await;
    assert_eq!(status, 403);
    assert_eq!(
        reply["message"],
        "bob, you do not have permissions to create this resource"
    );
    assert_eq!(api.ask(&admin, "POST", "/services", service).await.0, 201);
    assert_eq!(
        api.ask(&reader, "GET", "/services/s", Value::Null).await.0,
        200
    );
    assert_eq!(
        api.ask(&reader, "PUT", "/services/s", json!({ "host": "h" }))
            .await
            .0,
        403
    );
    assert_eq!(
        api.ask(&reader, "DELETE", "/services/s", Value::Null)
            .await
            .0,
        403
    );
    assert_eq!(
        api.ask(&nobody, "GET", "/services", Value::Null).await.0,
        403
    );
    for url in [
        "/rbac/users",
        "/rbac/roles/admin/endpoints",
        "/rbac/users/bob/roles",
    ] {
        assert_eq!(
            api.ask(&admin, "GET", url, Value::Null).await.0,
            403,
            "{url}"
        );
        assert_eq!(
            api.ask(&admin, "POST", url, json!({ "name": "x" })).await.0,
            403,
            "{url}"
        );
    }
    // Who did it is kept, with the change.
    let (_, past) = api
        .ask(&admin, "GET", "/revisions?size=1", Value::Null)
        .await;
    assert_eq!(past["data"][0]["user"], "ann");
    let (_, audit) = api.ask(&admin, "GET", "/audit/requests", Value::Null).await;
    let (refused, done): (Vec<&Value>, Vec<&Value>) = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .partition(|one| one["refused"] == true);
    assert_eq!(done[0]["rbac_user_name"], "ann");
    assert_eq!(done[1]["rbac_user_name"], "kong_admin");
    // So is who tried in vain.
    assert!(
        refused.iter().any(|one| {
            (&one["rbac_user_name"], &one["method"], &one["status"])
                == (&json!("bob"), &json!("DELETE"), &json!(403))
        }),
        "{refused:?}"
    );
    // A token is shown once, and its hash never.
    for url in [
        "/rbac/users/ann",
        "/rbac/users",
        "/rbac/users/ann/roles",
        "/revisions/1",
        "/userinfo",
    ] {
        let (status, reply) = api.ask(OWNER, "GET", url, Value::Null).await;
        assert_eq!(status, 200, "{url}");
        let text = reply.to_string();
        assert!(
            !text.contains("sha256:") && !text.contains(&admin),
            "{text}"
        );
    }
    let (_, me) = api.ask(&reader, "GET", "/userinfo", Value::Null).await;
    assert_eq!(me["message"], Value::Null, "{me}");
    assert_eq!(
        me["permissions"]["endpoints"]["*"]["*"]["actions"],
        json!(["read"])
    );
    // Disabled, without the role, with another token, gone.
    api.ask(
        OWNER,
        "PATCH",
        "/rbac/users/ann",
        json!({ "enabled": false }),
    )
    .await;
    assert_eq!(api.ask(&admin, "GET", "/", Value::Null).await.0, 401);
    api.ask(
        OWNER,
        "DELETE",
        "/rbac/users/bob/roles",
        json!({ "roles": ["read-only"] }),
    )
    .await;
    assert_eq!(api.ask(&reader, "GET", "/", Value::Null).await.0, 403);
    let new = json!({ "user_token": "another-another-another" });
    let (_, shown) = api.ask(OWNER, "PATCH", "/rbac/users/bob", new).await;
    assert!(shown.get("user_token").is_none());
    assert_eq!(api.ask(&reader, "GET", "/", Value::Null).await.0, 401);
    assert_eq!(
        api.ask(OWNER, "DELETE", "/rbac/users/eve", Value::Null)
            .await
            .0,
        204
    );
    assert_eq!(api.ask(&nobody, "GET", "/", Value::Null).await.0, 401);
    for (method, url, body, status) in [
        (
            "POST",
            "/rbac/users",
            json!({ "name": "weak", "user_token": "short" }),
            400,
        ),
        ("POST", "/rbac/users", json!({ "name": "bob" }), 409),
        (
            "POST",
            "/rbac/users/bob/roles",
            json!({ "roles": "nothing" }),
            400,
        ),
        ("DELETE", "/rbac/roles/super-admin", Value::Null, 400),
        ("PUT", "/rbac/roles/super-admin", json!({}), 400),
        ("PUT", "/rbac/users/bob", json!({}), 405),
        (
            "PUT",
            "/rbac/roles/0c1293f0-a346-49ef-9c3b-39e89c7486c1",
            json!({ "name": "admin" }),
            409,
        ),
        (
            "PUT",
            "/rbac/roles/0c1293f0-a346-49ef-9c3b-39e89c7486c1",
            json!({ "name": "mine", "comment": "made by decK" }),
            200,
        ),
        ("GET", "/rbac/roles/mine", Value::Null, 200),
        (
            "POST",
            "/rbac/roles/admin/endpoints",
            json!({ "endpoint": "*", "actions": "*" }),
            400,
        ),
        ("GET", "/rbac/users/nobody", Value::Null, 404),
        ("GET", "/rbac_users", Value::Null, 404),
    ] {
        assert_eq!(
            api.ask(OWNER, method, url, body).await.0,
            status,
            "{method} {url}"
        );
    }
}

#[tokio::test]
async fn a_role_for_one_workspace_ends_at_it() {
    let api = Api::guarded();
    api.ask(OWNER, "POST", "/workspaces", json!({ "name": "team" }))
        .await;
    api.ask(OWNER, "POST", "/workspaces", json!({ "name": "other" }))
        .await;
    api.ask(
        OWNER,
        "POST",
        "/rbac/roles",
        json!({ "name": "team-admin" }),
    )
    .await;
    let everything = json!({ "workspace": "team", "endpoint": "*", "actions": "*" });
    let (status, _) = api
        .ask(
            OWNER,
            "POST",
            "/rbac/roles/team-admin/endpoints",
            everything,
        )
        .await;
    assert_eq!(status, 201);
    let token = api.user("tom", "team-admin").await;
    for (method, url, status) in [
        ("POST", "/team/services", 201),
        ("GET", "/team/services/s", 200),
        ("GET", "/team/workspaces/team", 200),
        ("GET", "/team/kong", 200),
        ("GET", "/team/config", 200),
        ("GET", "/team/revisions", 200),
        ("GET", "/services", 403),
        ("GET", "/other/services", 403),
        ("GET", "/workspaces", 403),
        ("GET", "/team/workspaces", 403),
        ("GET", "/team/workspaces/other", 403),
        ("PATCH", "/team/workspaces/team", 403),
        ("GET", "/team/rbac/users", 403),
        ("GET", "/revisions", 403),
        ("GET", "/revisions/1..2", 403),
        ("POST", "/revisions/1/rollback", 403),
        ("POST", "/team/ca_certificates", 403),
        ("DELETE", "/team/openid-connect/jwks", 403),
        ("DELETE", "/team/openid-connect/issuers", 403),
        ("GET", "/team/openid-connect/issuers", 200),
        ("GET", "/clustering/data-planes", 403),
    ] {
        let body = if method == "POST" {
            json!({ "name": "s", "host": "h" })
        } else {
            json!({})
        };
        let (answered, reply) = api.ask(&token, method, url, body).await;
        assert_eq!(answered, status, "{method} {url}: {reply}");
    }
    let url = "/rbac/roles/team-admin/endpoints/team/*";
    let less = json!({ "actions": "read" });
    assert_eq!(api.ask(OWNER, "PATCH", url, less).await.0, 200);
    assert_eq!(
        api.ask(&token, "DELETE", "/team/services/s", Value::Null)
            .await
            .0,
        403
    );
    // Who takes the name of a workspace that is gone does not take its permissions.
    api.ask(OWNER, "DELETE", "/workspaces/other", Value::Null)
        .await;
    let (_, permissions) = api
        .ask(OWNER, "GET", "/rbac/users/tom/permissions", Value::Null)
        .await;
    assert_eq!(
        permissions["endpoints"]["team"]["*"]["actions"],
        json!(["read"])
    );
}

#[tokio::test]
async fn a_rollback_gives_nobody_back_what_was_taken() {
    let api = Api::guarded();
    let token = api.user("ann", "super-admin").await;
    let (_, list) = api
        .ask(OWNER, "GET", "/revisions?size=1", Value::Null)
        .await;
    let revision = list["data"][0]["revision"].as_u64().unwrap();
    api.ask(OWNER, "DELETE", "/rbac/users/ann", Value::Null)
        .await;
    let url = format!("/revisions/{revision}/rollback");
    assert_eq!(api.ask(OWNER, "POST", &url, Value::Null).await.0, 201);
    assert_eq!(api.ask(&token, "GET", "/", Value::Null).await.0, 401);
}

#[tokio::test]
async fn what_would_not_be_enforced_is_not_taken() {
    let api = Api::new();
    made(&api, "/rbac/roles", json!({ "name": "r" })).await;
    let (status, list) = api.get("/rbac/roles/r/entities").await;
    assert_eq!((status, &list["data"]), (200, &json!([])));
    let entity = json!({ "entity_id": Uuid::nil(), "actions": "read" });
    for (method, url, status, named) in [
        (
            "POST",
            "/rbac/roles/r/entities",
            400,
            "/rbac/roles/{role}/endpoints",
        ),
        ("POST", "/rbac/roles/none/entities", 404, "Not found"),
        (
            "PUT",
            "/consumer_groups/g/overrides/plugins/rate-limiting-advanced",
            404,
            "/consumer_groups/{group}/plugins",
        ),
    ] {
        let (got, reply) = api.json(method, url, entity.clone()).await;
        let message = reply["message"].as_str().unwrap();
        assert!(
            got == status && message.contains(named),
            "{method} {url}: {got} {reply}"
        );
    }
}

#[tokio::test]
async fn a_role_is_given_once_and_to_a_user_that_there_is() {
    let api = Api::guarded();
    api.user("ann", "read-only").await;
    let none = json!({ "message": "No RBAC user by name or id dne" });
    for (method, user, roles, status, expected) in [
        ("POST", "dne", "read-only", 404, none.clone()),
        ("GET", "dne", "", 404, none.clone()),
        ("DELETE", "dne", "read-only", 404, none),
        (
            "POST",
            "ann",
            "admin,read-only",
            400,
            json!({ "roles": "the user has the role 'read-only' already" }),
        ),
    ] {
        let url = format!("/rbac/users/{user}/roles");
        let (got, reply) = api
            .ask(OWNER, method, &url, json!({ "roles": roles }))
            .await;
        let told = reply.get("fields").unwrap_or(&reply);
        assert_eq!((got, told), (status, &expected), "{method} {url}");
    }
    // Nothing of what is refused is done.
    let (_, held) = api
        .ask(OWNER, "GET", "/rbac/users/ann/roles", Value::Null)
        .await;
    assert_eq!(held["roles"].as_array().unwrap().len(), 1, "{held}");
    // Taken twice is taken.
    for _ in 0..2 {
        let roles = json!({ "roles": "read-only" });
        let taken = api
            .ask(OWNER, "DELETE", "/rbac/users/ann/roles", roles)
            .await;
        assert_eq!(taken.0, 204);
    }
}

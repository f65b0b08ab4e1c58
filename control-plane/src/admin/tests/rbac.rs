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
            api.ask("wrong-wrong-wrong", "GET", url, "").await,
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
    let (status, root) = api.ask(OWNER, "GET", "/", "").await;
    assert_eq!(
        (status, &root["configuration"]["rbac"]),
        (200, &json!("on"))
    );
}

#[tokio::test]
async fn roles_permit_what_they_say() {
    let api = Api::guarded();
    let admin = api.user("ann", "admin").await;
    let reader = api.user("bob", "read-only").await;
    let nobody = api.user("eve", "").await;
    let transcript = r#"
        POST /services {"name": "s", "host": "h"} => 403 bob, you do not have permissions to create this resource
    "#;
    api.holds_for(&reader, transcript).await;
    let transcript = r#"
        POST /services {"name": "s", "host": "h"} => 201
        GET /rbac/users => 403
        POST /rbac/users {"name": "x"} => 403
        GET /rbac/roles/admin/endpoints => 403
        POST /rbac/roles/admin/endpoints {"name": "x"} => 403
        GET /rbac/users/bob/roles => 403
        POST /rbac/users/bob/roles {"name": "x"} => 403
    "#;
    api.holds_for(&admin, transcript).await;
    let transcript = r#"
        GET /services/s => 200
        PUT /services/s {"host": "h"} => 403
        DELETE /services/s => 403
    "#;
    api.holds_for(&reader, transcript).await;
    api.holds_for(&nobody, "GET /services => 403").await;
    let (_, me) = api.ask(&reader, "GET", "/userinfo", "").await;
    assert_eq!(me["message"], Value::Null, "{me}");
    assert_eq!(
        me["permissions"]["endpoints"]["*"]["*"]["actions"],
        json!(["read"])
    );
}

#[tokio::test]
async fn who_changed_something_is_kept_and_who_tried_in_vain() {
    let api = Api::guarded();
    let admin = api.user("ann", "admin").await;
    let reader = api.user("bob", "read-only").await;
    let creation = r#"POST /services {"name": "s", "host": "h"} => 201"#;
    api.holds_for(&admin, creation).await;
    api.holds_for(&reader, "DELETE /services/s => 403").await;
    let (_, past) = api.ask(&admin, "GET", "/revisions?size=1", "").await;
    assert_eq!(past["data"][0]["user"], "ann");
    let (_, audit) = api.ask(&admin, "GET", "/audit/requests", "").await;
    let (refused, done): (Vec<&Value>, Vec<&Value>) = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .partition(|one| one["refused"] == true);
    assert_eq!(done[0]["rbac_user_name"], "ann");
    assert_eq!(done[1]["rbac_user_name"], "kong_admin");
    let [refused] = refused.as_slice() else {
        panic!("{refused:?}");
    };
    assert_eq!(refused["rbac_user_name"], "bob");
    assert_eq!(
        (&refused["method"], &refused["status"]),
        (&json!("DELETE"), &json!(403))
    );
}

#[tokio::test]
async fn a_token_is_shown_once_and_its_hash_never() {
    let api = Api::guarded();
    let token = api.user("ann", "admin").await;
    for url in [
        "/rbac/users/ann",
        "/rbac/users",
        "/rbac/users/ann/roles",
        "/revisions/1",
        "/userinfo",
    ] {
        let (status, reply) = api.ask(OWNER, "GET", url, "").await;
        assert_eq!(status, 200, "{url}");
        let text = reply.to_string();
        assert!(
            !text.contains("sha256:") && !text.contains(&token),
            "{text}"
        );
    }
    let new = json!({ "user_token": "another-another-another" });
    let (_, shown) = api.ask(OWNER, "PATCH", "/rbac/users/ann", new).await;
    assert!(shown.get("user_token").is_none());
}

#[tokio::test]
async fn a_token_is_good_for_as_long_as_its_user_and_their_roles() {
    let api = Api::guarded();
    let disabled = api.user("ann", "admin").await;
    let without_a_role = api.user("bob", "read-only").await;
    let replaced = api.user("joe", "read-only").await;
    let gone = api.user("eve", "").await;
    for token in [&disabled, &without_a_role, &replaced] {
        api.holds_for(token, "GET / => 200").await;
    }
    api.holds_for(&gone, "GET / => 403").await;
    let transcript = r#"
        PATCH /rbac/users/ann {"enabled": false} => 200
        DELETE /rbac/users/bob/roles {"roles": ["read-only"]} => 204
        PATCH /rbac/users/joe {"user_token": "another-another-another"} => 200
        DELETE /rbac/users/eve => 204
    "#;
    api.holds_for(OWNER, transcript).await;
    api.holds_for(&without_a_role, "GET / => 403").await;
    for token in [disabled, replaced, gone] {
        api.holds_for(&token, "GET / => 401").await;
    }
}

#[tokio::test]
async fn users_and_roles_are_checked_as_they_are_written() {
    let api = Api::guarded();
    api.user("bob", "read-only").await;
    let transcript = r#"
        POST /rbac/users {"name": "weak", "user_token": "short"} => 400
        POST /rbac/users {"name": "bob"} => 409
        POST /rbac/users/bob/roles {"roles": "nothing"} => 400
        DELETE /rbac/roles/super-admin => 400
        PUT /rbac/roles/super-admin {} => 400
        PUT /rbac/users/bob {} => 405
        PUT /rbac/roles/0c1293f0-a346-49ef-9c3b-39e89c7486c1 {"name": "admin"} => 409
        PUT /rbac/roles/0c1293f0-a346-49ef-9c3b-39e89c7486c1 {"name": "mine", "comment": "made by decK"} => 200
        GET /rbac/roles/mine => 200
        POST /rbac/roles/admin/endpoints {"endpoint": "*", "actions": "*"} => 400
        GET /rbac/users/nobody => 404
        GET /rbac_users => 404
    "#;
    api.holds_for(OWNER, transcript).await;
}

#[tokio::test]
async fn a_role_for_one_workspace_ends_at_it() {
    let api = Api::guarded();
    let transcript = r#"
        POST /workspaces {"name": "team"} => 201
        POST /workspaces {"name": "other"} => 201
        POST /rbac/roles {"name": "team-admin"} => 201
        POST /rbac/roles/team-admin/endpoints {"workspace": "team", "endpoint": "*", "actions": "*"} => 201
    "#;
    api.holds_for(OWNER, transcript).await;
    let token = api.user("tom", "team-admin").await;
    let transcript = r#"
        POST /team/services {"name": "s", "host": "h"} => 201
        GET /team/services/s => 200
        GET /team/workspaces/team => 200
        GET /team/kong => 200
        GET /team/config => 200
        GET /team/revisions => 200
        GET /team/openid-connect/issuers => 200
        GET /services => 403
        GET /other/services => 403
        GET /workspaces => 403
        GET /team/workspaces => 403
        GET /team/workspaces/other => 403
        PATCH /team/workspaces/team {} => 403
        GET /team/rbac/users => 403
        GET /revisions => 403
        GET /revisions/1..2 => 403
        POST /revisions/1/rollback {} => 403
        POST /team/ca_certificates {} => 403
        DELETE /team/openid-connect/jwks => 403
        DELETE /team/openid-connect/issuers => 403
        GET /clustering/data-planes => 403
    "#;
    api.holds_for(&token, transcript).await;
    let less = r#"PATCH /rbac/roles/team-admin/endpoints/team/* {"actions": "read"} => 200"#;
    api.holds_for(OWNER, less).await;
    api.holds_for(&token, "DELETE /team/services/s => 403")
        .await;
    // Who takes the name of a workspace that is gone does not take its permissions.
    api.ask(OWNER, "DELETE", "/workspaces/other", "").await;
    let (_, permissions) = api
        .ask(OWNER, "GET", "/rbac/users/tom/permissions", "")
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
    let (_, list) = api.ask(OWNER, "GET", "/revisions?size=1", "").await;
    let revision = list["data"][0]["revision"].as_u64().unwrap();
    api.ask(OWNER, "DELETE", "/rbac/users/ann", "").await;
    let url = format!("/revisions/{revision}/rollback");
    assert_eq!(api.ask(OWNER, "POST", &url, "").await.0, 201);
    assert_eq!(api.ask(&token, "GET", "/", "").await.0, 401);
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
    let (_, held) = api.ask(OWNER, "GET", "/rbac/users/ann/roles", "").await;
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

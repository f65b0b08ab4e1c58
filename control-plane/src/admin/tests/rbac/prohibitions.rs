//! What a role forbids.

use super::*;

/// A workspace `team` in which the service `secret` is closed to the role `ta`, and so is some of what is below others.
/// Records that are asked for by their ids have such as end with a letter.
async fn closed() -> Api {
    let api = Api::guarded();
    let transcript = r#"
        POST /workspaces {"name": "team"} => 201
        POST /team/services {"id": "00000000-0000-0000-0000-00000000000a", "name": "secret", "host": "s"} => 201
        POST /team/services {"name": "open", "host": "o"} => 201
        POST /team/services/secret/routes {"name": "r", "paths": ["/r"], "tags": ["t"]} => 201
        POST /team/services/open/routes {"id": "00000000-0000-0000-0000-00000000000b", "name": "hidden", "paths": ["/h"], "tags": ["t"]} => 201
        POST /team/consumers {"username": "c"} => 201
        POST /team/consumers/c/acls {"id": "00000000-0000-0000-0000-00000000000c", "group": "g"} => 201

        POST /rbac/roles {"name": "ta"} => 201
        POST /rbac/roles/ta/endpoints {"workspace": "team", "endpoint": "*", "actions": "read,create,update,delete"} => 201
        POST /rbac/roles/ta/endpoints {"workspace": "team", "endpoint": "/services/secret", "actions": "read,create,update,delete", "negative": true} => 201
        POST /rbac/roles/ta/endpoints {"workspace": "team", "endpoint": "/services/*/plugins", "actions": "read"} => 201
        POST /rbac/roles/ta/endpoints {"workspace": "team", "endpoint": "/services/open/routes/hidden", "actions": "read", "negative": true} => 201
        POST /rbac/roles/ta/endpoints {"workspace": "team", "endpoint": "/consumers/c/acls/g", "actions": "delete", "negative": true} => 201
        POST /rbac/roles/ta/endpoints {"workspace": "team", "endpoint": "/plugins", "actions": "create", "negative": true} => 201
    "#;
    api.holds_for(OWNER, transcript).await;
    api
}

#[tokio::test]
async fn what_is_forbidden_by_name_is_so_however_one_comes_by_it() {
    let api = closed().await;
    let bob = api.user("bob", "ta").await;
    let transcript = r#"
        GET /team/services/secret => 403
        GET /team/services/00000000-0000-0000-0000-00000000000a => 403
        PATCH /team/services/00000000-0000-0000-0000-00000000000a {"port": 9} => 403
        PUT /team/services/00000000-0000-0000-0000-00000000000a {"host": "x"} => 403
        DELETE /team/services/00000000-0000-0000-0000-00000000000a => 403
        GET /team/services/secret/routes => 403
        POST /team/services/00000000-0000-0000-0000-00000000000a/routes {"paths": ["/n"]} => 403
        GET /team/routes/r/service => 403
        PATCH /team/routes/r/service {"port": 9} => 403

        GET /team/routes/00000000-0000-0000-0000-00000000000b => 403
        GET /team/services/open/routes/00000000-0000-0000-0000-00000000000b => 403
        PATCH /team/routes/hidden {"paths": ["/i"]} => 200

        DELETE /team/consumers/c/acls/00000000-0000-0000-0000-00000000000c => 403
        DELETE /team/acls/00000000-0000-0000-0000-00000000000c => 403

        # A way that is permitted by itself is one; the collection that is closed is closed from every side.
        GET /team/services/secret/plugins => 200
        POST /team/services/open/plugins {"name": "cors"} => 403
        PUT /team/plugins/00000000-0000-0000-0000-000000000005 {"name": "cors"} => 403
        GET /team/plugins => 200

        # What tells of everything, or replaces it.
        POST /team/config {"_format_version": "3.0"} => 403
        GET /team/revisions => 403
        GET /team/audit/requests => 403
        POST /team/revisions/1/rollback => 403

        PATCH /team/services/open {"port": 9} => 200
        GET /team/services/nothing => 404
    "#;
    api.holds_for(&bob, transcript).await;
}

#[tokio::test]
async fn lists_and_files_leave_out_what_may_not_be_known() {
    let api = closed().await;
    let bob = api.user("bob", "ta").await;
    for (url, names) in [
        ("/team/services", "open"),
        ("/team/routes", "r"),
        ("/team/services/open/routes", ""),
        ("/team/consumers", "c"),
    ] {
        let (status, list) = api.ask(&bob, "GET", url, "").await;
        let data = list["data"].as_array().unwrap().iter();
        let name = |one: &Value| {
            let name = one["name"].as_str().or(one["username"].as_str());
            name.unwrap_or_default().to_owned()
        };
        let shown: Vec<String> = data.map(name).collect();
        assert_eq!((status, shown.join(" ").as_str()), (200, names), "{url}");
    }
    let (_, tagged) = api.ask(&bob, "GET", "/team/tags/t", "").await;
    assert_eq!(tagged["data"].as_array().unwrap().len(), 1, "{tagged}");
    let transcript = r#"
        POST /rbac/roles {"name": "config"} => 201
        POST /rbac/roles/config/endpoints {"workspace": "team", "endpoint": "/config", "actions": "read,create"} => 201
    "#;
    api.holds_for(OWNER, transcript).await;
    let eve = api.user("eve", "ta,config").await;
    for token in [&bob, &eve] {
        let (status, file) = api.ask(token, "GET", "/team/config", "").await;
        let text = file["config"].as_str().unwrap();
        assert_eq!(status, 200);
        assert!(
            text.contains("name: open") && !text.contains("name: secret"),
            "{text}"
        );
    }
    // Whoever is given the whole by its own path may replace it.
    let whole = r#"POST /team/config {"_format_version": "3.0", "services": [{"name": "only", "host": "o"}]} => 201"#;
    api.holds_for(&eve, whole).await;
}

#[tokio::test]
async fn users_are_forbidden_by_their_names_and_by_their_ids() {
    let api = Api::guarded();
    let transcript = r#"
        POST /rbac/users {"id": "00000000-0000-0000-0000-00000000000b", "name": "bob"} => 201
        POST /rbac/users {"name": "eve"} => 201
        POST /rbac/roles {"name": "people"} => 201
        POST /rbac/roles/people/endpoints {"workspace": "*", "endpoint": "*", "actions": "*"} => 201
        POST /rbac/roles/people/endpoints {"workspace": "*", "endpoint": "/rbac/users/bob", "actions": "*", "negative": true} => 201
    "#;
    api.holds_for(OWNER, transcript).await;
    let ann = api.user("ann", "people").await;
    let transcript = "
        GET /rbac/users/bob => 403
        PATCH /rbac/users/00000000-0000-0000-0000-00000000000b {} => 403
        GET /rbac/users/00000000-0000-0000-0000-00000000000b/roles => 403
        GET /rbac/users/eve/roles => 200
    ";
    api.holds_for(&ann, transcript).await;
    let (_, list) = api.ask(&ann, "GET", "/rbac/users", "").await;
    assert!(!list.to_string().contains("\"bob\""), "{list}");
}

#[tokio::test]
async fn what_a_body_points_to_is_judged_as_what_a_path_leads_through() {
    let api = Api::guarded();
    let transcript = r#"
        POST /workspaces {"name": "team"} => 201
        POST /team/services {"id": "00000000-0000-0000-0000-00000000000a", "name": "secret", "host": "s"} => 201
        POST /team/services {"name": "open", "host": "o"} => 201
        POST /team/services/secret/routes {"name": "old", "paths": ["/old"]} => 201
        POST /team/services/open/plugins {"id": "00000000-0000-0000-0000-00000000000b", "name": "cors"} => 201
        POST /team/consumers {"username": "c"} => 201
        POST /team/consumer_groups {"name": "vip"} => 201
        POST /team/consumer_groups {"name": "all"} => 201

        POST /rbac/roles {"name": "team"} => 201
        POST /rbac/roles/team/endpoints {"workspace": "team", "endpoint": "*", "actions": "*"} => 201
        POST /rbac/roles/team/endpoints {"workspace": "team", "endpoint": "/services/secret", "actions": "*", "negative": true} => 201
        POST /rbac/roles/team/endpoints {"workspace": "team", "endpoint": "/consumer_groups/vip", "actions": "read", "negative": true} => 201
    "#;
    api.holds_for(OWNER, transcript).await;
    let bob = api.user("bob", "team").await;
    let transcript = r#"
        POST /team/routes {"name": "new", "paths": ["/new"], "service": {"name": "secret"}} => 403 bob, you do not have permissions to use what 'service' points to
        POST /team/routes {"name": "new", "paths": ["/new"], "service": {"id": "00000000-0000-0000-0000-00000000000a"}} => 403 bob, you do not have permissions to use what 'service' points to
        PUT /team/routes/new {"paths": ["/new"], "service": {"id": "00000000-0000-0000-0000-00000000000a"}} => 403 bob, you do not have permissions to use what 'service' points to
        POST /team/routes {"name": "new", "paths": ["/new"], "service": {"name": "open"}} => 201
        PATCH /team/routes/new {"service": {"id": "00000000-0000-0000-0000-00000000000a"}} => 403 bob, you do not have permissions to use what 'service' points to
        PATCH /team/plugins/00000000-0000-0000-0000-00000000000b {"service": {"id": "00000000-0000-0000-0000-00000000000a"}} => 403 bob, you do not have permissions to use what 'service' points to

        # It was so before.
        PATCH /team/routes/old {"tags": ["t"]} => 200
        PUT /team/routes/old {"paths": ["/o"], "service": {"id": "00000000-0000-0000-0000-00000000000a"}} => 200

        # What may not be read is not to be seen through a record that points to it.
        POST /team/consumers/c/consumer_groups {"group": "vip"} => 403 bob, you do not have permissions to use what 'consumer_group' points to
        POST /team/consumers/c/consumer_groups {"group": "all"} => 201
    "#;
    api.holds_for(&bob, transcript).await;
}

#[tokio::test]
async fn who_may_not_make_a_role_may_not_give_it_either() {
    let api = Api::guarded();
    let transcript = r#"
        POST /rbac/users {"name": "bob"} => 201
        POST /rbac/roles {"name": "people"} => 201
        POST /rbac/roles/people/endpoints {"workspace": "*", "endpoint": "*", "actions": "*"} => 201
        POST /rbac/roles/people/endpoints {"workspace": "*", "endpoint": "/rbac/roles/super-admin", "actions": "create", "negative": true} => 201
    "#;
    api.holds_for(OWNER, transcript).await;
    let ann = api.user("ann", "people").await;
    let transcript = r#"
        POST /rbac/users/bob/roles {"roles": "read-only,super-admin"} => 403 ann, you do not have permissions to use what 'role' points to
        POST /rbac/users/bob/roles {"roles": "read-only"} => 201
    "#;
    api.holds_for(&ann, transcript).await;
    let (_, roles) = api.ask(OWNER, "GET", "/rbac/users/bob/roles", "").await;
    assert!(!roles.to_string().contains("super-admin"), "{roles}");
}

#[tokio::test]
async fn who_may_not_change_a_target_may_not_mark_it_either() {
    let api = Api::guarded();
    let transcript = r#"
        POST /upstreams {"name": "u"} => 201
        POST /upstreams {"id": "00000000-0000-0000-0000-00000000000a", "name": "shut"} => 201
        POST /upstreams/u/targets {"id": "00000000-0000-0000-0000-00000000000b", "target": "10.0.0.1:80"} => 201
        POST /upstreams/u/targets {"target": "10.0.0.2:80"} => 201
        POST /upstreams/shut/targets {"target": "10.0.0.3:80"} => 201

        POST /rbac/roles {"name": "ta"} => 201
        POST /rbac/roles/ta/endpoints {"endpoint": "*", "actions": "read,create,update,delete"} => 201
        POST /rbac/roles/ta/endpoints {"endpoint": "/upstreams/u/targets/10.0.0.1:80", "actions": "update", "negative": true} => 201
        POST /rbac/roles/ta/endpoints {"endpoint": "/upstreams/shut", "actions": "read,create,update,delete", "negative": true} => 201
    "#;
    api.holds_for(OWNER, transcript).await;
    let bob = api.user("bob", "ta").await;
    // This control plane has no nodes to tell, which whoever may mark learns.
    let transcript = "
        PUT /upstreams/u/targets/00000000-0000-0000-0000-00000000000b/unhealthy {} => 403
        PUT /upstreams/u/targets/00000000-0000-0000-0000-00000000000b/10.0.0.1/healthy {} => 403
        PUT /upstreams/u/targets/10.0.0.1:80/healthy {} => 403
        PUT /upstreams/00000000-0000-0000-0000-00000000000a/targets/10.0.0.3:80/healthy {} => 403
        PUT /upstreams/u/targets/10.0.0.2:80/healthy {} => 404
    ";
    api.holds_for(&bob, transcript).await;
}

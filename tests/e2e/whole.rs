//! Writes and the nodes that serve them: waiting for these, files, the way back, workspaces.

use http::Method;
use serde_json::{Value, json};

use harness::{Browser, Cluster, Reply};

/// A route for `path` that answers with `message` by itself.
async fn answering(cluster: &Cluster, workspace: &str, path: &str, message: &str) {
    let route = json!({ "name": message, "paths": [path] });
    cluster.create(&format!("{workspace}/routes"), route).await;
    let plugin = json!({
        "name": "request-termination",
        "config": { "status_code": 200, "message": message },
    });
    let url = format!("{workspace}/routes/{message}/plugins");
    cluster.create(&url, plugin).await;
}

/// The same as a file.
fn file(path: &str, message: &str) -> Value {
    json!({
        "_format_version": "3.0",
        "routes": [{
            "name": message,
            "paths": [path],
            "plugins": [{
                "name": "request-termination",
                "config": { "status_code": 200, "message": message },
            }],
        }],
    })
}

/// What every node answers to `path`: a message, at once.
async fn told(cluster: &Cluster, path: &str) -> String {
    let mut answers = Vec::new();
    for node in &cluster.data_planes {
        let reply = Browser::new().get(&format!("{}{path}", node.url())).await;
        answers.push(reply.json()["message"].as_str().unwrap().to_owned());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "the nodes differ: {answers:?}");
    answers.remove(0)
}

#[track_caller]
fn assert_served(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("x-wardgate-serving"), "node-1, node-2");
    assert_eq!(reply.header("x-wardgate-refused"), "");
    assert_eq!(reply.header("x-wardgate-waiting"), "");
}

#[tokio::test]
async fn a_write_that_is_waited_for_is_served_when_it_is_answered() {
    let cluster = Cluster::start(2).await;
    answering(&cluster, "", "/hello", "first").await;
    let plugins = cluster.read("/plugins").await;
    let plugin = format!(
        "/plugins/{}?wait=30",
        plugins["data"][0]["id"].as_str().unwrap()
    );
    for turn in 0..5 {
        let message = format!("turn-{turn}");
        let body = json!({ "config": { "message": message } });
        let reply = cluster.admin(Method::PATCH, &plugin, &body).await;
        assert_served(&reply, 200);
        assert_eq!(told(&cluster, "/hello").await, message);
    }
    // What changes nothing is served already.
    let reply = cluster
        .admin(Method::DELETE, "/services/none?wait=30", &json!({}))
        .await;
    assert_eq!(reply.status, 204, "{}", reply.text());
    let reply = cluster
        .admin(Method::DELETE, "/routes/first?wait=30", &json!({}))
        .await;
    assert_served(&reply, 204);
    assert_eq!(
        told(&cluster, "/hello").await,
        "no Route matched with those values"
    );
}

#[tokio::test]
async fn a_write_that_is_waited_for_names_who_has_refused_it() {
    let mut cluster = Cluster::start(2).await;
    let node = cluster.data_planes.remove(1);
    node.process.kill();
    let known = [("LOG_TOKEN", "token".to_owned())];
    cluster.start_data_plane_with(&node.name, &known).await;
    cluster.settled().await;
    // Only the second node has the variable.
    let log = json!({
        "name": "http-log",
        "config": {
            "http_endpoint": "http://127.0.0.1:9/",
            "headers": { "authorization": "{vault://env/log-token}" },
        },
    });
    let reply = cluster.admin(Method::POST, "/plugins?wait=30", &log).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let plugin = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (
            reply.header("x-wardgate-serving"),
            reply.header("x-wardgate-refused")
        ),
        ("node-2", "node-1")
    );
    let body = json!({ "config": { "headers": null } });
    let url = format!("/plugins/{plugin}?wait=30");
    let reply = cluster.admin(Method::PATCH, &url, &body).await;
    assert_served(&reply, 200);
    // Who is not there any more is not waited for, and a wait of nothing tells how it is.
    cluster.data_planes.pop().unwrap().process.kill();
    harness::eventually("the node is missed", async || {
        let rows = cluster.read("/clustering/data-planes").await["data"].clone();
        let rows = rows.as_array()?;
        rows.iter()
            .any(|row| row["name"] == "node-2" && row["connected"] == false)
            .then_some(())
    })
    .await;
    let reply = cluster.admin(Method::DELETE, &url, &json!({})).await;
    assert_eq!(reply.status, 204, "{}", reply.text());
    assert_eq!(reply.header("x-wardgate-serving"), "node-1");
    for wrong in ["x", "-1", "301", ""] {
        let url = format!("/services?wait={wrong}");
        let reply = cluster
            .admin(Method::POST, &url, &json!({ "host": "h" }))
            .await;
        assert_eq!(reply.status, 400, "{wrong}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_file_and_the_way_back_reach_every_node_as_one_change() {
    let cluster = Cluster::start(2).await;
    let post = async |query: &str, file: &Value| {
        let url = format!("/config{query}");
        cluster.admin(Method::POST, &url, file).await
    };
    let reply = post("?wait=30", &file("/hello", "one")).await;
    assert_served(&reply, 201);
    assert_eq!(told(&cluster, "/hello").await, "one");
    let first = reply.header("x-wardgate-revision").to_owned();
    // A plan changes nothing anywhere.
    let two = file("/hello", "two");
    let plan = post("?dry_run=1", &two).await.json();
    assert_eq!(
        plan["changes"],
        json!({ "created": 2, "updated": 0, "deleted": 2 })
    );
    assert_eq!(
        cluster.read("/revisions?size=1").await["data"][0]["revision"].to_string(),
        first
    );
    assert_eq!(told(&cluster, "/hello").await, "one");
    assert_served(&post("?wait=30", &two).await, 201);
    assert_eq!(told(&cluster, "/hello").await, "two");
    // One bad record keeps the rest out.
    let mut bad = file("/other", "three");
    bad["services"] = json!([{ "name": "s", "host": "h", "port": 70_000 }]);
    let reply = post("?wait=30", &bad).await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_eq!(told(&cluster, "/hello").await, "two");
    let url = format!("/revisions/{first}/rollback?wait=30");
    let reply = cluster.admin(Method::POST, &url, &json!({})).await;
    assert_served(&reply, 201);
    assert_eq!(told(&cluster, "/hello").await, "one");
    // What was read comes back as it was.
    let exported = cluster.read("/config").await;
    assert_served(
        &post("?wait=30", &json!({ "_format_version": "3.0" })).await,
        201,
    );
    assert_eq!(
        told(&cluster, "/hello").await,
        "no Route matched with those values"
    );
    assert_served(&post("?wait=30", &exported).await, 201);
    assert_eq!(told(&cluster, "/hello").await, "one");
}

#[tokio::test]
async fn workspaces_keep_apart_on_nodes_too() {
    let cluster = Cluster::start(2).await;
    for team in ["alpha", "beta"] {
        cluster.create("/workspaces", json!({ "name": team })).await;
        let workspace = format!("/{team}");
        answering(&cluster, &workspace, &format!("/{team}"), team).await;
        // A plugin for everything is for everything in its workspace.
        let global = json!({
            "name": "response-transformer",
            "config": { "add": { "headers": [format!("x-team:{team}")] } },
        });
        cluster
            .create(&format!("{workspace}/plugins"), global)
            .await;
    }
    answering(&cluster, "", "/default", "ours").await;
    let counted = json!({ "name": "prometheus", "config": { "status_code_metrics": true } });
    cluster.create("/alpha/plugins", counted).await;
    cluster.settled().await;
    for (path, message, team) in [
        ("/alpha", "alpha", "alpha"),
        ("/beta", "beta", "beta"),
        ("/default", "ours", ""),
    ] {
        assert_eq!(told(&cluster, path).await, message);
        let reply = Browser::new()
            .get(&format!("{}{path}", cluster.url(0)))
            .await;
        assert_eq!(reply.header("x-team"), team, "{path}");
    }
    // What is counted of them tells the workspace by its name.
    let status = cluster.data_planes[0].process.address("status");
    let url = format!("http://{status}/metrics");
    let shown = Browser::new().get(&url).await.text().clone();
    let of = |route: &str, team: &str| {
        let line = format!(
            "kong_http_requests_total{{service=\"\",route=\"{route}\",code=\"200\",source=\"kong\",workspace=\"{team}\","
        );
        shown.contains(&line)
    };
    for (route, team) in [("alpha", "alpha"), ("beta", "beta"), ("ours", "default")] {
        assert!(of(route, team), "{route}: {shown}");
    }
    // A file and the way back are about one workspace.
    let before = cluster.read("/revisions?size=1").await["data"][0]["revision"].clone();
    let reply = cluster
        .admin(
            Method::POST,
            "/alpha/config?wait=30",
            &file("/alpha", "new"),
        )
        .await;
    assert_served(&reply, 201);
    let body = json!({ "paths": ["/moved"] });
    let reply = cluster
        .admin(Method::PATCH, "/beta/routes/beta?wait=30", &body)
        .await;
    assert_served(&reply, 200);
    assert_eq!(told(&cluster, "/alpha").await, "new");
    let url = format!("/alpha/revisions/{before}/rollback?wait=30");
    assert_served(&cluster.admin(Method::POST, &url, &json!({})).await, 201);
    for (path, message) in [
        ("/alpha", "alpha"),
        ("/moved", "beta"),
        ("/default", "ours"),
    ] {
        assert_eq!(told(&cluster, path).await, message);
    }
}

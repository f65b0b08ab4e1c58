//! What `cargo run` starts: a cluster and a demo that work without a further step.

use std::path::Path;

use harness::{Browser, Process};
use http::Method;

async fn start(directory: &Path, options: &[(&str, &str)]) -> Process {
    let mut environment = vec![(
        "WARDGATE_DATA_DIRECTORY",
        directory.join("data").display().to_string(),
    )];
    for listener in [
        "WARDGATE_ADMIN_LISTEN",
        "WARDGATE_CONSOLE_LISTEN",
        "WARDGATE_CLUSTER_LISTEN",
        "WARDGATE_PROXY_LISTEN",
        "WARDGATE_PROXY_TLS_LISTEN",
        "WARDGATE_STATUS_LISTEN",
        "WARDGATE_SECOND_PROXY_LISTEN",
        "WARDGATE_SECOND_PROXY_TLS_LISTEN",
        "WARDGATE_SECOND_STATUS_LISTEN",
        "WARDGATE_PROVIDER_LISTEN",
        "WARDGATE_UPSTREAM_LISTEN",
    ] {
        environment.push((listener, "127.0.0.1:0".to_owned()));
    }
    for (name, value) in options {
        environment.push((name, (*value).to_owned()));
    }
    Process::start("wardgate", "wardgate", directory, &environment).await
}

/// The URL that a browser knows a data plane by.
fn url(process: &Process, name: &str) -> String {
    let address = process.address(name);
    format!("http://localhost:{}", address.rsplit(':').next().unwrap())
}

#[tokio::test]
async fn the_demo_signs_in_on_both_data_planes_and_out_again() {
    let directory = tempfile::tempdir().unwrap();
    let demo = start(directory.path(), &[]).await;
    let (first, second) = (url(&demo, "proxy"), url(&demo, "second_proxy"));
    // It says so once it has written its addresses, which `start` waits for.
    let said = harness::eventually("the demo has said how it is used", async || {
        let said = demo.log();
        said.contains("config.consumer_claim=sub").then_some(said)
    })
    .await;
    for part in [
        &first,
        &second,
        "alice-password",
        "curl -i -X POST",
        "config.consumer_claim=sub",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let alice = Browser::for_pages();
    let page = alice.sign_in(&format!("{first}/"), "alice").await;
    assert_eq!(page.url.as_str(), format!("{first}/"));
    assert!(page.text().contains("Alice Liddell"), "{}", page.text());
    assert!(
        page.text().contains("x-consumer-username"),
        "{}",
        page.text()
    );
    let page = alice.get(&format!("{second}/")).await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(alice.get(&format!("{first}/admins")).await.status, 200);
    let bob = Browser::for_pages();
    let page = bob.sign_in(&format!("{second}/deep/link"), "bob").await;
    assert_eq!(page.url.as_str(), format!("{second}/deep/link"));
    assert_eq!(bob.get(&format!("{first}/admins")).await.status, 403);
    let reply = alice
        .send(Method::POST, &format!("{first}/logout"), &[], "")
        .await;
    let page = alice.open(reply.location().unwrap().as_str()).await;
    let end = format!("{first}/signed-out?state=");
    assert!(page.url.as_str().starts_with(&end), "{}", page.url);
    assert!(page.text().contains("not signed in"), "{}", page.text());
    let page = alice.open(&format!("{second}/")).await;
    assert!(page.text().contains("name=\"password\""), "{}", page.text());
    assert!(demo.stop().await.success());
}

#[tokio::test]
async fn a_second_start_keeps_what_the_user_configured() {
    let directory = tempfile::tempdir().unwrap();
    let demo = start(directory.path(), &[]).await;
    let admin = format!("http://{}", demo.address("admin"));
    let api = Browser::new();
    let route = format!("{admin}/services/demo-public/routes");
    let made = api
        .post_form(&route, &[("name", "mine"), ("paths[]", "/mine")])
        .await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(
        api.send(Method::DELETE, &format!("{admin}/consumers/bob"), &[], "")
            .await
            .status,
        204
    );
    // Killed, not stopped: an acknowledged write is kept all the same.
    demo.kill();
    let demo = start(directory.path(), &[]).await;
    let (first, second) = (url(&demo, "proxy"), url(&demo, "second_proxy"));
    assert_eq!(api.get(&format!("{second}/mine")).await.status, 200);
    let alice = Browser::for_pages();
    assert_eq!(
        alice.sign_in(&format!("{first}/"), "alice").await.status,
        200
    );
    let bob = Browser::for_pages();
    assert_eq!(bob.sign_in(&format!("{second}/"), "bob").await.status, 403);
}

#[tokio::test]
async fn one_part_runs_alone() {
    let directory = tempfile::tempdir().unwrap();
    let control_plane = start(directory.path(), &[("WARDGATE_ONLY", "control-plane")]).await;
    let admin = format!("http://{}", control_plane.address("admin"));
    assert_eq!(
        Browser::new()
            .get(&format!("{admin}/services"))
            .await
            .status,
        200
    );
    let cluster = control_plane.address("cluster");
    let node = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(directory.path().join("data"), node.path().join("data")).unwrap();
    let options = [
        ("WARDGATE_ONLY", "data-plane"),
        ("WARDGATE_NODE", "node-3"),
        ("WARDGATE_CLUSTER_LISTEN", cluster.as_str()),
    ];
    let node = start(node.path(), &options).await;
    harness::eventually("the node is on the list", async || {
        let rows = Browser::new()
            .get(&format!("{admin}/clustering/data-planes"))
            .await
            .json();
        let row = rows["data"]
            .as_array()?
            .iter()
            .find(|row| row["name"] == "node-3")?
            .clone();
        (row["progress"] == "current").then_some(())
    })
    .await;
    drop(node);
}

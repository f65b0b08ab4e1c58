//! A cluster set up as the guide "OpenID Connect with Okta" says, with its commands letter for letter.

use harness::{Browser, CLIENT, Cluster, Demo, Reply, SECRET, curl};
use serde_json::Value;

/// The name under which browsers know the gateway, whichever node they reach.
pub(crate) const GATEWAY: &str = "gateway.test";

/// A cluster after the guide's first part.
pub(crate) struct Guide {
    pub(crate) cluster: Cluster,
    pub(crate) demo: Demo,
    pub(crate) plugin: String,
}

impl Guide {
    /// `options` are further `--data` of the plugin's command.
    pub(crate) async fn start(nodes: usize, options: &str) -> Self {
        Self::set_up(Cluster::start(nodes).await, options).await
    }

    /// The same on a cluster that runs.
    pub(crate) async fn set_up(cluster: Cluster, options: &str) -> Self {
        let demo = Demo::start(&[format!("http://{GATEWAY}")]).await;
        let (admin, issuer, upstream) = (cluster.admin_url(), demo.issuer(), demo.upstream());
        let service = created(&format!(
            r#"curl -i -X POST {admin}/services/ \
  --data name="openid-connect-demo" \
  --data url="{upstream}""#
        ))
        .await;
        assert_eq!(service["name"], "openid-connect-demo");
        let route = created(&format!(
            r#"curl -i -X POST {admin}/services/openid-connect-demo/routes --data "paths[]=/""#
        ))
        .await;
        let route = route["id"].as_str().unwrap();
        let plugin = created(&format!(
            r#"curl -i -X POST {admin}/routes/{route}/plugins --data name="openid-connect"                                \
  --data config.issuer="{issuer}/.well-known/openid-configuration" \
  --data config.client_id="{CLIENT}"                                                          \
  --data config.client_secret="{SECRET}"                                                      \
  --data config.redirect_uri="http://{GATEWAY}/api"                                           \
  --data config.scopes="openid"                                                               \
  --data config.scopes="email"                                                                \
  --data config.scopes="profile" {options}"#
        ))
        .await;
        cluster.settled().await;
        Self {
            plugin: plugin["id"].as_str().unwrap().to_owned(),
            cluster,
            demo,
        }
    }

    /// A browser that reaches the node with the index `at` as the gateway.
    pub(crate) fn browser(&self, at: usize) -> Browser {
        let mut browser = Browser::new();
        self.turn(&mut browser, at);
        browser
    }

    /// Turns a browser to another node, with all its cookies.
    pub(crate) fn turn(&self, browser: &mut Browser, at: usize) {
        let url = self.cluster.url(at);
        browser.resolve(GATEWAY, url.trim_start_matches("http://"));
    }

    /// The guide's way to change the plugin.
    pub(crate) async fn patch(&self, data: &str) -> Value {
        let reply = curl(&format!(
            "curl -i -X PATCH {}/plugins/{} {data}",
            self.cluster.admin_url(),
            self.plugin
        ))
        .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.cluster.settled().await;
        reply.json()
    }
}

/// A URL of the gateway.
pub(crate) fn gateway(path: &str) -> String {
    format!("http://{GATEWAY}{path}")
}

/// Runs a command that creates something.
pub(crate) async fn created(command: &str) -> Value {
    let reply = curl(command).await;
    assert_eq!(reply.status, 201, "{command}: {}", reply.text());
    reply.json()
}

/// The answer sends the browser to the provider.
#[track_caller]
pub(crate) fn assert_sign_in_demanded(reply: &Reply, demo: &Demo) {
    let location = reply
        .location()
        .map(|url| url.to_string())
        .unwrap_or_default();
    assert_eq!(reply.status, 302, "{}", reply.text());
    assert!(
        location.starts_with(&format!("{}/authorize?", demo.issuer())),
        "{location}"
    );
}

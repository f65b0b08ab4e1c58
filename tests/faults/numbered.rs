//! A route whose answer says which change it is from.

use harness::Cluster;
use serde_json::{Value, json};

/// `/p`, which answers with a number.
pub(crate) struct Numbered {
    /// The path of its plugin.
    plugin: String,
}

impl Numbered {
    /// Creates the route, which answers 0.
    pub(crate) async fn create(cluster: &Cluster) -> Self {
        let route = cluster.create("/routes", json!({ "paths": ["/p"] })).await;
        let plugin = json!({
            "name": "request-termination", "route": { "id": route["id"] }, "config": config(0),
        });
        let plugin = cluster.create("/plugins", plugin).await;
        let plugin = format!("/plugins/{}", plugin["id"].as_str().unwrap());
        Self { plugin }
    }

    /// Has it answer `number`.
    pub(crate) async fn set(&self, cluster: &Cluster, number: usize) {
        let change = json!({ "config": config(number) });
        cluster.patch(&self.plugin, change).await;
    }
}

fn config(number: usize) -> Value {
    json!({ "status_code": 200, "message": number.to_string() })
}

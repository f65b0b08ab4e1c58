//! Nothing that is asked of one workspace tells of another.

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::*;

/// One write: workspace, collection, verb, name, and whether it points to the other workspace.
type Step = (usize, usize, usize, u8, bool);

const WORKSPACES: [&str; 2] = ["alpha", "beta"];
const KINDS: [&str; 6] = [
    "services",
    "routes",
    "consumers",
    "plugins",
    "upstreams",
    "consumer_groups",
];

/// The mark that everything in a workspace has in its name.
fn mark(workspace: usize) -> String {
    format!("{}-mark", WORKSPACES[workspace])
}

fn body(kind: &str, name: &str, service: Option<&str>) -> Value {
    let tags = json!([name]);
    match kind {
        "services" => json!({ "name": name, "host": format!("{name}.test"), "tags": tags }),
        "routes" => json!({
            "name": name, "paths": ["/"], "tags": tags,
            "service": service.map(|id| json!({ "id": id })),
        }),
        "consumers" => json!({ "username": name, "custom_id": name, "tags": tags }),
        "plugins" => json!({
            "name": "acl", "instance_name": name, "config": { "allow": [name] }, "tags": tags,
            "service": service.map(|id| json!({ "id": id })),
        }),
        _ => json!({ "name": name, "tags": tags }),
    }
}

/// The ids of each workspace's records, as their replies told.
#[derive(Default)]
struct Known([Vec<(String, String)>; 2]);

impl Known {
    /// What may not be in an answer to `workspace`.
    fn secrets(&self, workspace: usize) -> impl Iterator<Item = String> {
        let other = 1 - workspace;
        // An id that is free again may be taken by anyone; whoever had it once may be told of that.
        let theirs = self.0[other]
            .iter()
            .filter(move |(_, id)| self.0[workspace].iter().all(|(_, own)| own != id));
        let ids = theirs.map(|(_, id)| id.clone());
        ids.chain([mark(other)])
    }

    fn check(&self, workspace: usize, asked: &str, answer: &Value) -> Result<(), TestCaseError> {
        let text = answer.to_string();
        for secret in self.secrets(workspace) {
            // What the caller has said himself may come back in an error.
            let told = text.contains(&secret) && !asked.contains(&secret);
            prop_assert!(!told, "{asked}: {secret} in {text}");
        }
        Ok(())
    }
}

async fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let api = Api::new();
    for name in WORKSPACES {
        api.json("POST", "/workspaces", json!({ "name": name }))
            .await;
    }
    let mut known = Known::default();
    // What the log of requests may repeat.
    let mut said = [String::new(), String::new()];
    for (workspace, kind, verb, name, foreign) in steps {
        let (own, kind) = (WORKSPACES[*workspace], KINDS[*kind]);
        let from = if *foreign { 1 - workspace } else { *workspace };
        let any = |kind: &str| {
            let found = known.0[from].iter().find(|(own, _)| own == kind);
            found.map(|(_, id)| id.clone())
        };
        let name = format!("{}-{name}", mark(*workspace));
        let body = body(kind, &name, any("services").as_deref());
        let key = any(kind).unwrap_or_else(|| name.clone());
        let (method, url) = match verb {
            0 | 1 => ("POST", format!("/{own}/{kind}")),
            2 => ("PUT", format!("/{own}/{kind}/{key}")),
            3 => ("PATCH", format!("/{own}/{kind}/{key}")),
            _ => ("DELETE", format!("/{own}/{kind}/{key}")),
        };
        let (status, answer) = api.json(method, &url, body.clone()).await;
        let asked = format!("{method} {url} {body}");
        said[*workspace].push_str(&url);
        known.check(*workspace, &asked, &answer)?;
        prop_assert!(status < 500, "{asked}: {status} {answer}");
        let id = answer["id"]
            .as_str()
            .filter(|_| status == 200 || status == 201);
        if let Some(id) = id {
            known.0[*workspace].push((kind.to_owned(), id.to_owned()));
        }
    }
    for (workspace, own) in WORKSPACES.iter().enumerate() {
        let mut urls: Vec<String> = KINDS
            .iter()
            .map(|kind| format!("/{own}/{kind}?size=1000"))
            .collect();
        for (kind, id) in &known.0[1 - workspace] {
            urls.push(format!("/{own}/{kind}/{id}"));
            urls.push(format!("/{own}/{kind}/{id}/plugins"));
        }
        urls.extend(
            [
                "tags",
                "config",
                "revisions",
                "revisions/0..3",
                "audit/requests",
                "workspaces",
                "endpoints",
                "kong",
            ]
            .map(|page| format!("/{own}/{page}")),
        );
        for url in urls {
            let (status, answer) = api.get(&url).await;
            let asked = if url.ends_with("/audit/requests") {
                &said[workspace]
            } else {
                &url
            };
            known.check(workspace, asked, &answer)?;
            prop_assert!(status < 500, "{url}: {answer}");
        }
    }
    Ok(())
}

#[test]
fn no_workspace_tells_of_another() {
    let step = (
        0..2_usize,
        0..KINDS.len(),
        0..5_usize,
        0..3_u8,
        any::<bool>(),
    );
    let mut runner = TestRunner::new(Cases {
        cases: 40,
        failure_persistence: None,
        ..Cases::default()
    });
    runner
        .run(&prop::collection::vec(step, 1..30), |steps| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(run(&steps))
        })
        .unwrap();
}

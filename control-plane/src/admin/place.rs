//! Which workspace a path is about: any path may begin with the name or the id of one.

use percent_encoding::percent_decode_str;
use serde_json::Value;
use shared::entity::{DEFAULT_WORKSPACE, Workspace};
use uuid::Uuid;

use super::error::Refusal;
use super::{Answer, endpoint};
use crate::command::{Selector, find};
use crate::config::{Config, workspace_key};

/// A workspace and what is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) workspace: Uuid,
    /// The workspace's name.
    pub(super) name: String,
    /// The beginning of the path that names it; empty if nothing does.
    pub(super) prefix: String,
    /// The rest of the path.
    pub(super) path: String,
}

impl Place {
    /// The workspace, if the path names it: what is about the whole cluster is then about this part of it.
    pub(super) fn narrowed(&self) -> Option<Uuid> {
        (!self.prefix.is_empty()).then_some(self.workspace)
    }

    /// Has the link to the next page begin as the request did.
    pub(super) fn relink(&self, mut answer: Answer) -> Answer {
        let next = answer.body.as_mut().and_then(|body| body.get_mut("next"));
        if let Some(Value::String(next)) = next
            && next.starts_with('/')
        {
            next.insert_str(0, &self.prefix);
        }
        answer
    }

    /// The parts of the rest of the path, percent-decoded.
    pub(super) fn segments(&self) -> Option<Vec<String>> {
        let trimmed = self.path.trim_start_matches('/');
        let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
        let decode = |part| {
            percent_decode_str(part)
                .decode_utf8()
                .map(String::from)
                .ok()
        };
        trimmed.split('/').map(decode).collect()
    }
}

pub(super) fn of(path: &str, config: &Config) -> Result<Place, Refusal> {
    // What Kong calls the root below a prefix.
    let root = |path: &str| if path == "/kong" { "/" } else { path }.to_owned();
    let whole = || Place {
        workspace: DEFAULT_WORKSPACE,
        name: "default".to_owned(),
        prefix: String::new(),
        path: root(path),
    };
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let (first, rest) = trimmed.split_once('/').unwrap_or((trimmed, ""));
    let decoded = percent_decode_str(first).decode_utf8();
    let first = decoded.map_err(|_| Refusal::NotFound)?;
    if first.is_empty() || means_something(&first) {
        return Ok(whole());
    }
    let Some(entity) = shared::entity::definition("workspaces") else {
        return Ok(whole());
    };
    match find(config, entity, &Selector::parse(&first)) {
        Ok(Some(key)) => {
            let record = config.record(workspace_key(key.id)).unwrap_or_default();
            let name = record.get("name").and_then(Value::as_str);
            Ok(Place {
                workspace: key.id,
                name: name.unwrap_or_default().to_owned(),
                prefix: format!("/{first}"),
                path: root(&format!("/{rest}")),
            })
        }
        _ if rest.split('/').next().is_some_and(means_something) => {
            Err(Refusal::NoWorkspace(first.into_owned()))
        }
        _ => Ok(whole()),
    }
}

/// Whether a POST to the path only asks what a write would come to.
pub(super) fn only_judges(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    path == "/openid-connect/check"
        || (path.starts_with("/schemas/") && path.ends_with("/validate"))
}

/// Whether paths begin with `word` that are about no workspace by name.
fn means_something(word: &str) -> bool {
    let alone = || endpoint::parse(&format!("/{word}"), &Config::default()).is_ok();
    !word.is_empty() && (Workspace::is_reserved(word) || alone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_begin_with_a_workspace() {
        let config = Config::default().founded();
        for (path, prefix, rest) in [
            ("/services", "", "/services"),
            ("/", "", "/"),
            ("/default/services/x", "/default", "/services/x"),
            ("/default", "/default", "/"),
            ("/default/", "/default", "/"),
            ("/clustering/status", "", "/clustering/status"),
            ("/nothing", "", "/nothing"),
            ("/nothing/at/all", "", "/nothing/at/all"),
        ] {
            let place = of(path, &config).unwrap();
            assert_eq!(
                (place.prefix.as_str(), place.path.as_str()),
                (prefix, rest),
                "{path}"
            );
        }
        let unknown = of("/team/services", &config).unwrap_err();
        assert!(matches!(unknown, Refusal::NoWorkspace(name) if name == "team"));
    }
}

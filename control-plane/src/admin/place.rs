//! Which workspace a path is about: any path may begin with the name or the id of one.

use percent_encoding::percent_decode_str;
use serde_json::Value;
use shared::entity::{DEFAULT_WORKSPACE, Workspace};
use uuid::Uuid;

use super::error::Refusal;
use super::{Answer, endpoint, management};
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
    // A workspace may be older than the pages whose paths begin with its name: the rest is its own.
    let is_entity = || rest.split('/').next().is_some_and(means_something);
    let is_page = || !is_entity() && !matches!(management::parse(&whole()), Ok(None));
    if first.is_empty() || means_something(&first) || is_page() {
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
        _ if is_entity() => Err(Refusal::NoWorkspace(first.into_owned())),
        _ => Ok(whole()),
    }
}

/// The name of a workspace, as far as it still has one.
pub(super) fn name_of(config: &Config, workspace: Uuid) -> Value {
    let name = config
        .record(workspace_key(workspace))
        .and_then(|record| record.get("name").cloned());
    name.unwrap_or_else(|| workspace.to_string().into())
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
    use shared::entity::Entity as _;

    use super::*;
    use crate::config::{Change, Stored};

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

    #[test]
    fn a_workspace_that_is_called_as_pages_are_keeps_what_is_none() {
        let mut fields = Workspace::first();
        let id = Uuid::from_u128(7);
        fields.insert("id".to_owned(), id.to_string().into());
        fields.insert("name".to_owned(), "proxy-cache".into());
        let change = Change {
            puts: vec![(workspace_key(id), Stored::of(&fields))],
            removes: Vec::new(),
        };
        let config = Config::default().founded();
        let config = config.evolve(&change, config.revision());
        for (path, workspace, rest) in [
            ("/proxy-cache/services/s", id, "/services/s"),
            ("/proxy-cache/kong", id, "/"),
            ("/proxy-cache/workspaces", id, "/workspaces"),
            ("/proxy-cache", DEFAULT_WORKSPACE, "/proxy-cache"),
            ("/proxy-cache/0a1b", DEFAULT_WORKSPACE, "/proxy-cache/0a1b"),
            (
                "/openid-connect/jwks",
                DEFAULT_WORKSPACE,
                "/openid-connect/jwks",
            ),
        ] {
            let place = of(path, &config).unwrap();
            assert_eq!((place.workspace, &*place.path), (workspace, rest), "{path}");
        }
        let mut errors = shared::schema::FieldErrors::default();
        Workspace::check(&fields, shared::clock::UnixTime::default(), &mut errors);
        let message = errors.by_field.get("name").and_then(Value::as_str);
        assert_eq!(message, Some("must not be one of: proxy-cache"));
    }
}

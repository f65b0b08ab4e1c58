//! What the permissions of a user come to, for a path and an action.
//!
//! Of those that match a request the most specific ones decide, those for the workspace before those for all, those
//! for the endpoint before those for all; among equals a prohibition. Without one nothing is permitted.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::config::Fields;

/// A part of a path, however it may be spelled: a record goes by its id and by its name.
pub(super) type Part = Vec<String>;

/// One permission or prohibition.
#[derive(Clone, Debug)]
struct Rule {
    workspace: String,
    /// The parts of the endpoint; none if it is for every path.
    endpoint: Option<Vec<String>>,
    actions: Vec<String>,
    negative: bool,
}

impl Rule {
    fn read(fields: &Fields) -> Self {
        let text = |field: &str| {
            fields
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let endpoint = text("endpoint");
        let parts = endpoint.trim_matches('/').split('/').map(str::to_owned);
        let actions = fields.get("actions").and_then(Value::as_array);
        Self {
            workspace: text("workspace").to_owned(),
            endpoint: (endpoint != "*").then(|| parts.collect()),
            actions: actions
                .into_iter()
                .flatten()
                .filter_map(|action| Some(action.as_str()?.to_owned()))
                .collect(),
            negative: fields.get("negative") != Some(&Value::Bool(false)),
        }
    }

    fn acts(&self, action: &str) -> bool {
        self.actions.iter().any(|own| own == action)
    }

    /// Whether it is for this path: part by part, `*` for any one.
    fn covers(&self, path: &[Part]) -> bool {
        self.endpoint.as_ref().is_none_or(|parts| {
            let mut pairs = parts.iter().zip(path);
            parts.len() == path.len() && pairs.all(|(own, part)| own == "*" || part.contains(own))
        })
    }
}

/// What is said of a path, and by what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// By nothing: it is not permitted.
    Silent,
    /// By what is for every path: whether it is permitted.
    General(bool),
    /// By what is for this path: whether it is permitted.
    Explicit(bool),
}

/// All that a user's roles permit and forbid.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    pub(super) fn read<'a>(all: impl IntoIterator<Item = &'a Fields>) -> Self {
        Self(all.into_iter().map(Rule::read).collect())
    }

    /// What they say of an action at a path, in a workspace or, without one, of what belongs to none.
    pub(super) fn judge(&self, workspace: Option<&str>, path: &[Part], action: &str) -> Verdict {
        for own in workspace.into_iter().chain(["*"]) {
            for explicit in [true, false] {
                let mut said = None;
                let all = self.0.iter().filter(|rule| rule.workspace == own);
                let of_kind = all.filter(|rule| rule.endpoint.is_some() == explicit);
                for rule in of_kind.filter(|rule| rule.acts(action) && rule.covers(path)) {
                    said = Some(said.unwrap_or(true) && !rule.negative);
                }
                match said {
                    Some(permitted) if explicit => return Verdict::Explicit(permitted),
                    Some(permitted) => return Verdict::General(permitted),
                    None => {}
                }
            }
        }
        Verdict::Silent
    }

    /// Whether they forbid an action at this path by name.
    pub(super) fn forbid(&self, workspace: Option<&str>, path: &[Part], action: &str) -> bool {
        self.judge(workspace, path, action) == Verdict::Explicit(false)
    }

    /// What the paths begin with at which one of `actions` is forbidden, in a workspace or in any.
    pub(super) fn forbidden(&self, workspace: Option<&str>, actions: &[&str]) -> BTreeSet<String> {
        let here = |rule: &&Rule| {
            workspace.is_none_or(|own| [own, "*"].contains(&rule.workspace.as_str()))
        };
        let acts = |rule: &&Rule| actions.iter().any(|action| rule.acts(action));
        let prohibitions = self.0.iter().filter(|rule| rule.negative);
        let endpoints = prohibitions
            .filter(here)
            .filter(acts)
            .filter_map(|rule| rule.endpoint.as_ref());
        endpoints
            .filter_map(|parts| parts.first().cloned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(workspace: &str, endpoint: &str, actions: &[&str], negative: bool) -> Fields {
        let fields = json!({
            "workspace": workspace, "endpoint": endpoint, "actions": actions, "negative": negative,
        });
        fields.as_object().unwrap().clone()
    }

    fn path(text: &str) -> Vec<Part> {
        let part = |text: &str| text.split('|').map(str::to_owned).collect();
        text.split('/').map(part).collect()
    }

    #[test]
    fn the_most_specific_permission_decides() {
        use Verdict::{Explicit, General, Silent};
        let all = ["create", "read", "update", "delete"];
        let rules = Rules::read(&[
            endpoint("*", "*", &["read"], false),
            endpoint("team", "*", &all, false),
            endpoint("team", "/plugins", &["create"], true),
            endpoint("team", "/services/secret", &all, true),
            endpoint("*", "/consumers/*", &["read"], true),
            endpoint("*", "/services/*/routes", &["create"], false),
        ]);
        for (workspace, at, action, expected) in [
            (Some("team"), "services", "create", General(true)),
            (Some("team"), "plugins", "create", Explicit(false)),
            (Some("team"), "plugins", "read", General(true)),
            (Some("team"), "plugins/x", "update", General(true)),
            (Some("team"), "services/secret", "read", Explicit(false)),
            (Some("team"), "services/1|secret", "read", Explicit(false)),
            (Some("team"), "services/1|other", "read", General(true)),
            (Some("other"), "services/1|secret", "read", General(true)),
            (Some("other"), "services", "create", Silent),
            (Some("other"), "services", "read", General(true)),
            (Some("other"), "services/x/routes", "create", Explicit(true)),
            (Some("other"), "services/x/routes/y", "create", Silent),
            (Some("other"), "consumers/x", "read", Explicit(false)),
            (Some("team"), "consumers/x", "read", General(true)),
            (None, "rbac/users", "create", Silent),
            (None, "rbac/users", "read", General(true)),
        ] {
            let said = rules.judge(workspace, &path(at), action);
            assert_eq!(said, expected, "{workspace:?} {at} {action}");
        }
        let nothing = Rules::default().judge(Some("team"), &path("services"), "read");
        assert_eq!(nothing, Silent);
        let forbidden = |workspace, actions: &[&str]| {
            let first = rules.forbidden(workspace, actions);
            first.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(forbidden(Some("team"), &["read"]), "consumers services");
        assert_eq!(forbidden(Some("other"), &["read"]), "consumers");
        assert_eq!(forbidden(Some("other"), &["create", "update"]), "");
        assert_eq!(forbidden(None, &["create"]), "plugins services");
    }
}

//! Which records a written record may refer to: a prohibition of a record applies when a body names it, just as when a
//! path leads through it.

use std::sync::Arc;

use shared::entity::{Definition, definition};
use shared::snapshot::Key;

use super::asked::{self, parent_of};
use super::rules::{Part, Rules, Verdict};
use crate::config::{Change, Config, foreign_id};
use crate::publisher::Forbidden;

/// Where records that a caller writes may point to; the default: anywhere.
#[derive(Clone, Debug, Default)]
pub(in crate::admin) struct Bounds(Option<Arc<Bound>>);

/// What bounds a user.
#[derive(Debug)]
struct Bound {
    user: String,
    rules: Rules,
    /// That of the request; none if it is about the whole cluster.
    workspace: Option<String>,
    /// What the request does, and to read: what a record points to shows through it.
    actions: Vec<&'static str>,
    /// What was judged as a part of the path.
    judged: Vec<Key>,
}

impl Bounds {
    /// Those that `rules` set for what `user` asks.
    pub(super) fn of(
        user: &str,
        rules: Rules,
        workspace: Option<&str>,
        actions: &[&'static str],
        judged: Vec<Key>,
    ) -> Self {
        let actions = actions.iter().copied().chain(["read"]).collect();
        Self(Some(Arc::new(Bound {
            user: user.to_owned(),
            rules,
            workspace: workspace.map(str::to_owned),
            actions,
            judged,
        })))
    }

    /// Refuses a change that would point a record of `config` to one that the user may not do that to. What pointed
    /// there before may go on.
    pub(in crate::admin) fn check(
        &self,
        config: &Config,
        change: &Change,
    ) -> Result<(), Forbidden> {
        let Some(bound) = &self.0 else {
            return Ok(());
        };
        for (key, stored) in &change.puts {
            let Some(entity) = definition(key.kind) else {
                continue;
            };
            let is_foreign = |name: &str| entity.foreign_keys().any(|(field, _)| field == name);
            let after = stored.pick(is_foreign);
            let before = config.record(*key);
            for (field, kind) in entity.foreign_keys() {
                let Some(id) = foreign_id(&after, field) else {
                    continue;
                };
                let was = before.as_ref().and_then(|fields| foreign_id(fields, field));
                if was != Some(id) && bound.forbids(config, entity, field, Key { kind, id }) {
                    return Err(Forbidden {
                        user: bound.user.clone(),
                        field: field.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }
}

impl Bound {
    /// Whether `field` of a record may not point to `to`.
    fn forbids(&self, config: &Config, entity: &Definition, field: &str, to: Key) -> bool {
        if self.judged.contains(&to) {
            return false;
        }
        let workspace = self.workspace.as_deref();
        let paths = asked::paths(config, to);
        let below = below(entity, field, &paths);
        self.actions.iter().any(|action| {
            // A way that is permitted by itself is one, whether a path or a body leads there.
            let own = below
                .as_ref()
                .map(|path| self.rules.judge(workspace, path, action));
            match own {
                Some(Verdict::Explicit(permitted)) => !permitted,
                _ => paths
                    .iter()
                    .any(|path| self.rules.forbid(workspace, path, action)),
            }
        })
    }
}

/// The path of the collection that a record is in by `field`, below one whose `paths` these are, if there is one.
fn below(entity: &Definition, field: &str, paths: &[Vec<Part>]) -> Option<Vec<Part>> {
    parent_of(entity, field)?;
    let (_, name) = entity.nested.iter().find(|(own, _)| *own == field)?;
    let mut path = paths.first()?.clone();
    path.push(vec![(*name).to_owned()]);
    Some(path)
}

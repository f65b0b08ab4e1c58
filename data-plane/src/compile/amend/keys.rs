//! Keys and consumer groups, which filters of every route look things up by.

use std::sync::Arc;

use plugins::client_keys::ClientKeys;
use plugins::environment::Membership;
use shared::entity::{ClientKey, ConsumerGroup, Entity as _, SessionKey};
use uuid::Uuid;

use super::super::environment;
use super::super::workspaces::Workspaces;
use super::Amendment;

impl Amendment<'_> {
    /// What the gateway proves itself with at providers: the same for every workspace.
    pub(super) fn client_keys(&self) -> ClientKeys {
        let first = self.environments.first();
        first.map_or_else(ClientKeys::default, |first| {
            ClientKeys::clone(&first.client_keys)
        })
    }

    /// Has the gateway prove itself with `keys`.
    pub(super) fn present(&mut self, keys: ClientKeys) {
        let keys = Arc::new(keys);
        for environment in &mut self.environments {
            Arc::make_mut(environment).client_keys = Arc::clone(&keys);
        }
    }

    /// Changes the keys, of which there are few.
    pub(super) fn change_keys(&mut self) {
        if !self.take(ClientKey::KIND).is_empty() {
            let keys = self.all::<ClientKey>();
            let mut presented = environment::client_keys(&keys, &[], &mut self.faults);
            presented.certificates = self.client_keys().certificates;
            self.present(presented);
        }
        if !self.take(SessionKey::KIND).is_empty() {
            let keys = self.all::<SessionKey>();
            let ring = environment::key_ring(&keys, &mut self.faults);
            for environment in &mut self.environments {
                Arc::make_mut(environment).session_keys = ring.clone();
            }
        }
    }

    /// Changes consumer groups: their members know them by name, and so do tokens.
    pub(super) fn change_groups(&mut self) {
        let changes = self.take(ConsumerGroup::KIND);
        // What goes makes room first: a name may pass from one to another.
        for change in &changes {
            let workspace = change.before.as_ref().map(Workspaces::of_one);
            let environment = workspace.and_then(|workspace| self.environment(workspace));
            if let (Some(environment), Some(was)) = (environment, change.was::<ConsumerGroup>()) {
                environment.consumers.group_ids.remove(&was.name);
            }
        }
        for change in changes {
            let was = change.was::<ConsumerGroup>();
            let is = change.is::<ConsumerGroup>(&mut self.faults);
            let name = is.map(|group| group.name);
            if let (Some(name), Some(environment)) = (&name, self.environment(change.workspace)) {
                let known = &mut environment.consumers.group_ids;
                known.insert(name.clone(), change.key.id);
            }
            // One that is new has no members yet.
            if was.is_some_and(|group| Some(&group.name) != name.as_ref()) {
                self.rename_group(change.key.id, name.as_deref());
            }
        }
    }

    /// Has the members of `group` know it by `name`; none: it is gone.
    fn rename_group(&mut self, group: Uuid, name: Option<&str>) {
        for environment in &mut self.environments {
            let members = environment.consumers.memberships.iter();
            let members = members.filter(|(_, list)| list.iter().any(|one| one.group == group));
            let members: Vec<Uuid> = members.map(|(consumer, _)| *consumer).collect();
            for consumer in members {
                let all = &mut Arc::make_mut(environment).consumers.memberships;
                let Some(list) = all.get_mut(&consumer) else {
                    continue;
                };
                list.retain(|one| one.group != group);
                if let Some(name) = name {
                    let place = list.partition_point(|one| one.name.as_str() < name);
                    let name = name.to_owned();
                    list.insert(place, Membership { group, name });
                } else if list.is_empty() {
                    all.remove(&consumer);
                }
            }
        }
    }
}

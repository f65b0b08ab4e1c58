//! Replaces references to secrets with the secrets, before anything is compiled. Only fields whose schema allows
//! references are considered, so that no other text is taken for one. A secret that can no longer be read keeps its
//! last value; a record whose secret has never been read cannot be run.

use std::collections::{BTreeSet, HashMap};

use memchr::memmem;
use plugins::registry;
use serde_json::{Map, Value};
use shared::entity::{self, Entity, Plugin, Vault, definition};
use shared::schema::{Kind, Record as Schema};
use shared::secret::Secret;
use shared::snapshot::{Difference, Key, Record, Snapshot};
use shared::types::{Reference, is_reference};

use super::CompileFault;

/// What every reference begins with, as it stands in a record's JSON.
const MARK: &[u8] = b"{vault://";

/// A secret's place, with the vault's own configuration put in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A variable of the environment.
    Environment(String),
    /// A file below the directory for secrets.
    File(String),
}

/// Reads a secret; the error is what an operator is told, without the secret.
pub type Read<'a> = &'a dyn Fn(&Place) -> Result<String, String>;

/// A snapshot with what is behind its references in their place.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// For readers here only.
    pub snapshot: Snapshot,
    /// The references that lead nowhere, and have never led anywhere. They stand in the snapshot as they are.
    pub lost: Vec<CompileFault>,
    /// Those that lead nowhere any more, with the secret of before in their place.
    pub stale: Vec<CompileFault>,
    /// Which records have references.
    keys: BTreeSet<Key>,
    /// What was behind each reference.
    secrets: HashMap<String, Secret<String>>,
}

/// What a snapshot is read as, if it has references, and by which records that differs from what was read before.
pub type Change = (Option<Resolved>, Difference);

/// Replaces every reference of `snapshot`; `None` if there are none.
pub fn resolve(snapshot: &Snapshot, read: Read<'_>) -> Option<Resolved> {
    let found = memmem::Finder::new(MARK);
    let concerned = |record: &Record| has_references(record, &found);
    let keys = snapshot
        .records()
        .filter(concerned)
        .map(|record| record.key);
    resolve_those(snapshot, keys.collect(), read, None)
}

/// The same for a snapshot that differs by `difference` from the one that led to `before`, and by which records as
/// they are read; `None` if references may lead elsewhere now.
pub(crate) fn resolve_on(
    before: Option<&Resolved>,
    snapshot: &Snapshot,
    difference: &Difference,
    read: Read<'_>,
) -> Option<Change> {
    let found = memmem::Finder::new(MARK);
    let mut keys = before.map_or_else(BTreeSet::new, |before| before.keys.clone());
    for key in difference.puts.iter().chain(&difference.removes) {
        let record = snapshot.record(key);
        if record.is_some_and(|record| has_references(&record, &found)) {
            keys.insert(*key);
        } else {
            keys.remove(key);
        }
    }
    let mut changed = difference.puts.iter().chain(&difference.removes);
    if !keys.is_empty() && changed.any(|key| key.kind == Vault::KIND) {
        return None;
    }
    let resolved = resolve_those(snapshot, keys, read, before);
    let mut difference = difference.clone();
    if let (Some(before), Some(after)) = (before, &resolved) {
        let is_new = |key: &&Key| {
            let was = before.snapshot.record(key);
            was != after.snapshot.record(key) && !difference.puts.contains(key)
        };
        let read_anew: Vec<Key> = after.keys.iter().filter(is_new).copied().collect();
        difference.puts.extend(read_anew);
    }
    Some((resolved, difference))
}

/// Whether `record` may have references that a data plane needs. It reads no keys, so that none is to stand in its way.
fn has_references(record: &Record, mark: &memmem::Finder<'_>) -> bool {
    record.key.kind != entity::Key::KIND && mark.find(&record.json).is_some()
}

fn resolve_those(
    snapshot: &Snapshot,
    keys: BTreeSet<Key>,
    read: Read<'_>,
    before: Option<&Resolved>,
) -> Option<Resolved> {
    if keys.is_empty() {
        return None;
    }
    let mut walk = Walk {
        vaults: vaults(snapshot),
        read,
        known: before.map(|before| &before.secrets),
        secrets: HashMap::new(),
        lost: Vec::new(),
        stale: Vec::new(),
    };
    let records = keys.iter().filter_map(|key| snapshot.record(key));
    let resolved: Vec<Record> = records.filter_map(|record| walk.resolve(&record)).collect();
    Some(Resolved {
        snapshot: snapshot.read_as(resolved),
        lost: walk.lost,
        stale: walk.stale,
        secrets: walk.secrets,
        keys,
    })
}

/// The configured vaults by their prefix.
fn vaults(snapshot: &Snapshot) -> HashMap<String, Vault> {
    snapshot
        .of_kind(Vault::KIND)
        .filter_map(|record| serde_json::from_slice::<Vault>(&record.json).ok())
        .map(|vault| (vault.prefix.clone(), vault))
        .collect()
}

/// A walk over the fields of records.
struct Walk<'a> {
    vaults: HashMap<String, Vault>,
    read: Read<'a>,
    /// What was behind references before.
    known: Option<&'a HashMap<String, Secret<String>>>,
    secrets: HashMap<String, Secret<String>>,
    lost: Vec<CompileFault>,
    stale: Vec<CompileFault>,
}

impl Walk<'_> {
    /// `record` with secrets in the place of its references.
    fn resolve(&mut self, record: &Record) -> Option<Record> {
        let schema = &definition(record.key.kind)?.schema;
        let mut fields: Map<String, Value> = serde_json::from_slice(&record.json).ok()?;
        let key = record.key;
        self.record(key, schema, &mut fields, "");
        if key.kind == Plugin::KIND
            && let Some(plugin) = fields
                .get("name")
                .and_then(Value::as_str)
                .and_then(registry::definition)
            && let Some(Value::Object(config)) = fields.get_mut("config")
        {
            self.record(key, &plugin.fields, config, "config.");
        }
        Some(Record {
            key,
            json: serde_json::to_vec(&fields).ok()?.into(),
        })
    }

    fn record(&mut self, key: Key, schema: &Schema, fields: &mut Map<String, Value>, path: &str) {
        for field in &schema.fields {
            let Some(value) = fields.get_mut(&field.name) else {
                continue;
            };
            let path = format!("{path}{}", field.name);
            if field.referenceable {
                self.texts(key, value, &path);
            }
            self.inside(key, &field.kind, value, &path);
        }
    }

    /// Records may be inside a field whose own texts are none.
    fn inside(&mut self, key: Key, kind: &Kind, value: &mut Value, path: &str) {
        match (kind, value) {
            (Kind::Record(schema), Value::Object(fields)) => {
                self.record(key, schema, fields, &format!("{path}."));
            }
            (Kind::Array(element, _) | Kind::Set(element, _), Value::Array(list)) => {
                for value in list {
                    self.inside(key, element, value, path);
                }
            }
            (Kind::Map(element, _), Value::Object(map)) => {
                for (_, value) in map.iter_mut() {
                    self.inside(key, element, value, path);
                }
            }
            _ => {}
        }
    }

    /// Replaces a text, or those of a list or map.
    fn texts(&mut self, key: Key, value: &mut Value, path: &str) {
        match value {
            Value::String(text) if is_reference(text) => self.text(key, text, path),
            Value::Array(list) => {
                for value in list {
                    self.texts(key, value, path);
                }
            }
            Value::Object(map) => {
                for (_, value) in map.iter_mut() {
                    self.texts(key, value, path);
                }
            }
            _ => {}
        }
    }

    /// Replaces the reference `text` by what is behind it, or was.
    fn text(&mut self, key: Key, text: &mut String, path: &str) {
        let mut secret = self.secret(text);
        if let Err(reason) = &secret {
            let fault = CompileFault {
                kind: key.kind,
                id: key.id,
                field: path.to_owned(),
                message: format!("the reference {text} cannot be resolved: {reason}"),
            };
            let known = self.known.and_then(|known| known.get(text));
            if let Some(known) = known {
                self.stale.push(fault);
                secret = Ok(known.expose().clone());
            } else {
                self.lost.push(fault);
            }
        }
        if let Ok(secret) = secret {
            let reference = std::mem::replace(text, secret.clone());
            self.secrets.insert(reference, Secret::new(secret));
        }
    }

    fn secret(&self, text: &str) -> Result<String, String> {
        let reference = Reference::parse(text).ok_or("it names no secret")?;
        let (backend, prefix) = match self.vaults.get(reference.vault) {
            Some(vault) => {
                let prefix = vault.config.get("prefix").and_then(Value::as_str);
                (vault.name.as_str(), prefix.unwrap_or_default())
            }
            None => (reference.vault, ""),
        };
        let prefix = reference.prefix.unwrap_or(prefix);
        match backend {
            "env" => {
                let (name, key) = match reference.path.split_once('/') {
                    Some((name, key)) => (name, Some(key)),
                    None => (reference.path, None),
                };
                let name = format!("{prefix}{name}").replace('-', "_").to_uppercase();
                let secret = (self.read)(&Place::Environment(name))?;
                key.map_or(Ok(secret.clone()), |key| member(&secret, key))
            }
            "file" if prefix.is_empty() => (self.read)(&Place::File(reference.path.to_owned())),
            "file" => (self.read)(&Place::File(format!("{prefix}/{}", reference.path))),
            other => Err(format!("there is no vault '{other}'")),
        }
    }
}

/// One member of a secret that holds several, as JSON.
fn member(secret: &str, key: &str) -> Result<String, String> {
    let parsed: Value = serde_json::from_str(secret).map_err(|_| "it holds no JSON")?;
    match parsed.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) if !other.is_null() => Ok(other.to_string()),
        _ => Err(format!("its JSON has no member '{key}'")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::snapshot::{Key, Revision};
    use uuid::Uuid;

    use super::*;

    fn snapshot(records: Vec<(&'static str, Value)>) -> Snapshot {
        let records = records
            .into_iter()
            .zip(1..)
            .map(|((kind, mut fields), at)| {
                let id = Uuid::from_u128(at);
                fields["id"] = json!(id);
                fields["created_at"] = json!(1);
                fields["updated_at"] = json!(1);
                Record {
                    key: Key { kind, id },
                    json: serde_json::to_vec(&fields).unwrap().into(),
                }
            });
        Snapshot::new(1, Revision(1), records.collect())
    }

    fn read(place: &Place) -> Result<String, String> {
        match place {
            Place::Environment(name) if name == "MY_SECRET" => Ok("hush".to_owned()),
            Place::Environment(name) if name == "KV_PAIR" => Ok(r#"{"a":"one"}"#.to_owned()),
            Place::File(path) if path == "oidc/secret" => Ok("from a file".to_owned()),
            _ => Err("it is not set".to_owned()),
        }
    }

    fn plugin(config: &Value) -> (&'static str, Value) {
        let mut whole = json!({ "issuer": "https://op.test" });
        for (name, value) in config.as_object().unwrap() {
            whole[name] = value.clone();
        }
        (
            "plugins",
            json!({ "name": "openid-connect", "config": whole }),
        )
    }

    fn config_of(snapshot: &Snapshot, id: u128) -> Value {
        let id = Uuid::from_u128(id);
        let record = snapshot.records().find(|record| record.key.id == id);
        serde_json::from_slice::<Value>(&record.unwrap().json).unwrap()["config"].clone()
    }

    #[test]
    fn references_are_replaced_where_the_schema_allows_them() {
        let vault = |prefix: &str, name: &str, inner: &str| {
            let fields = json!({ "prefix": prefix, "name": name, "config": { "prefix": inner } });
            ("vaults", fields)
        };
        let before = snapshot(vec![
            plugin(&json!({
                "client_secret": ["{vault://env/my-secret}", "plain", "{vault://mine/pair/a}", "{vault://files/secret}",
                    "{vault://env/secret?prefix=my-}"],
                "redirect_uri": ["{vault://env/my-secret}"],
            })),
            vault("mine", "env", "kv_"),
            vault("files", "file", "oidc"),
        ]);
        let after = resolve(&before, &read).unwrap().snapshot;
        let config = config_of(&after, 1);
        assert_eq!(
            config["client_secret"],
            json!(["hush", "plain", "one", "from a file", "hush"])
        );
        // No field for secrets: a text like any other.
        assert_eq!(config["redirect_uri"], json!(["{vault://env/my-secret}"]));
        assert_eq!(after.position, before.position);
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_named_without_a_secret() {
        let secrets =
            json!({ "client_secret": ["{vault://env/my-secret}", "{vault://env/other}"] });
        let resolved = resolve(&snapshot(vec![plugin(&secrets)]), &read).unwrap();
        let [fault] = resolved.lost.as_slice() else {
            panic!("{:?}", resolved.lost)
        };
        assert_eq!(fault.field, "config.client_secret");
        assert_eq!(
            fault.message,
            "the reference {vault://env/other} cannot be resolved: it is not set"
        );
        assert_eq!(resolved.stale, []);
    }

    #[test]
    fn a_secret_that_is_gone_stays_what_it_was_and_one_that_never_was_stays_lost() {
        let texts = json!({ "client_secret": ["{vault://env/my-secret}", "{vault://env/other}"] });
        let before = snapshot(vec![plugin(&texts)]);
        let first = resolve(&before, &read).unwrap();
        let nothing = |_: &Place| Err("gone".to_owned());
        let none = before.inventory.since(&before.inventory);
        let (second, changed) = resolve_on(Some(&first), &before, &none, &nothing).unwrap();
        let second = second.unwrap();
        assert!(changed.puts.is_empty(), "{changed:?}");
        let secrets = config_of(&second.snapshot, 1)["client_secret"].clone();
        assert_eq!(secrets, json!(["hush", "{vault://env/other}"]));
        assert_eq!((second.stale.len(), second.lost.len()), (1, 1));
        // It is known further on, and what has been lost may be found.
        let found = |place: &Place| match place {
            Place::Environment(name) if name == "OTHER" => Ok("found".to_owned()),
            _ => nothing(place),
        };
        let (third, changed) = resolve_on(Some(&second), &before, &none, &found).unwrap();
        let third = third.unwrap();
        assert_eq!(changed.puts.len(), 1);
        let secrets = config_of(&third.snapshot, 1)["client_secret"].clone();
        assert_eq!(secrets, json!(["hush", "found"]));
        assert_eq!((third.stale.len(), third.lost.len()), (1, 0));
        // Secrets are not printed.
        assert!(!format!("{:?}", third.secrets).contains("hush"));
    }

    #[test]
    fn a_configuration_without_references_is_not_copied() {
        // Nothing here reads keys.
        let key = json!({ "kid": "a", "jwk": "{vault://env/other}" });
        let plain = snapshot(vec![plugin(&json!({})), ("keys", key)]);
        assert!(resolve(&plain, &read).is_none());
        let mut all = plain.inventory.since(&plain.inventory);
        all.puts = plain.records().map(|record| record.key).collect();
        let (read_as, _) = resolve_on(None, &plain, &all, &read).unwrap();
        assert!(read_as.is_none());
    }

    #[test]
    fn what_is_behind_a_reference_by_now_is_a_change_of_its_record() {
        let secret = |number: u128, path: &str| {
            let text = format!("{{vault://{path}}}");
            let (kind, mut fields) = plugin(&json!({ "client_secret": [text] }));
            let id = Uuid::from_u128(number);
            fields["id"] = json!(id);
            Record {
                key: Key { kind, id },
                json: serde_json::to_vec(&fields).unwrap().into(),
            }
        };
        let plain = snapshot(vec![("consumers", json!({ "username": "a" }))]);
        let to = |before: &Snapshot, puts: Vec<Record>, removes: &[Key]| {
            let after = before.patched(1, before.position.revision.next(), puts, removes);
            let after = after.unwrap();
            let difference = after.inventory.since(&before.inventory);
            (after, difference)
        };
        let sorted = |mut keys: Vec<Key>| {
            keys.sort();
            keys
        };
        let keys = |numbers: &[u128]| -> Vec<Key> {
            let ids = numbers.iter().map(|number| Uuid::from_u128(*number));
            ids.map(|id| Key {
                kind: "plugins",
                id,
            })
            .collect()
        };
        // The first ones.
        let both = vec![secret(11, "env/my-secret"), secret(12, "file/oidc/secret")];
        let (with, difference) = to(&plain, both, &[]);
        let (first, changed) = resolve_on(None, &with, &difference, &read).unwrap();
        assert_eq!(sorted(changed.puts), keys(&[11, 12]));
        let first = first.unwrap();
        assert_eq!(
            config_of(&first.snapshot, 12)["client_secret"],
            json!(["from a file"])
        );
        // Another record changes, and the file meanwhile.
        let other = |place: &Place| match place {
            Place::File(_) => Ok("another".to_owned()),
            place @ Place::Environment(_) => read(place),
        };
        let (later, difference) = to(&with, vec![secret(13, "env/my-secret")], &[]);
        let second = resolve_on(Some(&first), &later, &difference, &other);
        let (second, changed) = second.unwrap();
        assert_eq!(sorted(changed.puts), keys(&[12, 13]));
        let second = second.unwrap();
        assert_eq!(
            config_of(&second.snapshot, 12)["client_secret"],
            json!(["another"])
        );
        // They go.
        let (bare, difference) = to(&later, Vec::new(), &keys(&[11, 12, 13]));
        let (none, changed) = resolve_on(Some(&second), &bare, &difference, &other).unwrap();
        assert!(none.is_none());
        assert_eq!(sorted(changed.removes), keys(&[11, 12, 13]));
        // One that leads nowhere, and a vault that may lead elsewhere.
        let (lost, difference) = to(&with, vec![secret(14, "env/other")], &[]);
        let (read_as, _) = resolve_on(Some(&first), &lost, &difference, &read).unwrap();
        assert_eq!(read_as.unwrap().lost.len(), 1);
        let vault = Record {
            key: Key {
                kind: "vaults",
                id: Uuid::from_u128(15),
            },
            json: serde_json::to_vec(&json!({ "prefix": "env", "name": "env" }))
                .unwrap()
                .into(),
        };
        let (led, difference) = to(&with, vec![vault], &[]);
        assert!(resolve_on(Some(&first), &led, &difference, &read).is_none());
    }
}

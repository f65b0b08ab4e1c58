//! Where a data plane reads the secrets that its configuration refers to: its environment, and files in one
//! directory. The only place that does. What else of the node a configuration is compiled with is here, too.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use shared::snapshot::{Difference, Snapshot};

use crate::compile::references::{Place, Resolved, resolve, resolve_on};
use crate::compile::room::Room;
use crate::compile::{CompileFault, CompiledSnapshot, compile_without};
use crate::settings::Settings;
use crate::upstream::tls::defaults::TlsDefaults;
pub use crate::upstream::tls::defaults::UpstreamTlsError;

/// Largest secret in a file, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// The places that secrets may be read from.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// The only directory whose files references can name; none: no file can.
    directory: Option<PathBuf>,
    /// How TLS is spoken to servers where the configuration does not say.
    tls: Arc<TlsDefaults>,
}

impl Secrets {
    /// Secrets of the environment, and of the directory that `settings` name.
    ///
    /// # Errors
    ///
    /// What else they name for TLS to upstream servers cannot be read.
    pub fn of(settings: &Settings) -> Result<Self, UpstreamTlsError> {
        Ok(Self {
            directory: settings.secrets_directory.clone(),
            tls: Arc::new(TlsDefaults::of(settings)?),
        })
    }

    /// Compiles `snapshot` with every reference replaced, as long as there is `room`. They are read anew each time.
    pub fn compile(
        &self,
        snapshot: &Snapshot,
        room: &Room,
    ) -> Result<CompiledSnapshot, Vec<CompileFault>> {
        let resolved = resolve(snapshot, &|place| self.read(place));
        self.compile_resolved(snapshot, resolved, room)
    }

    /// The same on what was compiled `before` from `old`, from which it differs by `difference`. What makes a record
    /// unfit that ran is refused.
    pub(crate) fn compile_on(
        &self,
        (before, old): (&CompiledSnapshot, &Snapshot),
        snapshot: &Snapshot,
        difference: &Difference,
        room: &Room,
    ) -> Result<CompiledSnapshot, Vec<CompileFault>> {
        let compiled = self.compile_next((before, old), snapshot, difference, room)?;
        let unfit = compiled.unfit();
        let refusals = unfit.refusals(before.unfit());
        if refusals.is_empty() {
            Ok(compiled)
        } else {
            Err(refusals)
        }
    }

    /// Whether secrets are there that `before`, which was compiled from `snapshot`, lacks.
    pub(crate) fn finds_more(&self, before: &CompiledSnapshot, snapshot: &Snapshot) -> bool {
        let (read, none) = (&|place: &Place| self.read(place), Difference::default());
        let lost = before.resolved().map(|before| &before.lost);
        resolve_on(before.resolved(), snapshot, &none, read)
            .is_some_and(|(now, _)| now.as_ref().map(|now| &now.lost) != lost)
    }

    fn compile_next(
        &self,
        (before, old): (&CompiledSnapshot, &Snapshot),
        snapshot: &Snapshot,
        difference: &Difference,
        room: &Room,
    ) -> Result<CompiledSnapshot, Vec<CompileFault>> {
        let read = &|place: &Place| self.read(place);
        let Some((resolved, difference)) =
            resolve_on(before.resolved(), snapshot, difference, read)
        else {
            return self.compile(snapshot, room);
        };
        let old = before.resolved().map_or(old, |before| &before.snapshot);
        let new = resolved.as_ref().map_or(snapshot, |after| &after.snapshot);
        let lacks_nothing = resolved.as_ref().is_none_or(|after| after.lost.is_empty());
        if lacks_nothing && let Some(Ok(amended)) = before.amended(old, new, &difference, room) {
            return Ok(amended.read_from(resolved));
        }
        self.compile_resolved(snapshot, resolved, room)
    }

    /// Compiles `snapshot` as it is read, without the records whose secrets are lost.
    fn compile_resolved(
        &self,
        snapshot: &Snapshot,
        resolved: Option<Resolved>,
        room: &Room,
    ) -> Result<CompiledSnapshot, Vec<CompileFault>> {
        let read = resolved.as_ref();
        let snapshot = read.map_or(snapshot, |read| &read.snapshot);
        let lost = read.map_or(&[][..], |read| &read.lost);
        let compiled = compile_without(snapshot, lost, &self.tls, room)?;
        Ok(compiled.read_from(resolved))
    }

    fn read(&self, place: &Place) -> Result<String, String> {
        match place {
            Place::Environment(name) => std::env::var(name).map_err(|_| {
                format!("the variable {name} is not set in the data plane's environment")
            }),
            Place::File(path) => self.read_file(Path::new(path)),
        }
    }

    fn read_file(&self, path: &Path) -> Result<String, String> {
        let directory = self
            .directory
            .as_ref()
            .ok_or("the setting secrets_directory of the data plane is not set")?;
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
        if !path.components().all(inside) {
            return Err("the path leads out of secrets_directory".to_owned());
        }
        let mut text = String::new();
        let file = File::open(directory.join(path)).map_err(|error| error.kind().to_string())?;
        let read = file.take(LARGEST + 1).read_to_string(&mut text);
        read.map_err(|error| error.kind().to_string())?;
        if text
            .len()
            .to_string()
            .parse::<u64>()
            .is_ok_and(|length| length > LARGEST)
        {
            return Err("the file is larger than 1 MiB".to_owned());
        }
        // Editors and `echo` end a file with a line break that is no part of the secret.
        let end = text.trim_end_matches(['\n', '\r']).len();
        text.truncate(end);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shared::snapshot::{Key, Record, Revision};
    use uuid::Uuid;

    use super::*;

    fn within(directory: PathBuf) -> Secrets {
        Secrets {
            directory: Some(directory),
            ..Secrets::default()
        }
    }

    #[test]
    fn a_file_is_read_only_below_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("a")).unwrap();
        std::fs::write(directory.path().join("a/secret"), "hush\n").unwrap();
        let secrets = within(directory.path().join("a"));
        let read = |path: &str| secrets.read(&Place::File(path.to_owned()));
        assert_eq!(read("secret").as_deref(), Ok("hush"));
        assert!(read("none").is_err());
        for path in ["../a/secret", "/etc/hostname", "x/../secret"] {
            let refused = read(path).unwrap_err();
            assert_eq!(refused, "the path leads out of secrets_directory", "{path}");
        }
        assert!(
            Secrets::default()
                .read(&Place::File("secret".to_owned()))
                .is_err()
        );
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let secrets = Secrets::default();
        let name = "WARDGATE_TEST_NO_SUCH_VARIABLE";
        let refused = secrets
            .read(&Place::Environment(name.to_owned()))
            .unwrap_err();
        assert!(refused.contains(name), "{refused}");
        assert!(secrets.read(&Place::Environment("PATH".to_owned())).is_ok());
    }

    #[test]
    fn what_ran_is_not_made_unfit_by_a_record_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("a")).unwrap();
        std::fs::write(directory.path().join("a/secret"), "hush").unwrap();
        let secrets = within(directory.path().to_owned());
        let record = |kind, id, mut fields: Value| {
            let id = Uuid::from_u128(id);
            for (name, value) in [
                ("id", json!(id)),
                ("created_at", json!(1)),
                ("updated_at", json!(1)),
            ] {
                fields[name] = value;
            }
            let json = serde_json::to_vec(&fields).unwrap().into();
            Record {
                key: Key { kind, id },
                json,
            }
        };
        let snapshot = |revision, prefix: &str| {
            let vault = json!({ "prefix": "mine", "name": "file", "config": { "prefix": prefix } });
            let headers = json!({ "x": "{vault://mine/secret}" });
            let config = json!({ "http_endpoint": "http://a.test/", "headers": headers });
            let plugin = json!({ "name": "http-log", "config": config });
            let records = vec![record("vaults", 1, vault), record("plugins", 2, plugin)];
            Snapshot::new(1, Revision(revision), records)
        };
        let (old, new) = (snapshot(1, "a"), snapshot(2, "b"));
        let before = secrets.compile(&old, &Room::default()).unwrap();
        assert!(before.unfit().is_empty(), "{:?}", before.unfit());
        let difference = new.inventory.since(&old.inventory);
        let refused = secrets.compile_on((&before, &old), &new, &difference, &Room::default());
        let faults = format!("{:?}", refused.unwrap_err());
        assert!(faults.contains(&Uuid::from_u128(2).to_string()), "{faults}");
    }
}

//! Whether a process with other settings could take the place of this one. It is tried before this one gives up anything,
//! since nobody would serve if its successor then failed to start.

use std::path::PathBuf;

use crate::data_directory::{Held, hold, store_path};
use crate::fleet::Had;
use crate::opening::{self, Known};
use crate::settings::Settings;
use crate::store::{self, SecretsKey, StoreError};
use crate::{ControlPlane, StartError, has_no_user, listeners};

/// What the store of a running process is opened by.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) key: SecretsKey,
    place: Place,
    directory: Held,
}

/// Where a store is.
#[derive(Debug, PartialEq)]
enum Place {
    /// On this machine.
    Directory(PathBuf),
    /// In etcd: its members, and what the names there begin with.
    Etcd(Vec<String>, String),
}

impl Place {
    fn of(settings: &Settings) -> Self {
        match settings.etcd.used() {
            Some(etcd) => Self::Etcd(etcd.endpoints.clone(), etcd.prefix.clone()),
            None => Self::Directory(store_path(&settings.data_directory)),
        }
    }
}

impl Opened {
    /// Of a process with `settings`, which has its data directory for itself from now on.
    pub(crate) fn by(settings: &Settings, key: SecretsKey) -> Result<Self, StartError> {
        Ok(Self {
            key,
            place: Place::of(settings),
            directory: hold_for(settings)?,
        })
    }
}

fn hold_for(settings: &Settings) -> Result<Held, StartError> {
    hold(&settings.data_directory).map_err(|source| StartError::DataDirectory {
        path: settings.data_directory.clone(),
        source,
    })
}

impl ControlPlane {
    /// Says why no process could start with `settings` in the place of this one, as far as `--check` has not said so: it
    /// may neither take the addresses nor open the store of a process that runs.
    ///
    /// # Errors
    ///
    /// What the start would end with.
    pub async fn could_be_followed_by(&self, settings: &Settings) -> Result<(), StartError> {
        let asked = settings.addresses().map_err(StartError::Listeners)?;
        listeners::try_others(&asked, &self.sockets)?;
        let directory = &settings.data_directory;
        std::fs::create_dir_all(directory).map_err(|source| StartError::DataDirectory {
            path: directory.clone(),
            source,
        })?;
        if !self.store.directory.is(directory) {
            hold_for(settings)?;
        }
        let is_own = self.store.place == Place::of(settings);
        if let Some(etcd) = settings.etcd.used() {
            let key = SecretsKey::read(&settings.secrets_key_path())?;
            // What is only known here would be gone with this process.
            let had = is_own.then(|| Had::of(&self.publisher));
            let known = Known::of(directory, had)?;
            opening::try_etcd(etcd.clone(), key, known).await?;
        } else if is_own {
            self.could_be_opened_by(settings)?;
        }
        if is_own && settings.needs_user() && has_no_user(&self.publisher) {
            return Err(StartError::NoUser);
        }
        Ok(())
    }

    /// Whether a process with `settings` could open the store on this machine again that is open here.
    fn could_be_opened_by(&self, settings: &Settings) -> Result<(), StartError> {
        let directory = store_path(&settings.data_directory);
        let path = settings.secrets_key_path();
        if !SecretsKey::read(&path)?.is(&self.store.key) {
            return Err(StartError::Store(StoreError::Key(format!(
                "{} is not the key that the store in {} is sealed with",
                path.display(),
                directory.display()
            ))));
        }
        store::check_room_to_open(&directory)?;
        Ok(())
    }
}

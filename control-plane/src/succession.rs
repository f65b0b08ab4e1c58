//! Whether a process with other settings could take the place of this one. It is tried before this one gives up anything,
//! since nobody would serve if its successor then failed to start.

use std::path::PathBuf;

use crate::opening;
use crate::settings::{Settings, store_path};
use crate::store::{self, SecretsKey, StoreError};
use crate::{ControlPlane, StartError, has_no_user, listeners};

/// What the store of a running process is opened by.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) key: SecretsKey,
    /// Where it is, unless it is in etcd.
    pub(crate) directory: Option<PathBuf>,
}

impl Opened {
    /// Of a process with `settings`.
    pub(crate) fn by(settings: &Settings, key: SecretsKey) -> Self {
        let own = settings.etcd.used().is_none();
        Self {
            key,
            directory: own.then(|| store_path(&settings.data_directory)),
        }
    }
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
        let is_own = match settings.etcd.used() {
            Some(etcd) => {
                let key = SecretsKey::read(&settings.secrets_key_path())?;
                opening::try_etcd(etcd.clone(), key).await?;
                self.store.directory.is_none()
            }
            None => self.could_be_opened_by(settings)?,
        };
        if is_own && settings.needs_user() && has_no_user(&self.publisher) {
            return Err(StartError::NoUser);
        }
        Ok(())
    }

    /// Whether the store on this machine that `settings` name is the one that is open here. If so, they must let it be opened
    /// again.
    fn could_be_opened_by(&self, settings: &Settings) -> Result<bool, StartError> {
        let directory = store_path(&settings.data_directory);
        if self.store.directory.as_ref() != Some(&directory) {
            return Ok(false);
        }
        let path = settings.secrets_key_path();
        if !SecretsKey::read(&path)?.is(&self.store.key) {
            return Err(StartError::Store(StoreError::Key(format!(
                "{} is not the key that the store in {} is sealed with",
                path.display(),
                directory.display()
            ))));
        }
        store::check_room_to_open(&directory)?;
        Ok(true)
    }
}

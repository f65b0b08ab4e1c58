//! Judges settings and the files that they name: what to run by, or what is wrong with them.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use shared::listen::distinct;
use shared::tls::ClusterFiles;

use crate::StartError;
use crate::admin::files::read_token;
use crate::admin::listener::server_config;
use crate::admin::{Access, Headers};
use crate::config_sync;
use crate::data_directory::store_path;
use crate::opening;
use crate::settings::{AdminListen, Settings};
use crate::store::etcd::EtcdError;
use crate::store::{SecretsKey, StoreError, check_room_to_begin, is_begun, is_missing};

/// What follows from settings that can be run by.
pub(crate) struct Judged {
    /// What data planes are spoken to by.
    pub(crate) files: ClusterFiles,
    /// The TLS of the Admin API.
    pub(crate) admin_tls: Option<Arc<ServerConfig>>,
    /// Whom the Admin API answers.
    pub(crate) access: Access,
    /// What it tells of itself.
    pub(crate) headers: Headers,
}

/// Says what is wrong with `settings` and the files that they name, without making or changing any. What keeps nothing from
/// running is returned.
pub fn check(settings: &Settings) -> Result<Vec<String>, StartError> {
    let judged = judge(settings)?;
    let key = settings.secrets_key_path();
    if key.exists() {
        SecretsKey::read_or_create(&key)?;
    }
    shared::machine::check_directory(&settings.data_directory).map_err(|source| {
        StartError::DataDirectory {
            path: settings.data_directory.clone(),
            source,
        }
    })?;
    if makes_store(settings) && settings.needs_user() {
        return Err(StartError::NoUser);
    }
    if let Some(path) = &settings.addresses_file {
        shared::machine::check_file(path).map_err(|source| StartError::Addresses {
            path: path.clone(),
            source,
        })?;
    }
    let mut doubts: Vec<String> = config_sync::judge(&judged.files)?.into_iter().collect();
    if let Some(etcd) = settings.etcd.used() {
        etcd.check().map_err(StoreError::from)?;
        match opening::check_etcd(settings, etcd) {
            // It may be there by the time of a start.
            Err(StoreError::Etcd(error @ EtcdError::Unreachable(_))) => {
                doubts.push(error.to_string());
            }
            checked => checked?,
        }
    }
    doubts.extend(settings.short_stages());
    Ok(doubts)
}

/// Whether a process with `settings` begins a store on this machine.
fn makes_store(settings: &Settings) -> bool {
    settings.etcd.used().is_none() && !is_begun(&store_path(&settings.data_directory))
}

/// Refuses a store on this machine whose key is not there. A new one in its place would open nothing, and look like it.
fn check_key(settings: &Settings) -> Result<(), StoreError> {
    let (path, store) = (
        settings.secrets_key_path(),
        store_path(&settings.data_directory),
    );
    let is_lost = settings.etcd.used().is_none() && is_begun(&store) && is_missing(&path);
    if is_lost {
        return Err(StoreError::NoKey {
            path: path.display().to_string(),
            store: store.display().to_string(),
        });
    }
    Ok(())
}

/// Anyone who reaches the Admin API or the console beyond loopback could configure the gateway.
fn check_exposure(
    settings: &Settings,
    admins: &[(&'static str, AdminListen)],
    addresses: &[(&'static str, SocketAddr)],
) -> Result<(), StartError> {
    let exposed =
        |address: &SocketAddr| !address.ip().is_loopback() && !settings.admin_allow_insecure;
    for &(setting, AdminListen { address, tls, .. }) in admins {
        let missing = if !tls {
            "TLS (`ssl` behind the address) and tokens (enforce_rbac)"
        } else if !settings.enforce_rbac {
            "tokens (enforce_rbac)"
        } else {
            continue;
        };
        if exposed(&address) {
            return Err(StartError::Exposed {
                setting,
                address,
                missing,
            });
        }
    }
    let mut consoles = addresses
        .iter()
        .filter(|(setting, _)| *setting == "console_listen");
    if let Some((setting, address)) = consoles.find(|(_, address)| exposed(address)) {
        return Err(StartError::Exposed {
            setting,
            address: *address,
            missing: "TLS, which it has not: put a proxy in front, or forward a port",
        });
    }
    Ok(())
}

/// Draws the conclusions.
pub(crate) fn judge(settings: &Settings) -> Result<Judged, StartError> {
    let admins = settings.admins().map_err(StartError::Listeners)?;
    let headers = Headers::read(&settings.headers).map_err(StartError::Headers)?;
    let addresses = settings.addresses().map_err(StartError::Listeners)?;
    check_exposure(settings, &admins, &addresses)?;
    distinct(addresses).map_err(StartError::Listeners)?;
    let data = &settings.data_directory;
    for directory in [data.clone(), store_path(data)] {
        shared::machine::check_files(&directory, &[]).map_err(|source| {
            StartError::DataDirectory {
                path: directory,
                source,
            }
        })?;
    }
    // Before anything is made, which would only take room.
    if makes_store(settings) {
        check_room_to_begin(&store_path(data))?;
    }
    check_key(settings)?;
    let admin_tls = match (
        admins.iter().any(|(_, listener)| listener.tls),
        &settings.admin_certificate,
        &settings.admin_key,
    ) {
        (false, ..) => None,
        (true, Some(certificate), Some(key)) => {
            Some(server_config(certificate, key).map_err(StartError::AdminCertificate)?)
        }
        (true, ..) => return Err(StartError::NoCertificate),
    };
    let owner = settings.admin_token_file.as_deref().map(read_token);
    let owner = owner.transpose()?;
    let access = if settings.enforce_rbac {
        Access::enforced(owner.as_ref().map(|token| token.expose().as_str()))
    } else {
        Access::default()
    };
    let files = ClusterFiles {
        certificate: settings.cluster_certificate.clone(),
        key: settings.cluster_key.clone(),
        authorities: settings.cluster_ca.clone(),
    };
    config_sync::judge(&files)?;
    Ok(Judged {
        files,
        admin_tls,
        access,
        headers,
    })
}

//! What lies where in a control plane's data directory.

use std::path::{Path, PathBuf};

/// The file of the key for the store below `data_directory`, if `secrets_key_file` is set to that.
pub(crate) fn key_path(data_directory: &Path, secrets_key_file: Option<&Path>) -> PathBuf {
    secrets_key_file.map_or_else(
        || {
            let mut path = data_directory.to_path_buf().into_os_string();
            path.push(".key");
            path.into()
        },
        Path::to_path_buf,
    )
}

/// The store's directory.
pub(crate) fn store_path(data_directory: &Path) -> PathBuf {
    data_directory.join("store")
}

/// Where the list of data planes is kept.
pub(crate) fn nodes_path(data_directory: &Path) -> PathBuf {
    data_directory.join("nodes.json")
}

/// The directory of the store's exports.
pub(crate) fn export_path(data_directory: &Path) -> PathBuf {
    data_directory.join("exports")
}

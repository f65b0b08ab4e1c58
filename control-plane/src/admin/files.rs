//! The files of the Admin API: its certificate, and the token that is always good. They are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use shared::clock::monotonic;
use shared::renewal::Renewal;
use shared::secret::Secret;
use tokio::sync::watch;

use super::Access;
use super::listener::server_config;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The TLS of the Admin API as it is now, if there is any.
pub(crate) type Tls = Option<Arc<ServerConfig>>;

/// The file of a token that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("admin_token_file {path}: {what}")]
pub struct TokenError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// Reads the token in a file. A line end after it is no part of it.
pub(crate) fn read_token(path: &Path) -> Result<Secret<String>, TokenError> {
    let refused = |what: String| TokenError {
        path: path.to_owned(),
        what,
    };
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let token = Secret::new(text.trim_end().to_owned());
    if token.expose().len() < 16 || !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused(
            "it must hold at least 16 visible ASCII characters".to_owned(),
        ));
    }
    Ok(token)
}

/// Has new connections use the certificate and key in `pair`, and requests the token in a file, as they are then, for
/// as long as the process lives.
pub(crate) async fn follow(
    (pair, tls): (Option<(PathBuf, PathBuf)>, watch::Sender<Tls>),
    (token, access): (Option<PathBuf>, Access),
) {
    let mut pair = pair.map(|(certificate, key)| {
        let files = vec![certificate.clone(), key.clone()];
        let renewal = Renewal::of("the Admin API's certificates", files);
        (renewal, certificate, key)
    });
    let mut token = token.map(|path| {
        (
            Renewal::of("the Admin API's tokens", vec![path.clone()]),
            path,
        )
    });
    // The store may have taken a while to open, and they may have changed meanwhile.
    if let Some((_, certificate, key)) = &pair
        && let Ok(config) = server_config(certificate, key)
    {
        tls.send_replace(Some(config));
    }
    if let Some((_, path)) = &token
        && let Ok(token) = read_token(path)
    {
        access.renew(token.expose());
    }
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some((renewal, certificate, key)) = &mut pair
            && let Some(config) = renewal.look(monotonic(), || server_config(certificate, key))
        {
            tls.send_replace(Some(config));
        }
        if let Some((renewal, path)) = &mut token
            && let Some(token) = renewal.look(monotonic(), || read_token(path))
        {
            access.renew(token.expose());
        }
    }
}

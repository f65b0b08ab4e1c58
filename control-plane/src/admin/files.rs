//! The files of the Admin API: its certificate, and the token that is always good. They are read again when they change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::clock::monotonic;
use shared::renewal::Renewal;
use shared::secret::Secret;
use tokio::sync::watch;

use super::Access;
use super::listener::{Tls, server_config};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

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

/// The files, looked after from before they were first read: what is put in their place at any time later is taken up.
#[derive(Debug)]
pub(crate) struct Files {
    pair: Option<(Renewal, PathBuf, PathBuf)>,
    token: Option<(Renewal, PathBuf)>,
}

impl Files {
    /// A certificate with its key, and the file of a token, as far as there are such.
    pub(crate) fn of(pair: Option<(PathBuf, PathBuf)>, token: Option<PathBuf>) -> Self {
        Self {
            pair: pair.map(|(certificate, key)| {
                let files = vec![certificate.clone(), key.clone()];
                let renewal = Renewal::of("the Admin API's certificates", files);
                (renewal, certificate, key)
            }),
            token: token.map(|path| {
                let renewal = Renewal::of("the Admin API's tokens", vec![path.clone()]);
                (renewal, path)
            }),
        }
    }

    /// Has new connections use the certificate, and requests the token, as they are now.
    fn look(&mut self, tls: &watch::Sender<Tls>, access: &Access) {
        if let Some((renewal, certificate, key)) = &mut self.pair
            && let Some(config) = renewal.look(monotonic(), || server_config(certificate, key))
        {
            tls.send_replace(Some(config));
        }
        if let Some((renewal, path)) = &mut self.token
            && let Some(token) = renewal.look(monotonic(), || read_token(path))
        {
            access.renew(token.expose());
        }
    }

    /// Looks for as long as the process lives; at once, since the store may have taken a while to open.
    pub(crate) async fn follow(mut self, tls: watch::Sender<Tls>, access: Access) {
        loop {
            self.look(&tls, &access);
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::write;
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_put_in_the_place_of_a_file_is_taken_up_whenever_that_happens() {
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key, token] =
            ["pem", "key", "token"].map(|name| directory.path().join(name));
        let put = |text: &str| {
            let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
            write(&certificate, made.cert.pem()).unwrap();
            write(&key, made.signing_key.serialize_pem()).unwrap();
            write(&token, text).unwrap();
        };
        put("the-first-of-the-tokens");
        let pair = Some((certificate.clone(), key.clone()));
        let mut files = Files::of(pair, Some(token.clone()));
        let first = server_config(&certificate, &key).unwrap();
        let (tls, shown) = watch::channel(Some(Arc::clone(&first)));
        let access = Access::enforced(Some("the-first-of-the-tokens"));
        // Between the first reading and the first look.
        put("the-second-of-the-tokens");
        files.look(&tls, &access);
        let second = shown.borrow().clone().unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        let knows = |token: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("kong-admin-token", token.parse().unwrap());
            access.identify(&headers, &Config::default()).is_ok()
        };
        assert!(knows("the-second-of-the-tokens") && !knows("the-first-of-the-tokens"));
        files.look(&tls, &access);
        let same = shown.borrow().clone().unwrap();
        assert!(Arc::ptr_eq(&second, &same), "nothing has changed");
    }
}

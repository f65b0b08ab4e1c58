//! Where the Admin API listens.

use std::net::SocketAddr;

use shared::listen::{PlainListen, TlsListen, listeners};

use super::Settings;

/// An address of the Admin API.
pub type AdminListen = TlsListen<true>;

impl Settings {
    /// Where the Admin API listens, and which setting says so.
    ///
    /// # Errors
    ///
    /// A list that contradicts itself, or none.
    pub fn admins(&self) -> Result<Vec<(&'static str, AdminListen)>, String> {
        let own = listeners("admin_listen", &self.admin_listen)?;
        let own = own.into_iter().map(|one| ("admin_listen", one));
        let encrypted = listeners("admin_tls_listen", &self.admin_tls_listen)?;
        let encrypted = encrypted.into_iter().map(|one| {
            let one = AdminListen { tls: true, ..one };
            ("admin_tls_listen", one)
        });
        let all: Vec<_> = own.chain(encrypted).collect();
        if all.is_empty() {
            return Err("admin_listen: a control plane needs an Admin API".to_owned());
        }
        Ok(all)
    }

    /// Where the console is, then where status and metrics are, and which settings say so.
    ///
    /// # Errors
    ///
    /// A list that contradicts itself.
    pub fn pages(&self) -> Result<[(&'static str, Vec<PlainListen>); 2], String> {
        let lists = [
            ("console_listen", &self.console_listen),
            ("status_listen", &self.status_listen),
        ];
        let [console, status] =
            lists.map(|(name, list)| Ok::<_, String>((name, listeners(name, list)?)));
        Ok([console?, status?])
    }

    /// Every address to listen at, and which setting says so.
    ///
    /// # Errors
    ///
    /// A list that contradicts itself, or no Admin API.
    pub fn addresses(&self) -> Result<Vec<(&'static str, SocketAddr)>, String> {
        let admins = self.admins()?;
        let admins = admins.iter().map(|(setting, one)| (*setting, one.address));
        let pages = self.pages()?;
        let pages = pages.iter().flat_map(|(setting, all)| {
            let addresses = all.iter().map(|one| one.address);
            addresses.map(move |address| (*setting, address))
        });
        let cluster = [("cluster_listen", self.cluster_listen)];
        Ok(admins.chain(pages).chain(cluster).collect())
    }
}

#[cfg(test)]
mod tests {
    use shared::listen::Listen;

    use super::*;

    #[test]
    fn the_admin_api_is_where_a_list_says() {
        let list = |text: &str| {
            let entries = text.split(',').map(str::parse::<Listen<AdminListen>>);
            entries.collect::<Result<Vec<_>, String>>()
        };
        let read = |text: &str, encrypted: Option<&str>| {
            let settings = Settings {
                admin_listen: list(text)?,
                admin_tls_listen: encrypted.map(list).transpose()?.unwrap_or_default(),
                ..Settings::default()
            };
            let found = settings.admins()?;
            let found = found.iter().map(|(setting, one)| {
                let tls = if one.tls { " ssl" } else { "" };
                format!("{setting} {}{tls}", one.address.port())
            });
            Ok::<_, String>(found.collect::<Vec<_>>().join(", "))
        };
        for (text, encrypted, expected) in [
            ("127.0.0.1:8001", None, "admin_listen 8001"),
            (
                "127.0.0.1:8001 reuseport backlog=16384, 127.0.0.1:8444 http2 ssl reuseport backlog=16384",
                None,
                "admin_listen 8001, admin_listen 8444 ssl",
            ),
            (
                "127.0.0.1:8001",
                Some("0.0.0.0:8444"),
                "admin_listen 8001, admin_tls_listen 8444 ssl",
            ),
            ("off", Some("0.0.0.0:8444"), "admin_tls_listen 8444 ssl"),
            ("127.0.0.1:8001", Some("off"), "admin_listen 8001"),
            (
                "off",
                Some("0.0.0.0:1, [::]:2 backlog=9"),
                "admin_tls_listen 1 ssl, admin_tls_listen 2 ssl",
            ),
        ] {
            assert_eq!(read(text, encrypted).as_deref(), Ok(expected), "{text}");
        }
        for (text, said) in [
            ("off", "needs an Admin API"),
            ("127.0.0.1:8001,off", "`off` stands alone"),
            (
                "127.0.0.1:8001 proxy_protocol",
                "`proxy_protocol` is no flag",
            ),
        ] {
            let refused = read(text, None).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }
}

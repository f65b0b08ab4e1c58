//! What one control plane process was started with. `--help` shows every setting from here.

mod listen;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use shared::expiry::Expiry;
use shared::listen::{Listen, PlainListen};
use shared::network::Network;
use shared::telemetry::LogFormat;
use shared::tls;
use shared::told::USUAL;
use url::Url;

pub use self::listen::AdminListen;
use crate::certificates::CertificatesCommand;
use crate::config_sync::Staging;
use crate::data_directory::key_path;
use crate::rollout::{Agreed, Keeper, Plan};
use crate::store::etcd::EtcdSettings;
use crate::store::restore::RestoreCommand;

/// Seconds within which a node has reported.
const REPORTED: u64 = 12;

/// The program `wardgate-control-plane`.
#[derive(Debug, Parser)]
#[command(
    name = "wardgate-control-plane",
    version = shared::version::VERSION,
    about = "Wardgate's control plane: Admin API, store and config sync",
    after_help = shared::settings::AFTER_HELP,
    args_conflicts_with_subcommands = true
)]
pub struct Program {
    /// A command other than to run the control plane.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The TOML file with settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the settings and the files that they name, then exit.
    #[arg(long)]
    pub check: bool,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the program can do besides running.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make the cluster's certificates: an authority, one pair for the control plane, one per data plane.
    Certificates(CertificatesCommand),
    /// Put an export in the place of the store, while the control plane is stopped.
    Restore(RestoreCommand),
}

/// How a change reaches data planes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Rollout {
    /// Every node at once.
    #[default]
    Immediate,
    /// A few nodes first.
    Staged,
}

/// The settings of a control plane.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Addresses of the Admin API, or `off`. Behind an address may be `ssl` (TLS, with `admin_certificate` and
    /// `admin_key`), `backlog=NUMBER`, and, as in Kong, `http2`, `reuseport` and `bind`, which change nothing.
    #[arg(
        long,
        default_value = "127.0.0.1:8001",
        value_delimiter = ',',
        value_name = "ADDRESS[ FLAG…],…"
    )]
    pub admin_listen: Vec<Listen<AdminListen>>,
    /// Addresses of the Admin API over TLS, with `admin_certificate` and `admin_key`: the same as in `admin_listen`, with
    /// `ssl`. None if absent.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS[ FLAG…],…")]
    pub admin_tls_listen: Vec<Listen<AdminListen>>,
    /// The Admin API's certificate, PEM.
    #[arg(long, alias = "admin-ssl-cert", value_name = "FILE")]
    pub admin_certificate: Option<PathBuf>,
    /// The key of the Admin API's certificate, PEM.
    #[arg(long, alias = "admin-ssl-cert-key", value_name = "FILE")]
    pub admin_key: Option<PathBuf>,
    /// Whether each request to the Admin API must bring a token (`Kong-Admin-Token`) of a user whose roles
    /// permit it: `/rbac/users`, `/rbac/roles`.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOLEAN")]
    pub enforce_rbac: bool,
    /// File with a token that may do everything, at least 16 characters: the way to make the first user.
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Whether the Admin API may listen beyond loopback without TLS, or without `enforce_rbac`. Whoever reaches
    /// it then configures the gateway, or reads the tokens of those who may.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOLEAN")]
    pub admin_allow_insecure: bool,
    /// Host names that the Admin API answers to, besides `localhost` and addresses. Another name may be an
    /// attempt to have a browser on this machine send commands.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME,…",
        value_parser = host_name
    )]
    pub admin_names: Vec<String>,
    /// Origins of consoles, such as `https://console.example.com`: pages from there may call the Admin API from
    /// a browser and read its answers. None by default.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "ORIGIN,…",
        value_parser = origin
    )]
    pub admin_gui_origins: Vec<String>,
    /// Header fields that the Admin API adds to answers, as `headers` of data planes: `server_tokens` or `Server`,
    /// `latency_tokens` or `X-Kong-Admin-Latency`, or `off`. What is for data planes alone is taken, too.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = USUAL,
        value_name = "NAME,…"
    )]
    pub headers: Vec<String>,
    /// Addresses or CIDR blocks that OpenID providers may be asked at, besides public addresses, when an operator
    /// has a configuration checked or lists what was discovered. The same as on data planes.
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…", value_parser = Network::of_list)]
    pub provider_networks: Vec<Network>,
    /// Addresses of the console, a page that also passes the Admin API on, such as `127.0.0.1:8002`. None if absent.
    #[arg(
        long,
        alias = "admin-gui-listen",
        value_delimiter = ',',
        value_name = "ADDRESS[ FLAG…],…"
    )]
    pub console_listen: Vec<Listen<PlainListen>>,
    /// Addresses of status and metrics, such as `127.0.0.1:8007`. None if absent.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS[ FLAG…],…")]
    pub status_listen: Vec<Listen<PlainListen>>,
    /// Where etcd is, if the store is there.
    #[command(flatten)]
    pub etcd: EtcdSettings,
    /// Address that data planes connect to, over mutual TLS.
    #[arg(long, default_value = "127.0.0.1:8005", value_name = "ADDRESS")]
    pub cluster_listen: SocketAddr,
    /// Directory of the store and its exports. Made with mode 0700 if absent.
    #[arg(
        long,
        default_value = "/var/lib/wardgate/control-plane",
        value_name = "DIRECTORY"
    )]
    pub data_directory: PathBuf,
    /// This control plane's certificate, PEM.
    #[arg(
        long,
        alias = "cluster-cert",
        default_value = "/etc/wardgate/control-plane.pem",
        value_name = "FILE"
    )]
    pub cluster_certificate: PathBuf,
    /// The private key of `cluster_certificate`, PEM.
    #[arg(
        long,
        alias = "cluster-cert-key",
        default_value = "/etc/wardgate/control-plane.key",
        value_name = "FILE"
    )]
    pub cluster_key: PathBuf,
    /// The authority that data planes' certificates come from, PEM. May hold two while one replaces the other.
    #[arg(
        long,
        alias = "cluster-ca-cert",
        default_value = "/etc/wardgate/ca.pem",
        value_name = "FILE"
    )]
    pub cluster_ca: PathBuf,
    /// Names in the certificates of the data planes that are led, in full, `*.GROUP` for one that a group shares; empty: all
    /// whom `cluster_ca` vouches for.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME,…",
        value_parser = data_plane_name
    )]
    pub cluster_data_planes: Vec<String>,
    /// File with the key that seals secrets in the store; made at the first start. Keep a copy apart from
    /// the store's backups: without it the store cannot be read. [default: `data_directory` with `.key` appended]
    #[arg(long, value_name = "FILE")]
    pub secrets_key_file: Option<PathBuf>,
    /// Time between two exports of the store to `exports` in `data_directory`, in seconds. The newest three
    /// are kept; a state that is exported already is not written again.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub export_interval: u64,
    /// How many revisions `/revisions`, `/audit/requests` and a rollback go back, 10,000 at least.
    #[arg(long, default_value_t = crate::store::REVISIONS, value_name = "NUMBER",
          value_parser = clap::value_parser!(u64).range(crate::store::REVISIONS..=10_000_000))]
    pub history_revisions: u64,
    /// How long a new session key seals cookies before the next one takes over, in seconds.
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(60..=31_536_000))]
    pub session_key_rotation: u64,
    /// How long a data plane that is gone stays on `/clustering/data-planes`, in seconds.
    #[arg(long, default_value_t = 1_209_600, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(60..=315_360_000))]
    pub cluster_data_plane_purge_delay: u64,
    /// How a change reaches data planes: every node at once, or a few first and the others once these have done
    /// well with it. Session keys and revocations reach every node at once either way. Over etcd, the same on all
    /// control planes.
    #[arg(long, value_enum, default_value_t = Rollout::Immediate)]
    pub rollout: Rollout,
    /// How long the first node of a staged roll-out is watched, in seconds; those labelled `canary=true` are
    /// first, where there are any. At most 2 s in a fleet of up to three nodes, where all others are next.
    #[arg(long, default_value_t = 30, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub rollout_canary_time: u64,
    /// How many nodes are next, in per cent of those that are connected.
    #[arg(long, default_value_t = 10, value_name = "PERCENT",
          value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rollout_share: u8,
    /// How long these are watched before every node is given the change, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub rollout_share_time: u64,
    /// Whether a change that goes wrong on its way is rolled back by a new revision with the content before it, if it is
    /// of one write. If not, it is halted, and waits for an operator or for a change that mends it.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOLEAN")]
    pub rollout_rollback: bool,
    /// File to write the chosen addresses to, as one JSON object, once the process accepts connections.
    #[arg(long, value_name = "FILE")]
    pub addresses_file: Option<PathBuf>,
    /// What is logged: a level, or directives such as `info,control_plane=debug`.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How a log line is written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl Program {
    /// Reads command line, environment and settings file.
    pub fn load(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        shared::settings::load(arguments)
    }
}

impl Settings {
    /// When the certificates end that are not the cluster's.
    pub fn other_expiries(&self) -> Vec<Expiry> {
        let files = [
            ("admin_certificate", &self.admin_certificate),
            ("etcd_certificate", &self.etcd.certificate),
            ("etcd_ca", &self.etcd.ca),
        ];
        let ends = files.into_iter().filter_map(|(setting, path)| {
            let at = tls::chain_expires_at(path.as_deref()?)?;
            Some((setting.to_owned(), at))
        });
        ends.collect()
    }

    /// The files of the Admin API's certificate and key, if its TLS has such.
    pub fn admin_pair(&self) -> Option<(PathBuf, PathBuf)> {
        self.admin_certificate.clone().zip(self.admin_key.clone())
    }

    /// How changes are rolled out, with `shared` as what several control planes agree on, if there are several.
    pub fn staging(&self, shared: Option<Box<dyn Agreed>>) -> Staging {
        let file = || Keeper::file(self.data_directory.join("rollouts.json"));
        Staging {
            plan: (self.rollout == Rollout::Staged).then(|| Plan {
                canary: Duration::from_secs(self.rollout_canary_time),
                share: self.rollout_share,
                share_bake: Duration::from_secs(self.rollout_share_time),
                rollback: self.rollout_rollback,
            }),
            keeper: shared.map_or_else(file, Keeper::Shared),
        }
    }

    /// How changes are rolled out, in words that are the same where that is the same.
    pub fn plan(&self) -> String {
        match self.rollout {
            Rollout::Immediate => "rollout=immediate".to_owned(),
            Rollout::Staged => format!(
                "rollout=staged rollout_canary_time={} rollout_share={} rollout_share_time={} rollout_rollback={}",
                self.rollout_canary_time,
                self.rollout_share,
                self.rollout_share_time,
                self.rollout_rollback
            ),
        }
    }

    /// What is to be said of stages that are shorter than what a node does between two reports.
    pub fn short_stages(&self) -> Option<String> {
        let times = [
            ("rollout_canary_time", self.rollout_canary_time),
            ("rollout_share_time", self.rollout_share_time),
        ];
        let is_short =
            |(_, time): &(&str, u64)| *time < REPORTED && self.rollout == Rollout::Staged;
        let (setting, time) = times.into_iter().find(is_short)?;
        Some(format!(
            "{setting} is {time} s: nodes report every 8 to 12 s, so that a change may go on before it is seen that requests \
             fail; set {REPORTED} or more"
        ))
    }

    /// Whether nobody can use the Admin API but users that the store holds.
    pub const fn needs_user(&self) -> bool {
        self.enforce_rbac && self.admin_token_file.is_none()
    }

    /// The file that holds the key of the store's secrets.
    pub fn secrets_key_path(&self) -> PathBuf {
        key_path(&self.data_directory, self.secrets_key_file.as_deref())
    }
}

/// Parses the name of a host, or nothing.
fn host_name(text: &str) -> Result<String, String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let name = text.trim();
    if name.bytes().all(fine) {
        return Ok(name.to_owned());
    }
    Err(
        "expected the name of a host, such as cp.example.com, without scheme, port and path"
            .to_owned(),
    )
}

/// Parses an origin, or nothing. A path behind it does not matter.
fn origin(text: &str) -> Result<String, String> {
    let text = text.trim();
    let url = Url::parse(text).ok();
    let is_origin = |url: Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    if text.is_empty() || url.is_some_and(is_origin) {
        return Ok(text.to_owned());
    }
    Err("expected an origin, such as https://console.example.com".to_owned())
}

/// A name that a data plane's certificate may have. Names are compared letter by letter, so that a pattern fits nobody.
fn data_plane_name(text: &str) -> Result<String, String> {
    let name = tls::group_of(text).unwrap_or(text);
    let is_none = |one: char| one.is_whitespace() || one == '*';
    if name.is_empty() || name.starts_with('.') || name.contains(is_none) {
        return Err(
            "expected the whole name in a certificate, such as `edge-1`, or `*.edge` for the group `edge`; patterns are none"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

impl Default for Settings {
    /// The defaults that `--help` shows, whatever the environment says.
    fn default() -> Self {
        shared::settings::defaults()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_data_planes_are_whole() {
        for name in ["edge-1", "*.edge", "edge-1.site.example", "*.edge.site"] {
            assert_eq!(data_plane_name(name).as_deref(), Ok(name));
        }
        for name in [
            "", "*", "*.", ".edge", "*..edge", "edge-*", "a b", "*.*.edge",
        ] {
            assert!(data_plane_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_guide() {
        let settings = Settings::default();
        let admins = settings.admins().unwrap();
        assert_eq!(admins[0].1.address.port(), 8001);
        assert_eq!(settings.cluster_listen.port(), 8005);
        assert_eq!(
            settings.secrets_key_path(),
            PathBuf::from("/var/lib/wardgate/control-plane.key")
        );
    }

    #[test]
    fn stages_that_end_before_a_report_are_told_of() {
        let staged = |canary, share| Settings {
            rollout: Rollout::Staged,
            rollout_canary_time: canary,
            rollout_share_time: share,
            ..Settings::default()
        };
        assert_eq!(staged(12, 12).short_stages(), None);
        let told = |settings: &Settings| settings.short_stages().unwrap();
        assert!(told(&staged(11, 60)).contains("rollout_canary_time is 11 s"));
        assert!(told(&staged(30, 1)).contains("rollout_share_time is 1 s"));
        let immediate = Settings {
            rollout: Rollout::Immediate,
            ..staged(1, 1)
        };
        assert_eq!(immediate.short_stages(), None);
    }

    #[test]
    fn consoles_and_names_that_could_never_match_are_refused() {
        for text in [
            "",
            "https://console.example.com",
            "http://10.0.0.1:8002/manager",
        ] {
            assert_eq!(origin(text).as_deref(), Ok(text));
        }
        for text in ["x", "null", "*", "file:///x", "console.example.com"] {
            assert!(origin(text).is_err(), "{text}");
        }
        for text in ["", "cp.internal", "cp_1-a"] {
            assert_eq!(host_name(text).as_deref(), Ok(text));
        }
        for text in ["a b", "HTTP://x", "cp:8001", "*"] {
            assert!(host_name(text).is_err(), "{text}");
        }
        assert_eq!(data_plane_name("*.edge").as_deref(), Ok("*.edge"));
        for text in ["", "a b", "*", "*.", "node-*", "*.*", "*.a*", "a.*"] {
            assert!(data_plane_name(text).is_err(), "{text}");
        }
    }
}

//! What the program was started with. `--help` shows every setting from here.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser};
use shared::network::Network;

const AFTER_HELP: &str = "\
Each setting is a command-line option, an environment variable and, as `snake_case`, a key of the TOML file; the
first of these that is there wins. A port of 0 lets the system choose.

Without options: a control plane, two data planes, a demo OpenID provider and an upstream that shows what reaches it.

The same in processes of their own, to see that one can go while the others serve (each in a terminal):
  wardgate --only demo
  wardgate --only control-plane
  wardgate --only data-plane --node node-1
  wardgate --only data-plane --node node-2 --proxy-listen 127.0.0.1:8010 \\
           --proxy-tls-listen 127.0.0.1:8453 --status-listen 127.0.0.1:8110
They share the data directory, and with it certificates and the configuration of an earlier run. For planes on several machines use the programs
wardgate-control-plane and wardgate-data-plane, whose --help lists every setting of a plane.

Start over: stop the program and remove the data directory.";

/// The program `wardgate`.
#[derive(Debug, Parser)]
#[command(
    name = "wardgate",
    version = shared::version::VERSION,
    about = "Wardgate on one machine: a cluster, and a demo to sign in to",
    after_help = AFTER_HELP
)]
pub struct Program {
    /// The TOML file with settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// A part of what runs without options.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Part {
    /// The control plane.
    ControlPlane,
    /// One data plane.
    DataPlane,
    /// The demo's provider and upstream.
    Demo,
}

/// The settings of the program.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Directory of everything that is kept: certificates, store, last good configurations, logs.
    #[arg(long, default_value = "wardgate-data", value_name = "DIRECTORY")]
    pub data_directory: PathBuf,
    /// Run one part only.
    #[arg(long, value_enum, value_name = "PART")]
    pub only: Option<Part>,
    /// Run the cluster without the demo: no provider, no upstream, no configuration.
    #[arg(long)]
    pub no_demo: bool,
    /// Id of the data plane that `--only data-plane` runs.
    #[arg(long, default_value = "node-1", value_name = "NAME")]
    pub node: String,
    /// Address of the Admin API.
    #[arg(long, default_value = "127.0.0.1:8001", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,
    /// Address of the console, a page to look at the configuration and change it.
    #[arg(long, default_value = "127.0.0.1:8002", value_name = "ADDRESS")]
    pub console_listen: SocketAddr,
    /// Address that data planes connect to, over mutual TLS.
    #[arg(long, default_value = "127.0.0.1:8005", value_name = "ADDRESS")]
    pub cluster_listen: SocketAddr,
    /// Address of the first data plane.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    pub proxy_listen: SocketAddr,
    /// Address of the first data plane, with TLS.
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDRESS")]
    pub proxy_tls_listen: SocketAddr,
    /// Address of status and metrics of the first data plane.
    #[arg(long, default_value = "127.0.0.1:8100", value_name = "ADDRESS")]
    pub status_listen: SocketAddr,
    /// Address of the second data plane.
    #[arg(long, default_value = "127.0.0.1:8010", value_name = "ADDRESS")]
    pub second_proxy_listen: SocketAddr,
    /// Address of the second data plane, with TLS.
    #[arg(long, default_value = "127.0.0.1:8453", value_name = "ADDRESS")]
    pub second_proxy_tls_listen: SocketAddr,
    /// Address of status and metrics of the second data plane.
    #[arg(long, default_value = "127.0.0.1:8110", value_name = "ADDRESS")]
    pub second_status_listen: SocketAddr,
    /// Addresses or CIDR blocks in which OpenID providers of your own may be, besides public addresses and what a
    /// plugin's own URLs say of this machine.
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    pub provider_networks: Vec<Network>,
    /// Address of the demo's OpenID provider. A loopback address: its users are invented.
    #[arg(long, default_value = "127.0.0.1:8090", value_name = "ADDRESS")]
    pub provider_listen: SocketAddr,
    /// Address of the demo's upstream. A loopback address: it shows whatever it is sent.
    #[arg(long, default_value = "127.0.0.1:8091", value_name = "ADDRESS")]
    pub upstream_listen: SocketAddr,
    /// File to write the chosen addresses to, as one JSON object, once everything runs.
    #[arg(long, value_name = "FILE")]
    pub addresses_file: Option<PathBuf>,
    /// What is logged: a level, or directives such as `warn,data_plane=debug`.
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    pub log: String,
}

impl Program {
    /// Reads command line, environment and settings file.
    pub fn load(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        shared::settings::load(arguments)
    }
}

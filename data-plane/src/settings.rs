//! What one data plane process was started with. `--help` shows every setting from here.

mod listen;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser};
use shared::network::Network;
use shared::telemetry::LogFormat;

pub use self::listen::{PortMap, ProxyListen, StatusListen, StreamKind, StreamListen};
use crate::error::ErrorForm;
use crate::listening::tls::CIPHER_SUITES;
pub use crate::listening::tls::Cipher;
pub use shared::listen::Listen;
use shared::told::USUAL;

/// The program `wardgate-data-plane`.
#[derive(Debug, Parser)]
#[command(
    name = "wardgate-data-plane",
    version = shared::version::VERSION,
    about = "Wardgate's data plane: the proxy and its OpenID Connect relying party",
    after_help = shared::settings::AFTER_HELP
)]
pub struct Program {
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

/// The settings of a data plane.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Addresses that clients connect to, or `off`. With `ssl` behind it, clients speak TLS at an address; with
    /// `proxy_protocol`, each connection begins with a header of the PROXY protocol, version 1 or 2, or is closed, and
    /// what that says is believed as `real_ip_header` tells; with `backlog=NUMBER`, so many connections may wait to be
    /// accepted. `http2`, `reuseport` and `bind`, as Kong has them, say what is so anyway.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0.0.0.0:8000",
        value_name = "ADDRESS [FLAG]…,…"
    )]
    pub proxy_listen: Vec<Listen<ProxyListen>>,
    /// Addresses that clients connect to with TLS, or `off`: the same as in `proxy_listen`, with `ssl`.
    /// [default: 0.0.0.0:8443, unless `proxy_listen` has one with `ssl` or is `off`]
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS [FLAG]…,…")]
    pub proxy_tls_listen: Vec<Listen<ProxyListen>>,
    /// Addresses that clients open byte streams at, for routes of the protocols `tcp`, `tls` and `tls_passthrough`;
    /// with `ssl` behind it an address takes TLS, which ends here or is passed on, as the route says, and with `udp`
    /// datagrams, for routes of the protocol `udp`. All else is as in `proxy_listen`. None if absent.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS [FLAG]…,…")]
    pub stream_listen: Vec<Listen<StreamListen>>,
    /// Ports that clients connect to, with the ports of this node that they lead to: `443:8443` where a balancer
    /// takes connections at 443 and passes them on to 8443. `X-Forwarded-Port` and routes' `destinations` speak of the
    /// former.
    #[arg(long, value_delimiter = ',', value_name = "PUBLISHED:INTERNAL,…")]
    pub port_maps: Vec<PortMap>,
    /// Addresses of status and metrics, or `off`. With `ssl` behind it, TLS is spoken at an address.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:8100",
        value_name = "ADDRESS [FLAG]…,…"
    )]
    pub status_listen: Vec<Listen<StatusListen>>,
    /// URLs of the control planes, tried in random order.
    #[arg(
        long,
        alias = "cluster-control-plane",
        value_delimiter = ',',
        default_value = "https://127.0.0.1:8005",
        value_name = "URL,…",
        value_parser = control_plane
    )]
    pub control_planes: Vec<String>,
    /// This node's certificate, PEM. Its common name is the node's id, unless it is of a group: see `node_name`.
    #[arg(
        long,
        alias = "cluster-cert",
        default_value = "/etc/wardgate/data-plane.pem",
        value_name = "FILE"
    )]
    pub cluster_certificate: PathBuf,
    /// What this node is called among those that share a group's certificate: 1 to 64 letters, digits, `_` or `-`.
    /// [default: the machine's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The private key of `cluster_certificate`, PEM. The last good configuration is sealed under a key derived from it.
    #[arg(
        long,
        alias = "cluster-cert-key",
        default_value = "/etc/wardgate/data-plane.key",
        value_name = "FILE"
    )]
    pub cluster_key: PathBuf,
    /// The authority that control planes' certificates come from, PEM. May hold two while one replaces the other.
    #[arg(
        long,
        alias = "cluster-ca-cert",
        default_value = "/etc/wardgate/ca.pem",
        value_name = "FILE"
    )]
    pub cluster_ca: PathBuf,
    /// Directory of the last good configuration. Made with mode 0700 if absent.
    #[arg(
        long,
        default_value = "/var/lib/wardgate/data-plane",
        value_name = "DIRECTORY"
    )]
    pub data_directory: PathBuf,
    /// Labels of this node, such as `zone=a`, that the control plane shows.
    #[arg(
        long,
        alias = "cluster-dp-labels",
        value_delimiter = ',',
        value_name = "NAME=VALUE,…",
        value_parser = label
    )]
    pub labels: Vec<(String, String)>,
    /// Silence of the control planes after which `/status/ready` answers 503, in seconds, 15 at least; 0: never. The node
    /// goes on to serve what reaches it.
    #[arg(long, default_value_t = 0, value_name = "SECONDS", value_parser = silence)]
    pub max_staleness: u64,
    /// Silence of the control planes after which sessions of `openid-connect` are answered 503, in seconds, 15 at least,
    /// since a logout elsewhere may not have been heard of; 0: sessions go on.
    #[arg(long, default_value_t = 0, value_name = "SECONDS", value_parser = silence)]
    pub sessions_max_silence: u64,
    /// Threads that serve requests, 1024 at most; 0: one per core.
    #[arg(
        long,
        default_value_t = 0,
        value_name = "NUMBER",
        value_parser = RangedU64ValueParser::<usize>::new().range(..=1024)
    )]
    pub workers: usize,
    /// Directory of the files that `{vault://file/…}` in the configuration may refer to. Without it no file can be
    /// referred to.
    #[arg(long, value_name = "DIRECTORY")]
    pub secrets_directory: Option<PathBuf>,
    /// Addresses or CIDR blocks of proxies whose `X-Forwarded-*` headers are believed.
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…", value_parser = Network::of_list)]
    pub trusted_ips: Vec<Network>,
    /// Addresses or CIDR blocks in which OpenID providers, and proxies on the way to them, may be besides public
    /// addresses: without it, none is asked on an address of a private network or of this machine, so that
    /// nobody who configures a plugin, and no provider, sends this node's requests there. This machine is asked
    /// where a plugin's own URLs say so, as `http://127.0.0.1:8080` does.
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…", value_parser = Network::of_list)]
    pub provider_networks: Vec<Network>,
    /// The default certificate of the TLS listener, PEM. Self-signed if absent.
    #[arg(
        long,
        alias = "ssl-cert",
        value_name = "FILE",
        requires = "proxy_tls_key"
    )]
    pub proxy_tls_certificate: Option<PathBuf>,
    /// The private key of `proxy_tls_certificate`, PEM.
    #[arg(
        long,
        alias = "ssl-cert-key",
        value_name = "FILE",
        requires = "proxy_tls_certificate"
    )]
    pub proxy_tls_key: Option<PathBuf>,
    /// The certificate of status and metrics over TLS, PEM. Self-signed if absent.
    #[arg(
        long,
        alias = "status-ssl-cert",
        value_name = "FILE",
        requires = "status_tls_key"
    )]
    pub status_tls_certificate: Option<PathBuf>,
    /// The private key of `status_tls_certificate`, PEM.
    #[arg(
        long,
        alias = "status-ssl-cert-key",
        value_name = "FILE",
        requires = "status_tls_certificate"
    )]
    pub status_tls_key: Option<PathBuf>,
    /// Cipher suites that clients are spoken to with over TLS, by OpenSSL's names, the best first; a client that puts
    /// `ChaCha20` first gets its own order. Without those of TLS 1.3, or of TLS 1.2, there is no such version.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = CIPHER_SUITES,
        value_name = "NAME,…"
    )]
    pub proxy_tls_cipher_suites: Vec<Cipher>,
    /// The certificate that is presented to upstream servers where neither service nor upstream has one, PEM.
    #[arg(
        long,
        alias = "client-ssl-cert",
        value_name = "FILE",
        requires = "upstream_tls_key"
    )]
    pub upstream_tls_certificate: Option<PathBuf>,
    /// The private key of `upstream_tls_certificate`, PEM.
    #[arg(
        long,
        alias = "client-ssl-cert-key",
        value_name = "FILE",
        requires = "upstream_tls_certificate"
    )]
    pub upstream_tls_key: Option<PathBuf>,
    /// Whether certificates of upstream servers are verified where the service's `tls_verify` says nothing.
    #[arg(long, action = clap::ArgAction::Set, default_value_t = false, value_name = "BOOL")]
    pub upstream_tls_verify: bool,
    /// Most certificates between that of an upstream server and its authority where the service's `tls_verify_depth`
    /// says nothing. [default: any number]
    #[arg(long, value_name = "NUMBER")]
    pub upstream_tls_verify_depth: Option<u8>,
    /// The authorities that certificates of upstream servers come from where the service has no `ca_certificates`,
    /// PEM. [default: those of the machine and of Mozilla]
    #[arg(long, value_name = "FILE")]
    pub upstream_tls_ca: Option<PathBuf>,
    /// How long a stopping node lets exchanges end, in milliseconds.
    #[arg(long, default_value_t = 30_000, value_name = "MILLISECONDS")]
    pub drain_timeout_ms: u64,
    /// Most client connections. More are closed as they come; so are those beyond what the descriptors that
    /// are permitted (`ulimit -Hn`) can serve.
    #[arg(
        long,
        default_value_t = 50_000,
        value_name = "NUMBER",
        value_parser = at_least_one()
    )]
    pub max_connections: usize,
    /// Most client connections from one address, or one IPv6 network of 64 bits, unless it is in `trusted_ips`.
    #[arg(
        long,
        default_value_t = 1000,
        value_name = "NUMBER",
        value_parser = at_least_one()
    )]
    pub max_connections_per_address: usize,
    /// Most requests under way, tunnels among them. More are answered 503.
    #[arg(
        long,
        default_value_t = 10_000,
        value_name = "NUMBER",
        value_parser = at_least_one()
    )]
    pub max_requests: usize,
    /// Most requests under way over HTTP/2 from one address, or one IPv6 network of 64 bits, unless it is in `trusted_ips`.
    /// More are answered 503. Over HTTP/1.1 each takes a connection.
    #[arg(
        long,
        default_value_t = 5000,
        value_name = "NUMBER",
        value_parser = at_least_one()
    )]
    pub max_requests_per_address: usize,
    /// Most requests under way to one upstream server. More are answered 503.
    #[arg(
        long,
        default_value_t = 1000,
        value_name = "NUMBER",
        value_parser = at_least_one()
    )]
    pub max_requests_per_server: usize,
    /// Most connections of each worker to one upstream server that wait for further requests; 0: none is kept.
    #[arg(long, default_value_t = 512, value_name = "NUMBER")]
    pub upstream_keepalive_pool_size: usize,
    /// Most requests on one connection to an upstream server; 0: any number.
    #[arg(long, default_value_t = 10_000, value_name = "NUMBER")]
    pub upstream_keepalive_max_requests: u32,
    /// Longest wait of a connection to an upstream server for its next request, in seconds; 0: any time.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub upstream_keepalive_idle_timeout: u64,
    /// Memory that the process may have, in megabytes of 1024²; 0: what its control group may have. From 92 % on
    /// idle connections are closed, from 95 % on new connections and requests are refused.
    #[arg(long, default_value_t = 0, value_name = "MEGABYTES")]
    pub memory_limit_mb: u64,
    /// File to write the chosen addresses to, as one JSON object, once the process accepts connections.
    #[arg(long, value_name = "FILE")]
    pub addresses_file: Option<PathBuf>,
    /// What is logged: a level, or directives such as `info,data_plane=debug`.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How a log line is written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// How a line of the access log is written: `json`, or a text in which `$NAME` stands for a field of that JSON, such as
    /// `$client_ip [$time] "$method $path" $status`; `-` is one that is not there.
    #[arg(long, default_value = "json", value_name = "FORMAT")]
    pub access_log_format: String,
    /// File that one line per request is written to, or `stdout`, or `off`.
    #[arg(long, default_value = "stdout", value_name = "FILE")]
    pub access_log: String,
    /// Header fields that the gateway adds to answers: `server_tokens` (`Server`, `Via`), `latency_tokens`
    /// (`X-Kong-Upstream-Latency`, `X-Kong-Proxy-Latency`, `X-Kong-Response-Latency`), any of these names,
    /// `X-Kong-Upstream-Status`, `X-Kong-Request-Id`, or `off`.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = USUAL,
        value_name = "NAME,…"
    )]
    pub headers: Vec<String>,
    /// Header fields that the gateway adds to requests: `X-Kong-Request-Id`, or `off`.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "X-Kong-Request-Id",
        value_name = "NAME,…"
    )]
    pub headers_upstream: Vec<String>,
    /// Form of an error for a client that says nothing of forms.
    #[arg(long, value_enum, default_value_t = ErrorForm::Plain)]
    pub error_default_type: ErrorForm,
    /// File with the body of errors in JSON. In it, the first `%s` stands for the message and a second one for the
    /// request's id; `%%` is a `%`.
    #[arg(long, value_name = "FILE")]
    pub error_template_json: Option<PathBuf>,
    /// The same for errors in HTML.
    #[arg(long, value_name = "FILE")]
    pub error_template_html: Option<PathBuf>,
    /// The same for errors as text.
    #[arg(long, value_name = "FILE")]
    pub error_template_plain: Option<PathBuf>,
    /// The same for errors in XML.
    #[arg(long, value_name = "FILE")]
    pub error_template_xml: Option<PathBuf>,
    /// Whether a request with `Kong-Debug: 1` is told which route and service it has met.
    #[arg(long, action = clap::ArgAction::Set, default_value_t = false, value_name = "BOOL")]
    pub allow_debug_header: bool,
    /// Share of traces, from 0 to 1, that `opentelemetry` keeps where its `sampling_rate` says nothing.
    #[arg(long, default_value_t = plugins::host::SAMPLING_RATE, value_name = "NUMBER",
          value_parser = share)]
    pub tracing_sampling_rate: f64,
    /// DNS servers, as addresses with or without a port; those of `/etc/resolv.conf` if absent.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS,…")]
    pub dns_resolver: Vec<String>,
    /// File whose names are looked up before DNS is asked.
    #[arg(long, default_value = "/etc/hosts", value_name = "FILE")]
    pub dns_hostsfile: PathBuf,
    /// Types of DNS records, in the order in which they are asked for; `LAST` is the type that a name had last.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "LAST,SRV,A,AAAA,CNAME",
        value_name = "TYPE,…"
    )]
    pub dns_order: Vec<String>,
    /// How long the answer of a DNS server is believed, in seconds. [default: as long as it says, an hour at most]
    #[arg(long, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub dns_valid_ttl: Option<u64>,
    /// How long an answer is used past its time while no DNS server gives another, in seconds.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    pub dns_stale_ttl: u64,
    /// How long it is believed that a name leads nowhere, in seconds.
    #[arg(long, default_value_t = 30, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    pub dns_not_found_ttl: u64,
    /// How long a name is not asked for again after DNS servers have failed or kept silent, in seconds.
    #[arg(long, default_value_t = 1, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    pub dns_error_ttl: u64,
    /// Most names of which something is remembered, on each core.
    #[arg(long, default_value_t = 10_000, value_name = "NUMBER")]
    pub dns_cache_size: usize,
    /// Field by which a trusted proxy names the client's address; `proxy_protocol`: the PROXY protocol says it, on
    /// listeners that have `proxy_protocol` behind their address.
    #[arg(long, default_value = "X-Real-IP", value_name = "NAME")]
    pub real_ip_header: String,
    /// Whether addresses in `real_ip_header` that are trusted themselves are passed over, from the last one.
    #[arg(long, action = clap::ArgAction::Set, default_value_t = false, value_name = "BOOL")]
    pub real_ip_recursive: bool,
}

impl Program {
    /// Reads command line, environment and settings file.
    pub fn load(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        shared::settings::load(arguments)
    }
}

impl Settings {
    /// How long a stopping node lets exchanges end.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

impl Default for Settings {
    /// The defaults that `--help` shows, whatever the environment says.
    fn default() -> Self {
        shared::settings::defaults()
    }
}

/// Parses a number of which 0 would let nobody in.
fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// A URL, or host and port as Kong has them.
fn control_plane(text: &str) -> Result<String, String> {
    if text.contains("://") || text.is_empty() {
        // What is no such URL the start refuses by name.
        Ok(text.to_owned())
    } else if text.contains(':') {
        Ok(format!("https://{text}"))
    } else {
        Err(format!(
            "`{text}` is neither a URL nor a host with its port: https://{text}:8005"
        ))
    }
}

/// Parses `name=value`, or `name:value` as Kong has it.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').or_else(|| text.split_once(':')) {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Parses a part of a whole.
fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// Seconds of silence that are none while a control plane is heard: it speaks every ten.
fn silence(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds @ 1..15) => Err(format!(
            "{seconds} s of silence are usual, since a control plane speaks every 10 s: set 15 at least, or 0 for never"
        )),
        Ok(seconds) => Ok(seconds),
        Err(_) => Err("expected a number of seconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_reference() {
        let settings = Settings::default();
        let ports = settings.proxies().unwrap().into_iter();
        let ports: Vec<u16> = ports.map(|(_, one)| one.address.port()).collect();
        assert_eq!(ports, [8000, 8443]);
        assert_eq!(settings.control_planes, ["https://127.0.0.1:8005"]);
        assert!(settings.trusted_ips.is_empty() && settings.labels.is_empty());
    }

    #[test]
    fn a_silence_that_is_usual_is_refused() {
        for (text, seconds) in [("0", Ok(0)), ("15", Ok(15)), ("3600", Ok(3_600))] {
            assert_eq!(silence(text), seconds);
        }
        for text in ["1", "14", "-1", "15s", ""] {
            assert!(silence(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_part_of_a_whole() {
        for (text, expected) in [("0", 0.0), ("0.25", 0.25), ("1", 1.0)] {
            assert_eq!(share(text), Ok(expected));
        }
        for text in ["1.1", "-0.1", "NaN", "inf", "50%", ""] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_control_plane_may_be_a_host_with_its_port() {
        for text in ["https://cp:8005", "cp:8005"] {
            assert_eq!(control_plane(text).as_deref(), Ok("https://cp:8005"));
        }
        assert!(control_plane("cp").is_err());
    }

    #[test]
    fn lists_may_have_blanks_behind_commas() {
        let lists = [
            "data-plane",
            "--trusted-ips",
            "0.0.0.0/0, ::/0",
            "--provider-networks",
            "10.0.0.0/8, fd00::/8",
            "--dns-resolver",
            "127.0.0.1:53, 127.0.0.2",
        ];
        let settings = Program::load(lists.map(OsString::from)).unwrap().settings;
        assert_eq!(settings.trusted_ips.len(), 2);
        assert_eq!(settings.provider_networks.len(), 2);
        assert!(crate::upstream::resolve::DnsConfig::read(&settings).is_ok());
    }

    #[test]
    fn a_label_without_a_value_is_refused() {
        assert!(label("zone").is_err() && label("=a").is_err());
        for text in ["zone=a", "zone:a"] {
            assert_eq!(label(text), Ok(("zone".to_owned(), "a".to_owned())));
        }
    }
}

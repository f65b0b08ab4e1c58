//! `file-log`, `tcp-log`, `udp-log`: one line for each exchange, to a file or a server (Kong 3.9).

use std::collections::BTreeMap;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use crate::config::values::Number;
use crate::filter::{Filter, Instance, Over, Phases, Plugin, Protocols};
use crate::host::Host;
use crate::host::sink::{Sink, TcpTls};
use crate::logs::custom_fields::CustomFields;
use crate::logs::queue::Sending;

/// Configuration of `file-log`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct FileLog {
    /// File that lines are added to, on each data plane. Made if it does not exist.
    pub path: String,

    /// Opens the file for each line, so that it may be moved away at any time.
    #[serde(default)]
    pub reopen: bool,

    /// Fields of records to add or change, or with `nil` to take away, with dots into records: `return` and an
    /// expression of Lua.
    #[serde(default)]
    pub custom_fields_by_lua: Option<BTreeMap<String, String>>,
}

/// Configuration of `tcp-log`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct TcpLog {
    /// Name or address of the server.
    pub host: String,

    /// Its port.
    #[schemars(range(min = 0, max = 65_535))]
    pub port: u16,

    /// Longest wait for the server, in milliseconds.
    #[serde(default = "Number::of::<10_000>")]
    pub timeout: Number,

    /// How long an idle connection is kept, in milliseconds.
    #[serde(default = "Number::of::<60_000>")]
    pub keepalive: Number,

    /// Speaks TLS.
    #[serde(default)]
    pub tls: bool,

    /// The name to ask for in TLS, if it is not the host.
    #[serde(default)]
    pub tls_sni: Option<String>,

    /// Fields of records to add or change, or with `nil` to take away, with dots into records: `return` and an
    /// expression of Lua.
    #[serde(default)]
    pub custom_fields_by_lua: Option<BTreeMap<String, String>>,
}

/// Configuration of `udp-log`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct UdpLog {
    /// Name or address of the server.
    pub host: String,

    /// Its port.
    #[schemars(range(min = 0, max = 65_535))]
    pub port: u16,

    /// Longest wait, in milliseconds.
    #[serde(default = "Number::of::<10_000>")]
    pub timeout: Number,

    /// Fields of records to add or change, or with `nil` to take away, with dots into records: `return` and an
    /// expression of Lua.
    #[serde(default)]
    pub custom_fields_by_lua: Option<BTreeMap<String, String>>,
}

/// What Kong says of a path that is none.
const NO_FILE: &str = "not a valid filename";

impl Plugin for FileLog {
    const NAME: &'static str = "file-log";
    const PRIORITY: u32 = 9;
    const DISPENSABLE: bool = true;
    const PROTOCOLS: Protocols = Protocols::ALL;
    type Filter = LineLog;

    fn refuse(&self, errors: &mut FieldErrors) {
        // Kong 3.9 takes none of these.
        if self.path.contains(['*', '&', '%', '\\']) {
            errors.add(&["path"], NO_FILE);
        }
    }

    fn compile(self, _: &Instance) -> Result<LineLog, FieldErrors> {
        if self.path.contains(['`', '\0']) || self.path.trim() != self.path {
            return Err(FieldErrors::at(&["path"], NO_FILE));
        }
        Ok(LineLog {
            custom: CustomFields::compile(self.custom_fields_by_lua.as_ref())?,
            newline: true,
            sink: Sink::File {
                path: self.path.into(),
                reopen: self.reopen,
            },
        })
    }
}

impl Plugin for TcpLog {
    const NAME: &'static str = "tcp-log";
    const PRIORITY: u32 = 7;
    const DISPENSABLE: bool = true;
    const PROTOCOLS: Protocols = Protocols::ALL;
    type Filter = LineLog;

    fn compile(self, _: &Instance) -> Result<LineLog, FieldErrors> {
        Ok(LineLog {
            custom: CustomFields::compile(self.custom_fields_by_lua.as_ref())?,
            newline: true,
            sink: Sink::Tcp {
                tls: self.tls.then_some(TcpTls {
                    server_name: self.tls_sni,
                }),
                host: self.host,
                port: self.port,
                timeout: self.timeout.milliseconds(),
                keepalive: self.keepalive.milliseconds(),
            },
        })
    }
}

impl Plugin for UdpLog {
    const NAME: &'static str = "udp-log";
    const PRIORITY: u32 = 8;
    const DISPENSABLE: bool = true;
    const PROTOCOLS: Protocols = Protocols::ALL;
    type Filter = LineLog;

    fn compile(self, _: &Instance) -> Result<LineLog, FieldErrors> {
        Ok(LineLog {
            custom: CustomFields::compile(self.custom_fields_by_lua.as_ref())?,
            newline: false,
            sink: Sink::Udp {
                host: self.host,
                port: self.port,
                timeout: self.timeout.milliseconds(),
            },
        })
    }
}

/// Writes a line for each exchange.
#[derive(Debug)]
pub struct LineLog {
    custom: CustomFields,
    sink: Sink,
    newline: bool,
}

impl Filter for LineLog {
    fn phases(&self) -> Phases {
        Phases::LOG
    }

    fn on_log(&self, over: Over<'_>, host: &impl Host) {
        let mut line = self.custom.record(over).to_string();
        if self.newline {
            line.push('\n');
        }
        send(host, &self.sink, Bytes::from(line));
    }
}

/// Sends `line` to `sink` in a task of its own.
pub(crate) fn send(host: &impl Host, sink: &Sink, line: Bytes) {
    let (task_host, sink) = (host.clone(), sink.clone());
    let sending = Sending::begin(host);
    host.spawn(Box::pin(async move {
        if let Err(error) = task_host.write(&sink, line).await {
            tracing::error!(%error, "an exchange is not logged");
        }
        drop(sending);
    }));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::logs::log_record::Additions;
    use crate::testing::{FakeHost, Request, log_of, logged};

    fn written(filter: &LineLog) -> Vec<(Sink, Value)> {
        let host = FakeHost::default();
        log_of(filter, &host, &Request::get("/a"));
        host.run(host.sleep(std::time::Duration::from_secs(1)));
        let lines = host.written().into_iter();
        lines
            .map(|(sink, line)| (sink, serde_json::from_slice(&line).unwrap()))
            .collect()
    }

    #[test]
    fn each_exchange_is_one_line() {
        let instance = Instance { id: Uuid::nil() };
        let file: FileLog = serde_json::from_value(json!({"path": "/tmp/a.log"})).unwrap();
        let lines = written(&file.compile(&instance).unwrap());
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].1["request"]["uri"], "/a");
        let tcp = json!({"host": "logs.example", "port": 514, "tls": true, "tls_sni": "x"});
        let tcp: TcpLog = serde_json::from_value(tcp).unwrap();
        let lines = written(&tcp.compile(&instance).unwrap());
        assert!(matches!(
            &lines[0].0,
            Sink::Tcp {
                port: 514,
                tls: Some(_),
                ..
            }
        ));
        let udp: UdpLog = serde_json::from_value(json!({"host": "a", "port": 1})).unwrap();
        let lines = written(&udp.compile(&instance).unwrap());
        assert!(matches!(&lines[0].0, Sink::Udp { port: 1, .. }));
    }

    #[test]
    fn what_other_filters_add_is_told() {
        let udp: UdpLog = serde_json::from_value(json!({"host": "a", "port": 1})).unwrap();
        let filter = udp.compile(&Instance { id: Uuid::nil() }).unwrap();
        let host = FakeHost::default();
        logged(&filter, &host, &Request::get("/a"), |seen| {
            Additions::of(&mut seen.notes).insert("correlation_id".to_owned(), json!("1234"));
        });
        host.run(host.sleep(std::time::Duration::from_secs(1)));
        let told: Value = serde_json::from_slice(&host.written()[0].1).unwrap();
        assert_eq!(told["correlation_id"], "1234");
    }

    #[test]
    fn a_path_is_judged_as_by_kong() {
        for (path, good) in [
            ("/tmp/a.log", true),
            ("/tmp/my log.txt", true),
            ("/tmp/caf\u{e9};a", true),
            // Where it leads is seen when it is opened.
            ("/tmp/dir/", true),
            ("/ovo*", false),
            ("test&thing", false),
            ("/tmp/a%b", false),
            ("/tmp/a\\b", false),
            ("/tmp/`a`", false),
            (" /tmp/a", false),
            ("/tmp/a ", false),
        ] {
            let checked = crate::registry::check("file-log", &json!({"path": path}));
            assert_eq!(checked.is_ok(), good, "{path}");
        }
    }
}

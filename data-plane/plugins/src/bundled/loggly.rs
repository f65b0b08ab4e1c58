//! `loggly`: one message for each exchange, to Loggly (Kong 3.9, loggly; RFC 5424).

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;
use shared::types::Set;

use crate::bundled::line_logs::send;
use crate::config::values::{Number, SecretText};
use crate::filter::{Filter, Instance, Over, Phases, Plugin, Protocols};
use crate::host::Host;
use crate::host::sink::Sink;
use crate::logs::custom_fields::CustomFields;
use crate::logs::severity::Severities;

/// The facility `user`.
const FACILITY: u8 = 1;

/// Configuration of `loggly`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Loggly {
    /// Name or address of the server.
    #[serde(default = "server")]
    pub host: String,

    /// Its UDP port.
    #[serde(default = "port")]
    #[schemars(range(min = 0, max = 65_535))]
    pub port: u16,

    /// The customer's token.
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub key: SecretText,

    /// Tags of the messages.
    #[serde(default = "kong")]
    pub tags: Set<String>,

    /// Which exchanges are logged, and how severe they are.
    #[serde(flatten)]
    pub severities: Severities,

    /// Longest wait, in milliseconds.
    #[serde(default = "Number::of::<10_000>")]
    pub timeout: Number,

    /// Fields of records to add or change, or with `nil` to take away, with dots into records: `return` and an
    /// expression of Lua.
    #[serde(default)]
    pub custom_fields_by_lua: Option<BTreeMap<String, String>>,
}

fn server() -> String {
    "logs-01.loggly.com".to_owned()
}

const fn port() -> u16 {
    514
}

fn kong() -> Set<String> {
    ["kong".to_owned()].into_iter().collect()
}

impl Plugin for Loggly {
    const NAME: &'static str = "loggly";
    const PRIORITY: u32 = 6;
    const DISPENSABLE: bool = true;
    const PROTOCOLS: Protocols = Protocols::ALL;
    type Filter = LogglyFilter;

    fn compile(self, _: &Instance) -> Result<LogglyFilter, FieldErrors> {
        // What ends a value of the structured data, or the message, must not stand in one.
        let plain =
            |text: &str| !text.contains(['"', '\\', ']']) && !text.contains(char::is_control);
        if !plain(self.key.expose()) || self.key.expose().contains(' ') {
            return Err(FieldErrors::at(&["key"], "not a token"));
        }
        if let Some(tag) = self.tags.as_slice().iter().find(|tag| !plain(tag)) {
            return Err(FieldErrors::at(&["tags"], format!("not a tag: {tag}")));
        }
        let tags = self.tags.as_slice().iter();
        let tags: Vec<String> = tags.map(|tag| format!("tag=\"{tag}\"")).collect();
        Ok(LogglyFilter {
            custom: CustomFields::compile(self.custom_fields_by_lua.as_ref())?,
            severities: self.severities,
            data: SecretText::from(format!("[{}@41058 {}]", self.key.expose(), tags.join(" "))),
            machine: shared::machine::hostname(),
            sink: Sink::Udp {
                host: self.host,
                port: self.port,
                timeout: self.timeout.milliseconds(),
            },
        })
    }
}

/// Tells Loggly of exchanges.
#[derive(Debug)]
pub struct LogglyFilter {
    custom: CustomFields,
    severities: Severities,
    /// The token, and tags.
    data: SecretText,
    machine: String,
    sink: Sink,
}

impl Filter for LogglyFilter {
    fn phases(&self) -> Phases {
        Phases::LOG
    }

    fn on_log(&self, over: Over<'_>, host: &impl Host) {
        let Some(severity) = self.severities.of(over.status()) else {
            return;
        };
        let priority = FACILITY * 8 + severity.number();
        let millis = i64::try_from(host.now().as_millis()).unwrap_or(i64::MAX);
        let time = DateTime::<Utc>::from_timestamp_millis(millis).unwrap_or_default();
        let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
        let machine = match self.machine.as_str() {
            "" => "-",
            name => name,
        };
        let (data, record) = (self.data.expose(), self.custom.record(over));
        let message = format!("<{priority}>1 {time} {machine} kong - - {data} {record}");
        send(host, &self.sink, Bytes::from(message));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, log_of};

    fn compile(config: Value) -> Result<LogglyFilter, FieldErrors> {
        let config: Loggly = serde_json::from_value(config).unwrap();
        config.compile(&Instance { id: Uuid::nil() })
    }

    #[test]
    fn a_message_is_one_of_rfc_5424() {
        let filter = compile(json!({"key": "secret", "tags": ["a", "b c"]})).unwrap();
        assert!(!format!("{filter:?}").contains("secret"));
        let host = FakeHost::default();
        log_of(&filter, &host, &Request::get("/a"));
        host.run(host.sleep(std::time::Duration::from_secs(1)));
        let written = host.written();
        let line = String::from_utf8(written[0].1.to_vec()).unwrap();
        assert!(line.starts_with("<14>1 20"), "{line}");
        let data = " kong - - [secret@41058 tag=\"a\" tag=\"b c\"] {";
        assert!(line.contains(data), "{line}");
        assert!(matches!(&written[0].0, Sink::Udp { port: 514, .. }));
    }

    #[test]
    fn what_would_break_the_message_is_refused() {
        assert!(compile(json!({"key": "a]b"})).is_err());
        assert!(compile(json!({"key": "a b"})).is_err());
        assert!(compile(json!({"key": "a", "tags": ["x\"y"]})).is_err());
        assert!(compile(json!({"key": "a", "log_level": "crit"})).is_ok());
    }
}

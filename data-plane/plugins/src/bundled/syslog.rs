//! `syslog`: one message for each exchange, to the system's log (Kong 3.9, syslog).

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use crate::bundled::line_logs::send;
use crate::filter::{Filter, Instance, Over, Phases, Plugin, Protocols};
use crate::host::Host;
use crate::host::sink::Sink;
use crate::logs::custom_fields::CustomFields;
use crate::logs::severity::Severities;

/// Where the system takes messages.
const SOCKET: &str = "/dev/log";

/// Configuration of `syslog`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Syslog {
    /// Which exchanges are logged, and how severe they are.
    #[serde(flatten)]
    pub severities: Severities,

    /// Fields of records to add or change, or with `nil` to take away, with dots into records: `return` and an
    /// expression of Lua.
    #[serde(default)]
    pub custom_fields_by_lua: Option<BTreeMap<String, String>>,

    /// The facility that messages are filed under.
    #[serde(default)]
    pub facility: Facility,
}

/// A facility (RFC 5424 §6.2.1).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are those of RFC 5424")]
pub enum Facility {
    Auth,
    Authpriv,
    Cron,
    Daemon,
    Ftp,
    Kern,
    Lpr,
    Mail,
    News,
    Syslog,
    #[default]
    User,
    Uucp,
    Local0,
    Local1,
    Local2,
    Local3,
    Local4,
    Local5,
    Local6,
    Local7,
}

impl Facility {
    const fn number(self) -> u8 {
        match self {
            Self::Kern => 0,
            Self::User => 1,
            Self::Mail => 2,
            Self::Daemon => 3,
            Self::Auth => 4,
            Self::Syslog => 5,
            Self::Lpr => 6,
            Self::News => 7,
            Self::Uucp => 8,
            Self::Cron => 9,
            Self::Authpriv => 10,
            Self::Ftp => 11,
            Self::Local0 => 16,
            Self::Local1 => 17,
            Self::Local2 => 18,
            Self::Local3 => 19,
            Self::Local4 => 20,
            Self::Local5 => 21,
            Self::Local6 => 22,
            Self::Local7 => 23,
        }
    }
}

impl Plugin for Syslog {
    const NAME: &'static str = "syslog";
    const PRIORITY: u32 = 4;
    const DISPENSABLE: bool = true;
    const PROTOCOLS: Protocols = Protocols::ALL;
    type Filter = SyslogFilter;

    fn compile(self, _: &Instance) -> Result<SyslogFilter, FieldErrors> {
        Ok(SyslogFilter {
            custom: CustomFields::compile(self.custom_fields_by_lua.as_ref())?,
            severities: self.severities,
            facility: self.facility,
            sink: Sink::Datagram {
                path: PathBuf::from(SOCKET),
            },
        })
    }
}

/// Tells the system of exchanges.
#[derive(Debug)]
pub struct SyslogFilter {
    custom: CustomFields,
    severities: Severities,
    facility: Facility,
    sink: Sink,
}

impl Filter for SyslogFilter {
    fn phases(&self) -> Phases {
        Phases::LOG
    }

    fn on_log(&self, over: Over<'_>, host: &impl Host) {
        let Some(severity) = self.severities.of(over.status()) else {
            return;
        };
        let priority = self.facility.number() * 8 + severity.number();
        let message = format!("<{priority}>kong: {}", self.custom.record(over));
        send(host, &self.sink, Bytes::from(message));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, log_of};

    #[test]
    fn a_message_has_facility_and_severity() {
        let check = |config: Value, start: Option<&str>| {
            let config: Syslog = serde_json::from_value(config).unwrap();
            let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
            let host = FakeHost::default();
            log_of(&filter, &host, &Request::get("/a"));
            host.run(host.sleep(std::time::Duration::from_secs(1)));
            let written = host.written();
            let line = written
                .first()
                .map(|(_, line)| String::from_utf8_lossy(line));
            assert_eq!(line.is_some(), start.is_some());
            if let (Some(line), Some(start)) = (line, start) {
                assert!(
                    line.starts_with(start) && line.contains("\"uri\":\"/a\""),
                    "{line}"
                );
            }
        };
        check(json!({}), Some("<14>kong: {"));
        check(
            json!({"facility": "local0", "successful_severity": "notice"}),
            Some("<133>kong: {"),
        );
        check(json!({"log_level": "err"}), None);
    }
}

//! Amounts of memory, as Kong's `/status` tells them.

use serde_json::{Value, json};

use crate::machine::{resident_bytes, total_bytes};

/// How amounts of memory are written.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Bytes of the unit, and its name; none for plain bytes.
    unit: Option<(u64, &'static str)>,
    /// Digits behind the point.
    scale: usize,
}

impl Format {
    /// What the arguments `unit` and `scale` of a query ask for; mebibytes with two digits without them. The error says what
    /// is wrong with one of them.
    pub fn parse(query: Option<&str>) -> Result<Self, String> {
        let mut format = Self {
            unit: Some((1 << 20, "MiB")),
            scale: 2,
        };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "unit" => {
                    format.unit = match &*value {
                        "b" | "B" => None,
                        "k" | "K" => Some((1 << 10, "KiB")),
                        "m" | "M" => Some((1 << 20, "MiB")),
                        "g" | "G" => Some((1 << 30, "GiB")),
                        other => {
                            return Err(format!(
                                "invalid unit '{other}' (expected 'k/K', 'm/M', or 'g/G')"
                            ));
                        }
                    };
                }
                "scale" => {
                    let scale = value.parse::<usize>().ok().filter(|scale| *scale <= 20);
                    format.scale = scale.ok_or("scale must be equal or greater than 0")?;
                }
                _ => {}
            }
        }
        Ok(format)
    }

    fn show(self, bytes: u64) -> Value {
        let Some((unit, name)) = self.unit else {
            return bytes.into();
        };
        // Exact up to 2^53 bytes, far beyond any memory.
        let amount = bytes.to_string().parse::<f64>().unwrap_or_default()
            / unit.to_string().parse::<f64>().unwrap_or(1.0);
        format!("{amount:.scale$} {name}", scale = self.scale).into()
    }

    /// What memory this process has in use. All of it is its own: there is one worker, and one dictionary under the names of
    /// those that Kong's clients look at.
    pub fn memory(self) -> Value {
        let resident = self.show(resident_bytes());
        let dictionary =
            json!({ "capacity": self.show(total_bytes()), "allocated_slabs": resident });
        json!({
            "workers_lua_vms": [{ "pid": std::process::id(), "http_allocated_gc": resident }],
            "lua_shared_dicts": { "kong": dictionary, "kong_db_cache": dictionary },
        })
    }
}

//! The settings that differ from the defaults, for the log: an operator sees what an installation does differently.

use serde_json::{Map, Value};
use switchboard_protocol::Limits;

use super::file::File;
use super::{Config, ConfigError, Mode, ProfilesSection, Secret};

/// Replaces a value of several lines in the log.
const MULTI_LINE_VALUE: &str = "(set)";

impl Config {
    /// The settings that differ from the defaults of the mode, such as `listen=0.0.0.0:9501 limits.replay=5000`, with secrets
    /// masked.
    pub(crate) fn changed_settings(&self) -> Result<String, ConfigError> {
        let limits = match self.mode {
            Mode::Serve => Limits::default(),
            Mode::Dev => Limits::default().without_rates(),
        };
        let profiles = ProfilesSection::default();
        let profiles = ProfilesSection { own: profiles.allows_own(self.mode), ..profiles };
        let defaults = File { limits, profiles, ..File::default() }.to_json()?;
        let mut changed = Vec::new();
        collect_changes("", &as_object(self.to_json()?), &as_object(defaults), &mut changed);
        Ok(changed.join(" "))
    }
}

fn as_object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn collect_changes(
    section: &str,
    settings: &Map<String, Value>,
    defaults: &Map<String, Value>,
    out: &mut Vec<String>,
) {
    for (name, value) in settings {
        let default = defaults.get(name);
        match value {
            Value::Object(inner) => {
                let of_section = default.and_then(Value::as_object).cloned().unwrap_or_default();
                collect_changes(&format!("{section}{name}."), inner, &of_section, out);
            }
            value if Some(value) != default => out.push(format!("{section}{name}={}", show_value(value))),
            _ => {}
        }
    }
}

fn show_value(value: &Value) -> String {
    match value {
        Value::String(text) if text == Secret::MASK => text.clone(),
        Value::String(text) if text.contains('\n') => MULTI_LINE_VALUE.to_owned(),
        Value::String(text) if !text.is_empty() && !text.contains(char::is_whitespace) => text.clone(),
        value => value.to_string(),
    }
}

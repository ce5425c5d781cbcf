//! Merges the sources of the configuration. Every value is checked on its own before it is merged, so that an error names the
//! setting and its source.

use std::collections::BTreeMap;
use std::path::Path;

use switchboard_protocol::in_json_words;
use toml::de::DeTable;
use toml::{Table, Value};

use super::file::{File, SECTIONS, Setting, ValueType, all_settings};
use super::{ConfigError, Flags, LogFormat, secret};

/// The prefix of the server's environment variables.
const PREFIX: &str = "SWITCHBOARD_";

/// Variables with the prefix that are not settings: the path of the file, and the token of `send` and `tail`.
const OTHER_VARIABLES: [&str; 2] = ["SWITCHBOARD_CONFIG", "SWITCHBOARD_TOKEN"];

/// The format of the log that the sources name. An error in the configuration is reported in this format, so it is found even if
/// the rest of the sources is invalid.
pub(crate) fn requested_log_format(flags: &Flags, env: &[(String, String)]) -> LogFormat {
    const FORMAT_VARIABLE: &str = "SWITCHBOARD_LOG_FORMAT";
    let in_env = env.iter().find(|(name, text)| name == FORMAT_VARIABLE && !text.is_empty());
    let in_file = || {
        let text = secret::read_text(flags.config.as_ref()?).ok()?;
        // This also parses the valid part of a file with a syntax error.
        let (table, _) = DeTable::parse_recoverable(text.trim_start_matches(secret::BOM));
        let section = table.into_inner().remove("log")?.into_inner();
        Some(section.as_table()?.get("format")?.get_ref().as_str()?.to_owned())
    };
    match in_env.map(|(_, text)| text.clone()).or_else(in_file).as_deref() {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Text,
    }
}

/// Settings that exclude each other: one of them in a layer overrides all of them in lower layers.
const EXCLUSIVE_SETTINGS: [(&str, &[&str]); 4] = [
    (
        "the keys that verify tokens are in one setting",
        &["auth.secret", "auth.secret_file", "auth.public_key", "auth.public_key_file"],
    ),
    ("operators have one token", &["operator.token", "operator.token_file"]),
    ("there is one store", &["store", "store_file"]),
    ("there is one bus", &["bus", "bus_file"]),
];

/// A value for a setting, and the source of the value, which errors name.
struct Assignment {
    setting: Setting,
    value: Value,
    source: String,
}

/// The sources of the configuration that were read so far, merged.
pub(super) struct Layers {
    settings: Vec<Setting>,
    assignments: BTreeMap<String, Assignment>,
}

impl Default for Layers {
    fn default() -> Self {
        Self { settings: all_settings(), assignments: BTreeMap::new() }
    }
}

impl Layers {
    /// Adds a TOML file.
    pub(super) fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display();
        let text = secret::read_text(path).map_err(|e| {
            ConfigError::new(format!(
                "cannot read {name}: {e}; `switchboard config default` prints a file to start from"
            ))
        })?;
        let text = text.trim_start_matches(secret::BOM);
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            // The error's own display quotes the line, which may contain the secret.
            let before = e.span().map_or("", |span| text.get(..span.start).unwrap_or_default());
            ConfigError::new(format!("{name}, line {}: {}", before.matches('\n').count() + 1, e.message()))
        })?;
        let mut layer = Vec::new();
        for (key, value) in table {
            match value {
                Value::Table(section) if SECTIONS.contains(&key.as_str()) => {
                    for (inner, value) in section {
                        layer.push(self.assignment_from_file(&format!("{key}.{inner}"), value, path)?);
                    }
                }
                value if SECTIONS.contains(&key.as_str()) => {
                    return Err(ConfigError::new(format!(
                        "`{key}` in {name} is a section, `[{key}]`, not a {}",
                        value.type_str()
                    )));
                }
                Value::Table(_) => {
                    let near = |s: &&&str| strsim::damerau_levenshtein(s, &key) <= 2;
                    let hint = SECTIONS.iter().find(near).map_or_else(
                        || format!("the sections are [{}]", SECTIONS.join("], [")),
                        |section| format!("did you mean `[{section}]`?"),
                    );
                    return Err(ConfigError::new(format!("`[{key}]` in {name} is not a section; {hint}")));
                }
                value => layer.push(self.assignment_from_file(&key, value, path)?),
            }
        }
        self.add_layer(layer)
    }

    /// Adds environment variables. An empty variable counts as unset, because Compose and unit files omit a variable that way.
    pub(super) fn add_env(&mut self, env: &[(String, String)]) -> Result<(), ConfigError> {
        let mut layer = Vec::new();
        for (variable, text) in env {
            let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
            if text.is_empty()
                || OTHER_VARIABLES.contains(&variable.as_str())
                || is_set_by_kubernetes(rest, text)
            {
                continue;
            }
            let Some(setting) = self.settings.iter().find(|s| s.variable() == *variable).cloned() else {
                let hint = self.suggest_similar(&rest.to_ascii_lowercase(), Setting::variable);
                return Err(ConfigError::new(format!(
                    "{variable} in the environment is not a setting; {hint}"
                )));
            };
            let value = match setting.kind {
                ValueType::Text => Value::String(text.clone()),
                // Text that is no number stays a string, which the type check refuses.
                ValueType::Number => {
                    text.parse().map_or_else(|_| Value::String(text.clone()), Value::Integer)
                }
                ValueType::Bool => text.parse().map_or_else(|_| Value::String(text.clone()), Value::Boolean),
                ValueType::List => {
                    Value::Array(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect())
                }
            };
            layer.push(Assignment { setting, value, source: format!("{variable} in the environment") });
        }
        self.add_layer(layer)
    }

    /// Adds the flags.
    pub(super) fn add_flags(&mut self, flags: &Flags) -> Result<(), ConfigError> {
        let mut layer = Vec::new();
        for (name, text) in [
            ("name", &flags.name),
            ("listen", &flags.listen),
            ("operator.listen", &flags.operator_listen),
            ("data", &flags.data),
            ("store", &flags.store),
            ("bus", &flags.bus),
        ] {
            let flag = name.replace('.', "-");
            if text.as_ref().is_some_and(String::is_empty) {
                return Err(ConfigError::new(format!("--{flag} is empty; omit it or give a value")));
            }
            let setting = self.settings.iter().find(|s| s.path() == name).cloned();
            if let (Some(setting), Some(text)) = (setting, text) {
                layer.push(Assignment {
                    setting,
                    value: Value::String(text.clone()),
                    source: format!("--{flag}"),
                });
            }
        }
        self.add_layer(layer)
    }

    /// The merged file, and the source of each value by the setting's path.
    pub(super) fn finish(self) -> Result<(File, BTreeMap<String, String>), ConfigError> {
        let mut table = Table::new();
        let mut sources = BTreeMap::new();
        for (path, assignment) in self.assignments {
            insert(&mut table, &assignment.setting, assignment.value);
            sources.insert(path, assignment.source);
        }
        let file = table.try_into::<File>().map_err(|e| ConfigError::new(e.message()))?;
        Ok((file, sources))
    }

    fn assignment_from_file(&self, path: &str, value: Value, file: &Path) -> Result<Assignment, ConfigError> {
        match self.settings.iter().find(|s| s.path() == path).cloned() {
            Some(setting) => {
                Ok(Assignment { setting, value, source: format!("`{path}` in {}", file.display()) })
            }
            None => {
                let hint = self.suggest_similar(path, |setting| format!("`{}`", setting.path()));
                Err(ConfigError::new(format!("`{path}` in {} is not a setting; {hint}", file.display())))
            }
        }
    }

    fn add_layer(&mut self, layer: Vec<Assignment>) -> Result<(), ConfigError> {
        for (rule, paths) in EXCLUSIVE_SETTINGS {
            let present: Vec<_> =
                layer.iter().filter(|a| paths.contains(&a.setting.path().as_str())).collect();
            if let [first, second, ..] = present.as_slice() {
                return Err(ConfigError::new(format!(
                    "{} and {}: {rule}, so give one of them",
                    first.source, second.source
                )));
            }
            if !present.is_empty() {
                self.assignments.retain(|path, _| !paths.contains(&path.as_str()));
            }
        }
        for assignment in layer {
            let mut alone = Table::new();
            insert(&mut alone, &assignment.setting, assignment.value.clone());
            alone.try_into::<File>().map_err(|e| {
                ConfigError::new(format!("{}: {}", assignment.source, in_json_words(e.message())))
            })?;
            self.assignments.insert(assignment.setting.path(), assignment);
        }
        Ok(())
    }

    /// Suggests the setting most similar to an unknown name, in the form of `show`.
    fn suggest_similar(&self, unknown: &str, show: impl Fn(&Setting) -> String) -> String {
        let flat = |path: &str| path.replace('.', "_");
        let leaf = unknown.rsplit('.').next().unwrap_or_default();
        let distance = |setting: &Setting| {
            let whole = strsim::damerau_levenshtein(&flat(unknown), &flat(&setting.path()));
            // The right name in a wrong section, or without one, also counts as similar.
            whole.min(strsim::damerau_levenshtein(leaf, &setting.name) + 1)
        };
        match self.settings.iter().min_by_key(|setting| distance(setting)) {
            Some(nearest) if distance(nearest) <= (leaf.len() / 3).max(1) => {
                format!("did you mean {}?", show(nearest))
            }
            _ => "`switchboard config default` lists them all".to_owned(),
        }
    }
}

/// Kubernetes sets variables in every container with the address of each service of its namespace, named after the service (its
/// documentation, "Accessing the Service"). A service called `switchboard` must not stop the server from starting.
fn is_set_by_kubernetes(rest: &str, value: &str) -> bool {
    rest.starts_with("SERVICE_HOST")
        || rest.starts_with("SERVICE_PORT")
        || rest.starts_with("PORT_")
        || (rest == "PORT" && value.contains("://"))
}

fn insert(table: &mut Table, setting: &Setting, value: Value) {
    if setting.section.is_empty() {
        table.insert(setting.name.clone(), value);
        return;
    }
    let section = table.entry(setting.section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(setting.name.clone(), value);
    }
}

//! What is remembered of the configuration that a VM was started with: enough to tell later what has changed since.
//! Small whatever the configuration, and holds no secret: of most fields a digest.

use std::collections::BTreeMap;

use limafs_driver::Config;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The size of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cpus: Option<i64>,
    pub memory: Option<String>,
    pub disk: Option<String>,
}

impl Machine {
    /// That of a filled configuration.
    pub fn of(config: &Config) -> Self {
        Self { cpus: config.cpus, memory: config.memory.clone(), disk: config.disk.clone() }
    }
}

/// A filled configuration, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    #[serde(flatten)]
    pub machine: Machine,
    /// Of each top-level field that has a value: 16 hexadecimal digits.
    digests: BTreeMap<String, String>,
}

impl Started {
    pub fn with(config: &Config) -> Self {
        Self {
            machine: Machine::of(config),
            digests: fields(config).iter().map(|(key, value)| (key.clone(), digest(value))).collect(),
        }
    }

    /// Takes over the processors and memory of a configuration that has nothing else.
    pub fn resize(&mut self, new: &Config) {
        self.machine = Machine { disk: self.machine.disk.take(), ..Machine::of(new) };
        self.digests.extend(Self::with(new).digests);
    }

    /// The top-level fields in which a filled configuration differs from this one, in the schema's order.
    pub fn differing(&self, config: &Config) -> Vec<String> {
        let fields = fields(config);
        let gone = self.digests.keys().filter(|key| !fields.contains_key(*key));
        let changed = fields.iter().filter(|(key, value)| self.digests.get(*key) != Some(&digest(value)));
        changed.map(|(key, _)| key).chain(gone).cloned().collect()
    }
}

fn fields(config: &Config) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        // A configuration came out of a document: all its keys are text, and none of its numbers are infinite.
        _ => Map::new(),
    }
}

fn digest(value: &Value) -> String {
    Sha256::digest(value.to_string().as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use limafs_driver::HostResolver;

    use super::*;

    #[test]
    fn fields_that_changed_came_or_went_differ() {
        let resolver = |enabled| Some(HostResolver { enabled: Some(enabled), ..HostResolver::default() });
        let old = Config { cpus: Some(1), tpm: Some(true), host_resolver: resolver(true), ..Config::default() };
        let new = Config { memory: Some("1GiB".into()), host_resolver: resolver(false), ..old.clone() };
        assert_eq!(Started::with(&old).differing(&new), ["memory", "hostResolver"]);
        assert_eq!(Started::with(&new).differing(&Config { tpm: None, ..new.clone() }), ["tpm"]);
        assert_eq!(Started::with(&new).differing(&new), [""; 0]);
    }

    #[test]
    fn a_new_size_is_no_difference_any_more() {
        let old = Config { cpus: Some(1), memory: Some("1GiB".into()), disk: Some("4GiB".into()), ..Config::default() };
        let new = Config { cpus: Some(2), memory: Some("2GiB".into()), tpm: Some(true), ..old.clone() };
        let mut started = Started::with(&old);
        started.resize(&Config { cpus: Some(2), memory: Some("2GiB".into()), ..Config::default() });
        assert_eq!(started.differing(&new), ["tpm"]);
        assert_eq!(started.machine, Machine::of(&new));
    }

    #[test]
    fn it_survives_its_json_stays_small_and_tells_no_secret() {
        let param = BTreeMap::from([("password".to_owned(), "hunter2".repeat(100_000))]);
        let config = Config { cpus: Some(2), param: Some(param), ..Config::default() };
        let json = serde_json::to_string(&Started::with(&config)).unwrap();
        assert!(json.len() < 200 && !json.contains("hunter2"), "{json}");
        assert_eq!(serde_json::from_str::<Started>(&json).unwrap(), Started::with(&config));
    }
}

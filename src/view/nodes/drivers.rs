//! What the files of a driver show: `key: value` lines that are valid YAML. Pure functions of what is known of it.

use std::fmt::Write;

use limafs_driver::Features;
use serde_json::Value;

use super::status::scalar;
use crate::drivers::{DriverOption, Known, Place, SAFE, priority_word};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn put(&mut self, key: &str, value: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key}: {}", scalar(value));
    }

    /// The same for what is left out where there is nothing to say.
    fn some(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.put(key, value);
        }
    }

    fn list(&mut self, key: &str, words: impl Iterator<Item = String>) {
        let words: Vec<String> = words.map(|word| scalar(&word)).collect();
        let _ = writeln!(self.0, "{key}: [{}]", words.join(", "));
    }
}

/// What the driver is.
pub fn driver_info(known: &Known) -> String {
    let mut lines = Lines::default();
    lines.put("name", &known.found.name);
    match &known.found.place {
        Place::BuiltIn => {
            lines.put("path", "built in");
            lines.put("version", VERSION);
        }
        Place::Program(path) | Place::Plugin(path) => lines.put("path", &path.to_string_lossy()),
    }
    if let Some(words) = known.words() {
        lines.list("aliases", words.about.aliases.iter().cloned());
        lines.put("default", if words.about.default { "true" } else { "false" });
        lines.put("priority", &priority_word(words.about.priority));
        lines.list("features", features(&words.info.features).into_iter());
        lines.list("image_formats", words.info.features.supported_image_formats.iter().cloned());
    }
    match (&known.found.place, &known.tried) {
        (Place::Plugin(_), None) => lines.put("options", "being asked for; read again"),
        (_, Some(tried)) if !tried.options.is_empty() => {
            lines.0.push_str("options:\n");
            for DriverOption { name, default, usage } in &tried.options {
                let _ = writeln!(lines.0, "  {}: {}  # {usage}", scalar(name), scalar(default));
            }
        }
        _ => {}
    }
    lines.0
}

/// The names of those that it has, as the protocol spells them.
fn features(features: &Features) -> Vec<String> {
    match serde_json::to_value(features) {
        Ok(Value::Object(fields)) => {
            fields.into_iter().filter(|(_, value)| *value == Value::Bool(true)).map(|(name, _)| name).collect()
        }
        // A struct is an object.
        _ => Vec::new(),
    }
}

/// How the driver is on this machine.
pub fn driver_status(known: &Known) -> String {
    let mut lines = Lines::default();
    let truth = |value: bool| if value { "true" } else { "false" };
    if let Some(why) = &known.found.refused {
        lines.put("installed", "true");
        lines.put("healthy", "false");
        lines.put("running", "false");
        lines.put("needs_improvement", "false");
        lines.put("error", why);
        lines.put("reason", "unsafe-path");
        lines.put("fix", SAFE);
    } else if let Some(health) = known.health() {
        lines.put("installed", truth(health.installed));
        lines.put("healthy", truth(health.healthy));
        lines.put("running", truth(health.running));
        lines.put("needs_improvement", truth(health.needs_improvement));
        lines.some("error", &health.error);
        lines.some("reason", &health.reason);
        lines.some("fix", &health.fix);
        lines.some("doc", &health.doc);
        lines.some("version", &health.version);
    } else {
        lines.put("installed", "true");
        for key in ["healthy", "running", "needs_improvement"] {
            lines.put(key, "unknown");
        }
        let why = if known.tried.is_some() { "it does not say how it is" } else { "it is being tried; read again" };
        lines.put("reason", why);
    }
    lines.put("priority", &priority_word(known.priority()));
    if let Some(tried) = &known.tried {
        lines.put("tried", &format!("{:.0}", tried.when));
    }
    lines.0
}

/// What it said when it was tried.
pub fn driver_log(known: &Known) -> String {
    let Some(tried) = &known.tried else { return String::new() };
    let outcome = match &tried.health {
        None => "it does not say how it is".to_owned(),
        Some(health) => {
            let words = [if health.healthy { "healthy" } else { "not healthy" }, &health.version, &health.error];
            words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join("; ").replace('\n', " ")
        }
    };
    let mut text = format!("{:.0} tried: {outcome}\n", tried.when);
    for line in &tried.log {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use limafs_driver::{About, Health, Info, Priority};

    use super::*;
    use crate::drivers::{Found, Tried, Words};

    fn known(health: Option<Health>) -> Known {
        let about = About { aliases: vec!["qemu2".into()], default: true, priority: Priority::Default };
        let features = Features { dynamic_ssh_address: true, ..Features::default() };
        let words = Words { about, info: Info { features, ..Info::default() } };
        let found =
            Found { name: "qemu".into(), stamp: None, place: Place::BuiltIn, refused: None, words: Some(words) };
        let when = Timestamp::UNIX_EPOCH;
        let tried = |health| Tried { when, health: Some(health), words: None, log: vec![], options: vec![] };
        Known { found, tried: health.map(tried) }
    }

    fn yaml(text: &str) -> Value {
        serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    #[test]
    fn the_status_is_yaml_whatever_a_driver_says() {
        let health = Health::failing(true, "no-kvm", "no: \"KVM\"\n- here # x", "add: yourself");
        let status = yaml(&driver_status(&known(Some(health))));
        assert_eq!(status["error"], "no: \"KVM\"\n- here # x");
        assert_eq!(status["fix"], "add: yourself");
        assert_eq!((&status["installed"], &status["healthy"]), (&Value::Bool(true), &Value::Bool(false)));
        assert_eq!(status["priority"], "unhealthy");
        assert_eq!(yaml(&driver_status(&known(None)))["healthy"], "unknown");
    }

    #[test]
    fn h12_a_refused_program_says_why() {
        let mut driver = known(None);
        driver.found.refused = Some("/x can be written by others (mode 0777)".into());
        let status = yaml(&driver_status(&driver));
        assert_eq!(status["error"], "/x can be written by others (mode 0777)");
        assert_eq!((&status["healthy"], &status["reason"]), (&Value::Bool(false), &Value::from("unsafe-path")));
    }

    #[test]
    fn info_tells_where_it_is_and_what_it_can() {
        let info = yaml(&driver_info(&known(None)));
        assert_eq!((&info["path"], &info["version"]), (&Value::from("built in"), &Value::from(VERSION)));
        assert_eq!(info["aliases"], serde_json::json!(["qemu2"]));
        assert_eq!(info["features"], serde_json::json!(["dynamicSSHAddress"]));
    }

    #[test]
    fn flags_of_a_plugin_are_told_with_their_defaults() {
        let mut driver = known(Some(Health::working("1")));
        driver.found.place = Place::Plugin("/x/docker-machine-driver-y".into());
        let option = |name: &str, default: &str| DriverOption {
            name: name.into(),
            default: default.into(),
            usage: "what: for".into(),
        };
        driver.tried.as_mut().unwrap().options = vec![option("y-cpus", "2"), option("y: odd", "a # b")];
        let info = yaml(&driver_info(&driver));
        assert_eq!(info["options"], serde_json::json!({ "y-cpus": 2, "y: odd": "a # b" }));
        driver.tried = None;
        assert!(yaml(&driver_info(&driver))["options"].is_string());
    }
}

//! `status` for people and `awk`, `status.json` for programs.

use std::borrow::Cow;
use std::fmt::Write;

use limafs_driver::Config;
use serde_json::{Map, Value, json};

use crate::config;
use crate::names::{self, Home};
use crate::view::snapshot::Snapshot;

/// `key: value` lines that are valid YAML.
pub fn status(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key}: {}", scalar(value));
    };
    let agent = snapshot.status();
    line("name", snapshot.name.as_str());
    line("state", snapshot.state().word());
    line("goal", snapshot.goal().word());
    line("since", &format!("{:.0}", snapshot.since()));
    if let Some(step) = agent.and_then(|status| status.step.as_deref()) {
        line("step", step);
    }
    if let Some(since) = agent.and_then(|status| status.step_since) {
        line("step_since", &format!("{since:.0}"));
    }
    line("ready", if agent.is_some_and(|status| status.ready) { "yes" } else { "no" });
    if let Some(loaded) = snapshot.loaded() {
        let config = &loaded.filled;
        line("driver", config.vm_type.as_deref().unwrap_or_default());
        if let Some(accelerator) = agent.and_then(|status| status.accelerator.as_ref()) {
            let reason =
                if accelerator.reason.is_empty() { String::new() } else { format!(" ({})", accelerator.reason) };
            line("accelerator", &format!("{}{reason}", accelerator.name));
        }
        line("arch", config.arch.as_deref().unwrap_or_default());
    }
    if let Some(machine) = snapshot.machine() {
        line("cpus", &machine.cpus.unwrap_or_default().to_string());
        line("memory", machine.memory.as_deref().unwrap_or_default());
        line("disk", machine.disk.as_deref().unwrap_or_default());
    }
    if snapshot.state().is_live() && snapshot.ssh_local_port() != 0 {
        line("ssh", &format!("{}:{}", snapshot.ssh_address(), snapshot.ssh_local_port()));
    }
    if let (Some(hostagent), driver) = snapshot.processes() {
        let vm = driver.map_or(String::new(), |pid| format!(" vm {pid}"));
        line("pids", &format!("hostagent {hostagent}{vm}"));
    }
    line("dir", &snapshot.dir.to_string_lossy());
    let pending = snapshot.pending();
    if !pending.is_empty() {
        text.push_str(&format!("pending: [{}]\n", pending.join(", ")));
    }
    list(&mut text, "errors", &snapshot.errors());
    list(&mut text, "warnings", snapshot.loaded().map(|loaded| loaded.warnings.as_slice()).unwrap_or_default());
    text
}

fn list(text: &mut String, key: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    text.push_str(key);
    text.push_str(":\n");
    for item in items {
        text.push_str("- ");
        text.push_str(&scalar(item));
        text.push('\n');
    }
}

/// A YAML scalar on one line: plain where it reads back as the same text, else double-quoted as in JSON.
fn scalar(value: &str) -> String {
    let plain = !value.is_empty()
        && value.chars().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == '/')
        && value.chars().all(|c| c.is_ascii_graphic() || c == ' ')
        && !value.ends_with([' ', ':'])
        && !value.contains(": ")
        && !value.contains(" #");
    if plain { value.to_owned() } else { Value::from(value).to_string() }
}

/// The object of `limactl list --json`, and our own fields beside it.
pub fn status_json(snapshot: &Snapshot) -> String {
    let mut object = lima_fields(snapshot);
    let agent = snapshot.status();
    object.insert("goal".into(), json!(snapshot.goal()));
    object.insert("state".into(), json!(snapshot.state()));
    object.insert("since".into(), json!(snapshot.since()));
    object.insert("pending".into(), json!(snapshot.pending()));
    object.insert("ready".into(), json!(agent.is_some_and(|status| status.ready)));
    if let Some(status) = agent {
        if let Some(step) = &status.step {
            object.insert("step".into(), json!(step));
            object.insert("stepSince".into(), json!(status.step_since));
        }
        if let Some(accelerator) = &status.accelerator {
            object.insert("accelerator".into(), json!(accelerator));
        }
        object.insert("forwards".into(), json!(status.forwards));
    }
    let mut text = Value::Object(object).to_string();
    text.push('\n');
    text
}

/// JSON has no bytes: where there is no text it gets U+FFFD, as Lima's does.
fn with_text_only(config: &Config) -> Cow<'_, Config> {
    let provision = config.provision.iter().flatten().flat_map(|it| [&it.script, &it.content]);
    let mut blobs = provision.chain(config.probes.iter().flatten().map(|probe| &probe.script)).flatten();
    if blobs.all(|blob| blob.as_str().is_some()) {
        return Cow::Borrowed(config);
    }
    let mut config = config.clone();
    let provision = config.provision.iter_mut().flatten().flat_map(|it| [&mut it.script, &mut it.content]);
    let blobs = provision.chain(config.probes.iter_mut().flatten().map(|probe| &mut probe.script));
    for blob in blobs.flatten() {
        *blob = blob.to_text().into_owned().into();
    }
    Cow::Owned(config)
}

fn lima_fields(snapshot: &Snapshot) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| {
        if !(is_empty(&value) || value == "" || value == 0) {
            object.insert(key.into(), value);
        }
    };
    put("name", json!(snapshot.name.as_str()));
    put("hostname", json!(snapshot.name.hostname()));
    put("status", json!(lima_status(snapshot)));
    put("dir", json!(snapshot.dir));
    if let Some(loaded) = snapshot.loaded() {
        let config = &loaded.filled;
        put("cpus", json!(config.cpus));
        put("memory", json!(config.memory.as_deref().and_then(config::size)));
        put("disk", json!(config.disk.as_deref().and_then(config::size)));
        put("network", json!(config.networks));
        put("additionalDisks", json!(config.additional_disks));
        put("config", pruned(json!(*with_text_only(config))));
        put("param", json!(config.param));
    }
    let message = super::message(snapshot);
    put("message", json!(message.strip_suffix('\n').unwrap_or(&message)));
    put("sshLocalPort", json!(snapshot.ssh_local_port()));
    put("sshConfigFile", json!(snapshot.dir.join(names::SSH_CONFIG)));
    put("sshAddress", json!(snapshot.ssh_address()));
    let (hostagent, driver) = snapshot.processes();
    put("hostAgentPID", json!(hostagent));
    put("driverPID", json!(driver));
    put("errors", json!(snapshot.errors()));
    put("HostOS", json!(snapshot.host.os.to_lowercase()));
    put("HostArch", json!(snapshot.host.arch));
    if let Some(home) = snapshot.dir.parent().map(Home::at) {
        put("LimaHome", json!(home.path()));
        put("IdentityFile", json!(home.config(names::USER_KEY)));
    }
    // These are there even when nothing is known.
    let config = snapshot.loaded().map(|loaded| &loaded.filled);
    let text = |field: fn(&Config) -> &Option<String>| config.and_then(|config| field(config).as_deref()).unwrap_or("");
    object.insert("vmType".into(), json!(text(|config| &config.vm_type)));
    object.insert("arch".into(), json!(text(|config| &config.arch)));
    object.insert("protected".into(), json!(snapshot.protected));
    object.insert("limaVersion".into(), json!(snapshot.lima_version));
    object
}

/// Without what is unset or empty, at any depth: Lima's JSON leaves that out, and programs test for the key.
fn pruned(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().map(|(key, value)| (key, pruned(value)));
            Value::Object(kept.filter(|(_, value)| !is_empty(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(pruned).collect()),
        value => value,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Lima knows no Starting, Stopping, Degraded or Paused: a VM that is there is Running.
fn lima_status(snapshot: &Snapshot) -> &'static str {
    use crate::status::State;
    match snapshot.state() {
        State::Uninitialized | State::Broken => "Broken",
        State::Stopped | State::Suspended => "Stopped",
        State::Starting | State::Running | State::Degraded | State::Stopping | State::Paused => "Running",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{pruned, scalar};

    #[test]
    fn what_is_empty_is_left_out_and_what_is_false_or_zero_stays() {
        let config = json!({ "dns": [], "vnc": { "display": null }, "images": [{ "location": "a", "digest": null }],
            "ssh": { "localPort": 0, "forwardAgent": false }, "audio": { "device": "" } });
        let lean = json!({ "images": [{ "location": "a" }], "ssh": { "localPort": 0, "forwardAgent": false },
            "audio": { "device": "" } });
        assert_eq!(pruned(config), lean);
    }

    #[test]
    fn text_that_yaml_would_read_otherwise_is_quoted() {
        assert_eq!(scalar("Running"), "Running");
        assert_eq!(scalar("a: b"), "\"a: b\"");
        assert_eq!(scalar(""), "\"\"");
        assert_eq!(scalar("- x"), "\"- x\"");
        assert_eq!(scalar("two\nlines"), "\"two\\nlines\"");
        assert_eq!(scalar("tcg (no /dev/kvm)"), "tcg (no /dev/kvm)");
    }
}

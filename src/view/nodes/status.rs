//! `status` for people and `awk`, `status.json` for programs.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::config;
use crate::names;
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
        line("ssh", &format!("127.0.0.1:{}", snapshot.ssh_local_port()));
    }
    if let Some(status) = agent {
        let vm = status.driver_pid.map_or(String::new(), |pid| format!(" vm {pid}"));
        line("pids", &format!("hostagent {}{vm}", status.hostagent_pid));
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

fn lima_fields(snapshot: &Snapshot) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| {
        let empty = matches!(&value, Value::Null) || value == "" || value == 0 || value == json!([]);
        if !empty {
            object.insert(key.into(), value);
        }
    };
    put("name", json!(snapshot.name.as_str()));
    put("hostname", json!(snapshot.name.hostname()));
    put("status", json!(lima_status(snapshot)));
    put("dir", json!(snapshot.dir));
    if let Some(loaded) = snapshot.loaded() {
        let config = &loaded.filled;
        put("vmType", json!(config.vm_type));
        put("arch", json!(config.arch));
        put("cpus", json!(config.cpus));
        put("memory", json!(config.memory.as_deref().and_then(config::size)));
        put("disk", json!(config.disk.as_deref().and_then(config::size)));
        put("network", json!(config.networks));
        put("additionalDisks", json!(config.additional_disks));
        put("config", json!(config));
        put("param", json!(config.param));
    }
    put("message", json!(super::message(snapshot)));
    put("sshLocalPort", json!(snapshot.ssh_local_port()));
    put("sshConfigFile", json!(snapshot.dir.join(names::SSH_CONFIG)));
    put("sshAddress", json!("127.0.0.1"));
    if let Some(status) = snapshot.status() {
        put("hostAgentPID", json!(status.hostagent_pid));
        put("driverPID", json!(status.driver_pid));
    }
    put("errors", json!(snapshot.errors()));
    object.insert("protected".into(), json!(snapshot.protected));
    object.insert("limaVersion".into(), json!(crate::store::LIMA_COMPATIBLE));
    object
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
    use super::scalar;

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

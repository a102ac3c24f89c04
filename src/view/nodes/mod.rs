//! What the nodes of an instance show, and what their writes mean. Pure functions of a snapshot.

mod drivers;
mod knobs;
mod list;
mod readme;
mod status;

pub use drivers::{driver_info, driver_log, driver_status};
pub use knobs::{cpus, disk, memory, parse_cpus, parse_disk, parse_memory};
pub use list::list;
pub use readme::readme;
pub use status::{status, status_json};

use super::node::Command;
use super::snapshot::Snapshot;
use crate::config;
use crate::error::{Error, Result};
use crate::status::Verb;

pub fn state(snapshot: &Snapshot) -> String {
    format!("{}\n", snapshot.state())
}

pub fn parse_verb(line: &str) -> Result<Command> {
    line.parse::<Verb>().map(Command::Verb)
}

pub fn protected(snapshot: &Snapshot) -> String {
    format!("{}\n", u8::from(snapshot.protected))
}

pub fn parse_protected(line: &str) -> Result<Command> {
    match line {
        "0" => Ok(Command::Protect(false)),
        "1" => Ok(Command::Protect(true)),
        _ => Err(Error::invalid("protected", "takes 0 or 1")),
    }
}

pub fn effective(snapshot: &Snapshot) -> String {
    match snapshot.loaded() {
        Some(loaded) => config::to_yaml(&loaded.filled).unwrap_or_else(|error| format!("# {error}\n")),
        None => "# no valid lima.yaml\n".into(),
    }
}

/// The same with origins. The snapshot keeps it, because most changes are none of the definition.
pub fn origins(snapshot: &Snapshot) -> String {
    let render = || match snapshot.loaded() {
        Some(_) => config::yaml_with_origins(&snapshot.text(), &snapshot.context())
            .unwrap_or_else(|error| format!("# {error}\n")),
        None => "# no valid lima.yaml\n".into(),
    };
    snapshot.origins.get_or_init(render).clone()
}

/// `tcp 127.0.0.1:60022 127.0.0.1:22 forwarding`
pub fn ports(snapshot: &Snapshot) -> String {
    let forwards = snapshot.status().map(|status| status.forwards.as_slice()).unwrap_or_default();
    forwards
        .iter()
        .map(|forward| format!("{} {} {} {}\n", forward.proto, forward.host, forward.guest, forward.state))
        .collect()
}

/// The objects of `status.json`'s `forwards`.
pub fn ports_json(snapshot: &Snapshot) -> String {
    let forwards = snapshot.status().map(|status| status.forwards.as_slice()).unwrap_or_default();
    format!("{}\n", serde_json::json!(forwards))
}

/// The latest of: a refused write, why the instance is broken or degraded.
pub fn error(snapshot: &Snapshot) -> String {
    let errors = snapshot.errors();
    let lines = match &snapshot.refusal {
        Some((when, sentence)) if errors.is_empty() || *when >= snapshot.since() => vec![sentence.clone()],
        _ => errors,
    };
    lines.iter().map(|line| format!("{line}\n")).collect()
}

pub fn message(snapshot: &Snapshot) -> String {
    let Some(loaded) = snapshot.loaded() else { return String::new() };
    config::message(&loaded.filled, &snapshot.context(), snapshot.ssh_local_port())
        .unwrap_or_else(|error| format!("{error}\n"))
}

pub fn ssh_config(snapshot: &Snapshot) -> String {
    match &snapshot.ssh_config {
        Some(text) => text.to_string(),
        None => "# written when the instance starts\n".into(),
    }
}

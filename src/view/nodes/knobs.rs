//! `cpus`, `memory` and `disk`: the value in force, and a new one for lima.yaml.

use crate::config;
use crate::error::{Error, Result};
use crate::started::Machine;
use crate::view::node::Command;
use crate::view::snapshot::Snapshot;

pub fn cpus(snapshot: &Snapshot) -> String {
    shown(snapshot, |machine| machine.cpus.map(|cpus| cpus.to_string()))
}

pub fn memory(snapshot: &Snapshot) -> String {
    shown(snapshot, |machine| machine.memory)
}

pub fn disk(snapshot: &Snapshot) -> String {
    shown(snapshot, |machine| machine.disk)
}

/// Empty while there is no valid definition.
fn shown(snapshot: &Snapshot, value: impl FnOnce(Machine) -> Option<String>) -> String {
    snapshot.machine().and_then(value).map_or_else(String::new, |value| format!("{value}\n"))
}

pub fn parse_cpus(line: &str) -> Result<Command> {
    match line.parse::<u32>() {
        // Written anew: `010` means eight in YAML.
        Ok(cpus) if cpus > 0 => Ok(Command::Set { key: "cpus", value: cpus.to_string() }),
        _ => Err(Error::invalid("cpus", "takes a number of processors, such as 4")),
    }
}

pub fn parse_memory(line: &str) -> Result<Command> {
    parse_size("memory", line)
}

pub fn parse_disk(line: &str) -> Result<Command> {
    parse_size("disk", line)
}

fn parse_size(key: &'static str, line: &str) -> Result<Command> {
    match config::size(line) {
        Some(bytes) if bytes > 0 => Ok(Command::Set { key, value: line.to_owned() }),
        _ => Err(Error::invalid(key, "takes a size, such as 4GiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b32_only_a_number_of_processors_is_one() {
        let four = Command::Set { key: "cpus", value: "4".into() };
        assert_eq!(parse_cpus("4").unwrap(), four);
        assert_eq!(parse_cpus("04").unwrap(), four);
        for bad in ["", "0", "-1", "many", "2.5", "4 5", "4GiB", "99999999999"] {
            assert_eq!(parse_cpus(bad).unwrap_err().errno(), libc::EINVAL, "{bad:?}");
        }
    }

    #[test]
    fn b32_only_a_size_is_one() {
        assert_eq!(parse_memory("4GiB").unwrap(), Command::Set { key: "memory", value: "4GiB".into() });
        assert_eq!(parse_disk("512m").unwrap(), Command::Set { key: "disk", value: "512m".into() });
        for bad in ["", "0", "-1", "lots", "4QiB", "4GiB # x", "1\n2"] {
            assert_eq!(parse_memory(bad).unwrap_err().errno(), libc::EINVAL, "{bad:?}");
        }
    }
}

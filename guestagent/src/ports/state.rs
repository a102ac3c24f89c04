//! The list that the host has last heard, in `event-state.json` as Lima's agent writes it: a new stream of events begins
//! with the difference to the earlier one, even when the agent was restarted between them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{PORTS_MAX, Ports};
use crate::proto::{Event, IpPort};

const FILE: &str = "event-state.json";
/// No list of [`PORTS_MAX`] entries is larger.
const FILE_MAX: u64 = PORTS_MAX as u64 * 128;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    ports: Ports,
}

/// What one host has heard.
#[derive(Debug)]
pub struct Heard {
    path: PathBuf,
    ports: Ports,
}

impl Heard {
    /// A file that is absent or broken is an empty list: the host hears of everything.
    pub fn load(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let ports = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("{}: {error}", path.display());
            }
            Ports::new()
        });
        Self { path, ports }
    }

    /// What the host has to hear to know of `now`.
    pub fn difference(&self, now: &Ports) -> Option<Event> {
        let ports = |ports: &Ports, others: &Ports| -> Vec<IpPort> {
            ports.difference(others).cloned().map(IpPort::from).collect()
        };
        let (added, removed) = (ports(now, &self.ports), ports(&self.ports, now));
        let is_news = !added.is_empty() || !removed.is_empty();
        let time = Some(SystemTime::now().into());
        is_news.then_some(Event { time, added_local_ports: added, removed_local_ports: removed, errors: Vec::new() })
    }

    /// The host has heard of `now`. Kept at once, not when the stream ends: an agent that is killed has no such moment.
    pub fn set(&mut self, now: Ports) {
        self.ports = now;
        if let Err(error) = self.save() {
            tracing::warn!("{}: {error}", self.path.display());
        }
    }

    fn save(&self) -> io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        let mut file = fs::File::create(&temporary)?;
        serde_json::to_writer(&mut file, &serde_json::json!({ "ports": self.ports }))?;
        file.flush()?;
        fs::rename(&temporary, &self.path)
    }
}

fn read(path: &Path) -> io::Result<Ports> {
    if fs::metadata(path)?.len() > FILE_MAX {
        return Err(io::Error::other("is too large"));
    }
    Ok(serde_json::from_slice::<Document>(&fs::read(path)?)?.ports)
}

/// An event that says only why there is no list.
pub fn failure(error: &str) -> Event {
    Event { time: Some(SystemTime::now().into()), errors: vec![error.to_owned()], ..Event::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Port;

    fn port(number: u16) -> Port {
        Port::new("tcp", "127.0.0.1".parse().unwrap(), number)
    }

    #[test]
    fn another_stream_hears_only_of_what_changed_since() {
        let dir = tempfile::tempdir().unwrap();
        let mut heard = Heard::load(dir.path());
        let first = Ports::from([port(1), port(2)]);
        assert_eq!(heard.difference(&first).unwrap().added_local_ports.len(), 2);
        heard.set(first);
        let again = Heard::load(dir.path());
        let event = again.difference(&Ports::from([port(2), port(3)])).unwrap();
        assert_eq!(event.added_local_ports, [IpPort::from(port(3))]);
        assert_eq!(event.removed_local_ports, [IpPort::from(port(1))]);
        assert!(again.difference(&Ports::from([port(1), port(2)])).is_none());
    }

    #[test]
    fn the_file_is_lima_s() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"ports":[{"protocol":"tcp","ip":"127.0.0.1","port":1}]}"#;
        Heard::load(dir.path()).set(Ports::from([port(1)]));
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
        fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(Heard::load(dir.path()).difference(&Ports::new()).is_none());
    }

    #[test]
    fn a_broken_file_is_as_none() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{\"ports\":[{\"port\":-1}]}", "[]", "\0"] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert_eq!(Heard::load(dir.path()).difference(&Ports::from([port(1)])).unwrap().added_local_ports.len(), 1);
        }
    }
}

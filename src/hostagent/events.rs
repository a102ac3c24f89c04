//! What happens to the instance, as JSON lines: on stdout in Lima's form (for limactl), in `limafs.events` in the form of
//! `limactl watch --json` together with our state changes, and live to whoever listens. Holds nothing of lima.yaml.

mod ports;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::names;
use crate::status::{Forward, State, Status};

/// `limafs.events` is rotated once beyond this size.
const FILE_MAX: u64 = 1 << 20;
/// Lines that a slow listener may be behind.
const BEHIND_MAX: usize = 256;

/// The last status that was told of, so that only changes are.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    state: State,
    goal: &'static str,
    step: Option<String>,
    ready: bool,
    port: u16,
    errors: Vec<String>,
}

/// As people read it in the log.
impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.state)?;
        if let Some(step) = &self.step {
            write!(f, ", {step}")?;
        }
        if self.ready {
            f.write_str(", ssh answers")?;
        }
        self.errors.iter().try_for_each(|error| write!(f, "; {error}"))
    }
}

pub struct Journal {
    name: String,
    path: PathBuf,
    lima: Box<dyn Write + Send>,
    live: broadcast::Sender<Arc<str>>,
    told: Option<Told>,
    lima_told: Option<Value>,
    forwards: Vec<Forward>,
}

impl Journal {
    /// `lima` takes Lima's lines; the hostagent's stdout, which is `ha.stdout.log`.
    pub fn new(name: &str, dir: &Path, lima: Box<dyn Write + Send>) -> Self {
        let (live, _) = broadcast::channel(BEHIND_MAX);
        Self {
            name: name.into(),
            path: dir.join(names::EVENTS),
            lima,
            live,
            told: None,
            lima_told: None,
            forwards: vec![],
        }
    }

    pub fn listen(&self) -> broadcast::Sender<Arc<str>> {
        self.live.clone()
    }

    /// Tells what of `status` has changed.
    pub fn changed(&mut self, status: &Status) {
        let told = Told {
            state: status.state,
            goal: status.goal.word(),
            // Progress is no event; its name is.
            step: status.step.as_deref().map(without_progress),
            ready: status.ready,
            port: status.ssh_local_port,
            errors: status.errors.clone(),
        };
        let time = Timestamp::now().to_string();
        if self.told.as_ref() != Some(&told) {
            self.state_changed(status, told, &time);
        }
        self.forwards_changed(status, &time);
    }

    fn state_changed(&mut self, status: &Status, told: Told, time: &str) {
        self.state_event(&told, time);
        if let Some(lima) = lima_status(status)
            && self.lima_told.as_ref() != Some(&lima)
        {
            self.lima_event(&lima, time);
            self.lima_told = Some(lima);
        }
        self.told = Some(told);
    }

    /// Forwards of a VM that is gone go without a word.
    fn forwards_changed(&mut self, status: &Status, time: &str) {
        let now = ports::of(status);
        if self.forwards == now {
            return;
        }
        let before = std::mem::replace(&mut self.forwards, now);
        if !status.state.is_live() {
            return;
        }
        let (changes, more) = ports::changes(&before, &self.forwards);
        for change in changes {
            // As Lima does it: beside what was said last.
            let mut event = self.lima_told.clone().unwrap_or_else(|| json!({}));
            event["portForward"] = change;
            self.lima_event(&event, time);
        }
        if more > 0 {
            self.write(json!({ "time": time, "portForwardsOmitted": more }));
        }
    }

    /// The last line that limactl waits for.
    pub fn exiting(&mut self) {
        self.lima_event(&json!({ "exiting": true }), &Timestamp::now().to_string());
    }

    fn state_event(&mut self, told: &Told, time: &str) {
        tracing::info!("{told}");
        let mut event = json!({ "time": time, "state": told.state.word(), "goal": told.goal });
        if let Some(step) = &told.step {
            event["step"] = json!(step);
        }
        if told.ready {
            event["ready"] = json!(true);
        }
        if !told.errors.is_empty() {
            event["errors"] = json!(told.errors);
        }
        self.write(event);
    }

    fn lima_event(&mut self, status: &Value, time: &str) {
        let event = json!({ "time": time, "status": status });
        // A reader that hung up must not end the hostagent.
        let _ = writeln!(self.lima, "{event}").and_then(|()| self.lima.flush());
        self.write(event);
    }

    fn write(&mut self, event: Value) {
        let line = json!({ "instance": self.name, "event": event }).to_string();
        if let Err(error) = append(&self.path, &line) {
            tracing::warn!("{}: {error}", self.path.display());
        }
        // An error means that nobody listens.
        let _ = self.live.send(line.into());
    }
}

/// What Lima's hostagent would say; `None` for what it has no word for.
fn lima_status(status: &Status) -> Option<Value> {
    let mut event = json!({});
    match status.state {
        State::Running => event["running"] = json!(true),
        State::Degraded => {
            event["running"] = json!(true);
            event["degraded"] = json!(true);
            event["errors"] = json!(status.errors);
        }
        State::Broken => event["errors"] = json!(status.errors),
        State::Starting if status.ssh_local_port != 0 => {}
        _ => return None,
    }
    if status.ssh_local_port != 0 {
        event["sshLocalPort"] = json!(status.ssh_local_port);
    }
    Some(event)
}

/// Up to the first number: percents and bytes, or how often something was tried.
fn without_progress(step: &str) -> String {
    step.split(' ')
        .take_while(|word| !word.trim_start_matches('(').starts_with(|char: char| char.is_ascii_digit()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Opened for each line: a line is rare, and an instance directory may be renamed between two.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let mut file: File = open()?;
    if file.metadata()?.len() > FILE_MAX {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        fs::rename(path, old)?;
        file = open()?;
    }
    // One write, so that readers see whole lines.
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::status::Goal;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn status(state: State) -> Status {
        Status {
            name: "foo".into(),
            revision: 1,
            state,
            goal: Goal::Running,
            since: Timestamp::UNIX_EPOCH,
            step: None,
            step_since: None,
            ready: false,
            driver: "qemu".into(),
            accelerator: None,
            ssh_address: "127.0.0.1".into(),
            ssh_local_port: 60022,
            hostagent_pid: 1,
            driver_pid: None,
            guest: false,
            forwards: vec![],
            errors: vec![],
        }
    }

    fn lines(bytes: &[u8]) -> Vec<Value> {
        String::from_utf8_lossy(bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lima_hears_its_own_words_only() {
        let temp = tempfile::tempdir().unwrap();
        let sink = Sink::default();
        let mut journal = Journal::new("foo", temp.path(), Box::new(sink.clone()));
        let degraded = Status { errors: vec!["a failed".into()], ..status(State::Degraded) };
        for status in [status(State::Starting), status(State::Running), degraded, status(State::Stopping)] {
            journal.changed(&status);
        }
        journal.exiting();
        let said: Vec<Value> = lines(&sink.0.lock()).iter().map(|line| line["status"].clone()).collect();
        let expected = [
            json!({ "sshLocalPort": 60022 }),
            json!({ "running": true, "sshLocalPort": 60022 }),
            json!({ "running": true, "degraded": true, "errors": ["a failed"], "sshLocalPort": 60022 }),
            json!({ "exiting": true }),
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn the_file_has_state_changes_once_and_no_progress() {
        let temp = tempfile::tempdir().unwrap();
        let mut journal = Journal::new("foo", temp.path(), Box::new(io::sink()));
        for progress in ["", " 1 % 2.0 MiB/s", " 99 % 2.0 MiB/s", " (2 tries: failed with exit code 1)"] {
            let step = Some(format!("downloading image{progress}"));
            journal.changed(&Status { step, ssh_local_port: 0, ..status(State::Starting) });
        }
        let written = lines(&fs::read(temp.path().join(names::EVENTS)).unwrap());
        assert_eq!(written.len(), 1);
        assert_eq!(written[0]["instance"], "foo");
        assert_eq!(written[0]["event"]["state"], "Starting");
        assert_eq!(written[0]["event"]["step"], "downloading image");
    }

    #[test]
    fn regression_each_try_to_reach_the_guest_is_no_event() {
        let temp = tempfile::tempdir().unwrap();
        let mut journal = Journal::new("foo", temp.path(), Box::new(io::sink()));
        for tries in ["", " (1 try: refused (os error 111))", " (2 tries: it hung up)"] {
            let step = Some(format!("waiting for ssh{tries}"));
            journal.changed(&Status { step, ..status(State::Starting) });
        }
        let written = lines(&fs::read(temp.path().join(names::EVENTS)).unwrap());
        let steps: Vec<_> = written.iter().filter_map(|line| line["event"]["step"].as_str()).collect();
        assert_eq!(steps, ["waiting for ssh"]);
    }

    #[test]
    fn the_file_is_rotated_once_it_is_full() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(names::EVENTS);
        fs::write(&path, vec![b'x'; FILE_MAX as usize + 1]).unwrap();
        append(&path, "{}").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{}\n");
        assert!(temp.path().join("limafs.events.1").exists());
    }
}

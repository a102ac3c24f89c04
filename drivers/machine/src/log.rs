//! What plugins print, in a file that does not grow for ever: begun anew when it is full, and no more of it in a second
//! than a person could want.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const FILE_MAX: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const BYTES_A_SECOND: usize = 128 << 10;
const LAST_MAX: usize = 200;

#[derive(Debug)]
pub struct Log {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Option<File>,
    since: Instant,
    /// Bytes written and lines dropped since.
    written: usize,
    dropped: usize,
    last: String,
}

impl Log {
    /// In a file, or only in memory.
    pub fn new(path: Option<&Path>) -> Self {
        let state = State { file: None, since: Instant::now(), written: 0, dropped: 0, last: String::new() };
        Self { path: path.map(Path::to_owned), state: Mutex::new(state) }
    }

    pub fn line(&self, mark: &str, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.elapsed() >= SECOND {
            let dropped = std::mem::take(&mut state.dropped);
            (state.since, state.written) = (Instant::now(), 0);
            if dropped > 0 {
                self.write(&mut state, &format!("({dropped} lines dropped)\n"));
            }
        }
        if state.written + text.len() > BYTES_A_SECOND {
            state.dropped += 1;
            return;
        }
        state.written += text.len() + 1;
        if !text.trim().is_empty() {
            state.last = text.chars().filter(|char| !char.is_control()).take(LAST_MAX).collect();
        }
        self.write(&mut state, &format!("{mark}{text}\n"));
    }

    /// The last line that says anything.
    pub fn last(&self) -> String {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    /// A log that cannot be written must not end what is logged.
    fn write(&self, state: &mut State, text: &str) {
        let Some(path) = &self.path else { return };
        if state.file.is_none() {
            state.file = File::options().append(true).create(true).mode(0o600).open(path).ok();
        }
        if let Some(file) = &mut state.file {
            let is_full = file.metadata().is_ok_and(|meta| meta.len() + text.len() as u64 > FILE_MAX);
            let _ = if is_full { file.set_len(0) } else { Ok(()) }.and_then(|()| file.write_all(text.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h10_a_flood_stays_within_bounds_and_keeps_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::new(Some(&path));
        let line = "x".repeat(1000);
        for _ in 0..5000 {
            log.line("", &line);
        }
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size > 0 && size <= FILE_MAX, "{size}");
        assert_eq!(log.last(), "x".repeat(LAST_MAX));
    }
}

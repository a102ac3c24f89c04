//! Programs beside QEMU that serve one device of it over a unix socket: started before it, ended when it hangs up.
//! What they leave is cleared away with what QEMU leaves.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use limafs_driver::{Error, Result};
use tokio::time::{Instant, sleep};

use crate::process::Process;

/// How long one may take to make its socket.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(10);

/// Starts a program and returns when its socket is there. What it says goes to a log beside the socket.
pub(crate) async fn start(what: &str, words: &[OsString], socket: &Path) -> Result<Process> {
    let log = socket.with_extension("log");
    let file = File::create(&log).map_err(Error::io(&log))?;
    let (process, _) = Process::spawn(words, file.into())?;
    let deadline = Instant::now() + START_DEADLINE;
    while !socket.exists() {
        let late = Instant::now() >= deadline;
        if late || !process.is_alive() {
            end(&process);
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().last().unwrap_or(if late { "makes no socket" } else { "ended without a word" });
            return Err(Error::failed(what, last));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(process)
}

pub(crate) fn end(process: &Process) {
    if let Err(error) = process.kill() {
        tracing::warn!("process {}: {error}", process.pid());
    }
}

/// Ends one whose QEMU is gone, which is about to end, and removes its files. It is known by `words` among its
/// arguments. Returns whether there was anything to do that could be done.
pub(crate) fn clean(dir: &Path, socket: PathBuf, pid_file: PathBuf, words: &[&OsStr]) -> bool {
    if !socket.exists() && !pid_file.exists() {
        return false;
    }
    let pid = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
    if let Some(process) = pid.and_then(|pid| Process::prove(pid, dir, words)) {
        end(&process);
    }
    for path in [socket, pid_file] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{} stays: {error}", path.display());
                return false;
            }
            _ => {}
        }
    }
    true
}

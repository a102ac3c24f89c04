//! Commands with a deadline. Output goes to files, so that a background job that keeps a pipe open holds nobody up.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{Failed, procs, wait_for};

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128 + the signal's number when a signal ended it, as shells say it.
    pub code: i32,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Ran {
    /// Its output without the last line end; fails unless it exited with 0.
    pub fn text(self) -> Result<String, Failed> {
        if self.code == 0 { Ok(self.out.trim_end().to_owned()) } else { Err(format!("failed: {self:?}").into()) }
    }
}

/// Runs a command to its end, or kills its process group after `limit` and fails.
pub fn finish(mut command: Command, limit: Duration) -> Result<Ran, Failed> {
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?).process_group(0);
    let start = Instant::now();
    let mut child = command.spawn()?;
    let status = wait_for("its end", limit, || child.try_wait().transpose());
    let took = start.elapsed();
    let Ok(status) = status else {
        kill_group(&mut child);
        let (out, err) = (read_back(&mut out)?, read_back(&mut err)?);
        return Err(format!("{command:?} did not end within {limit:?}; stdout {out:?} stderr {err:?}").into());
    };
    Ok(Ran { code: code(status?), out: read_back(&mut out)?, err: read_back(&mut err)?, took })
}

/// Starts a command in the background, its output in files; killed with its process group when dropped.
pub fn start(mut command: Command) -> Result<Job, Failed> {
    let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?).process_group(0);
    Ok(Job { child: command.spawn()?, out, err, start: Instant::now() })
}

/// A command in the background.
pub struct Job {
    child: Child,
    out: File,
    err: File,
    start: Instant,
}

impl Job {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn out(&mut self) -> String {
        read_back(&mut self.out).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        procs::signal(self.pid(), signal);
    }

    /// Waits for its end.
    pub fn end(&mut self, limit: Duration) -> Result<Ran, Failed> {
        let status = wait_for("the end of a background job", limit, || self.child.try_wait().transpose())?;
        let took = self.start.elapsed();
        Ok(Ran { code: code(status?), out: read_back(&mut self.out)?, err: read_back(&mut self.err)?, took })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.is_running() {
            kill_group(&mut self.child);
        }
    }
}

/// Ends a process group. Waits for the leader only for a while: one in D state would never come.
fn kill_group(child: &mut Child) {
    procs::signal_group(child.id(), rustix::process::Signal::KILL);
    let _ = wait_for("the death of a killed job", Duration::from_secs(3), || child.try_wait().transpose());
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn read_back(file: &mut File) -> Result<String, Failed> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

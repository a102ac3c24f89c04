//! A process that outlives us, recognised by its arguments. Portable: nothing here needs more than POSIX, `ps`, or
//! `/proc` where that is.
//!
//! A pid is only a number. Nothing here signals a process that is neither our own unreaped child nor has just been
//! proven, by its arguments and its owner, to be this instance's.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use limafs_driver::{Error, Result};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, geteuid, kill_process, test_kill_process, waitpid};
use tokio::time::sleep;

/// How often a process is looked at; nothing portable tells of the end of somebody else's child.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// A word pair among its arguments that no other process has.
    identity: String,
    ending: Mutex<Option<Ending>>,
}

/// How a process ended, as far as its non-parents can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Exited(i32),
    Killed(i32),
    /// Somebody else's child.
    Unknown,
}

impl Process {
    /// Starts a program in a process group of its own; its errors go to `log`, which begins anew. What vfkit prints besides
    /// is a line for each request.
    pub(crate) fn spawn(words: &[OsString], identity: String, log: &Path) -> Result<Self> {
        let mut options = File::options();
        let file = options.create(true).append(true).open(log).map_err(Error::io(log))?;
        // Not made anew: whoever follows the file goes on reading it.
        file.set_len(0).map_err(Error::io(log))?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().map_err(Error::io(&words[0]))?;
        Ok(Self { pid: Pid::from_child(&child), identity, ending: Mutex::default() })
    }

    /// Finds the process of ours that has `identity` among its arguments.
    pub(crate) fn find(identity: &str) -> Option<Self> {
        let pid = listed().into_iter().find(|(_, arguments)| has(arguments, identity))?.0;
        let process = Self { pid: Pid::from_raw(pid)?, identity: identity.to_owned(), ending: Mutex::default() };
        process.is_alive().then_some(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.look().is_none()
    }

    /// Returns when it has ended. Cancel-safe.
    pub(crate) async fn ended(&self) -> Ending {
        loop {
            match self.look() {
                Some(ending) => return ending,
                None => sleep(LOOK).await,
            }
        }
    }

    /// Kills it. Success when it has ended already.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.with_ending(|ending| {
            let is_child = look(self.pid, ending);
            if ending.is_some() || (!is_child && !is_listed(self.pid, &self.identity)) {
                return Ok(());
            }
            match kill_process(self.pid, Signal::KILL) {
                Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn look(&self) -> Option<Ending> {
        self.with_ending(|ending| {
            look(self.pid, ending);
            *ending
        })
    }

    /// Reaping and killing exclude each other: until it is reaped a child's pid is its own.
    fn with_ending<T>(&self, use_it: impl FnOnce(&mut Option<Ending>) -> T) -> T {
        use_it(&mut self.ending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reaps it if it has ended; returns whether it is our child and has not.
fn look(pid: Pid, ending: &mut Option<Ending>) -> bool {
    if ending.is_some() {
        return false;
    }
    match waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(Some((_, status))) => *ending = Some(ending_of(status)),
        Ok(None) => return true,
        // No child of ours.
        Err(_) if test_kill_process(pid) == Err(rustix::io::Errno::SRCH) => *ending = Some(Ending::Unknown),
        Err(_) => {}
    }
    false
}

fn ending_of(status: WaitStatus) -> Ending {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, Some(signal)) => Ending::Killed(signal),
        (None, None) => Ending::Unknown,
    }
}

fn is_listed(pid: Pid, identity: &str) -> bool {
    listed().into_iter().any(|(other, arguments)| other == pid.as_raw_nonzero().get() && has(&arguments, identity))
}

/// Whole words, though the list has them with blanks between.
fn has(arguments: &str, identity: &str) -> bool {
    format!(" {arguments} ").contains(&format!(" {identity} "))
}

/// Pids and arguments of all processes that are the user's.
fn listed() -> Vec<(i32, String)> {
    if Path::new("/proc/self/cmdline").exists() { of_proc() } else { of_ps() }
}

fn of_proc() -> Vec<(i32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let process = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        if entry.metadata().ok()?.uid() != geteuid().as_raw() {
            return None;
        }
        let bytes = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<_> = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        Some((pid, words.join(" ").trim_end().to_owned()))
    };
    entries.flatten().filter_map(process).collect()
}

fn of_ps() -> Vec<(i32, String)> {
    let output = Command::new("ps").args(["-axww", "-o", "pid=,uid=,command="]).stdin(Stdio::null()).output();
    match output {
        Ok(output) => parse_ps(&String::from_utf8_lossy(&output.stdout), geteuid().as_raw()),
        Err(error) => {
            tracing::warn!("ps: {error}");
            Vec::new()
        }
    }
}

fn parse_ps(text: &str, uid: u32) -> Vec<(i32, String)> {
    let process = |line: &str| {
        let (pid, rest) = line.trim_start().split_once(char::is_whitespace)?;
        let (owner, arguments) = rest.trim_start().split_once(char::is_whitespace)?;
        (owner.parse() == Ok(uid)).then_some((pid.parse().ok()?, arguments.trim().to_owned()))
    };
    text.lines().filter_map(process).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_by_ps_is_read_and_others_processes_are_left_out() {
        let text = "    1     0 /sbin/launchd\n  501   501 vfkit --restful-uri unix:///a/vfkit.sock --cpus 2\n";
        let found = parse_ps(text, 501);
        assert_eq!(found, [(501, "vfkit --restful-uri unix:///a/vfkit.sock --cpus 2".to_owned())]);
        assert!(has(&found[0].1, "--restful-uri unix:///a/vfkit.sock"));
        assert!(!has(&found[0].1, "--restful-uri unix:///a/vfkit"));
    }

    #[test]
    fn ps_and_proc_find_the_same_process() {
        let me = i32::try_from(std::process::id()).unwrap();
        let arguments = |list: Vec<(i32, String)>| list.into_iter().find(|(pid, _)| *pid == me).map(|(_, words)| words);
        let Ok(true) = Command::new("ps").arg("-V").output().map(|output| output.status.success()) else {
            return eprintln!("SKIPPED: there is no ps");
        };
        assert_eq!(arguments(of_ps()), arguments(of_proc()));
        assert!(arguments(of_proc()).is_some());
    }

    #[tokio::test]
    async fn a_child_is_found_by_its_arguments_killed_and_reaped() {
        let dir = tempfile::tempdir().unwrap();
        let identity = format!("-c {}", dir.path().display());
        let words = ["tail", "-f", "/dev/null", "-c", "0"].map(OsString::from);
        let started = Process::spawn(&words, "-c 0".into(), &dir.path().join("log")).unwrap();
        assert!(Process::find(&identity).is_none());
        started.kill().unwrap();
        assert_eq!(started.ended().await, Ending::Killed(9));
        assert!(!started.is_alive() && started.kill().is_ok());
    }
}

//! The sleeping process: apart from us, known by its first argument, held by a pidfd.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use limafs_driver::{Error, Result, VmEvent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    pub(crate) fn spawn(dir: &Path) -> Result<Self> {
        let mut command = Command::new("sleep");
        command.arg0(mark(dir)).arg("infinity").current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(Error::io("sleep"))?;
        Self::open(Pid::from_child(&child)).map_err(Error::io("pidfd"))
    }

    /// The process of the instance in `dir`, if there is one.
    pub(crate) fn find(dir: &Path) -> Option<Self> {
        let mark = mark(dir).into_vec();
        let is_ours = |pid: i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).next() == Some(&mark)
        };
        let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let found = pids.into_iter().find(|pid| is_ours(*pid))?;
        let process = Self::open(Pid::from_raw(found)?).ok()?;
        // Again, now that the number cannot pass to another process unnoticed.
        (is_ours(found) && process.is_alive()).then_some(process)
    }

    fn open(pid: Pid) -> io::Result<Self> {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        // SAFETY: an OwnedFd is one descriptor for its whole life, and it is handed over here.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Self { pid, pidfd })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    /// Stopped by a signal, as a paused VM is.
    pub(crate) fn is_paused(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Returns when it has ended. Cancel-safe.
    pub(crate) async fn gone(&self) {
        while self.is_alive() {
            match self.pidfd.readable().await {
                Ok(mut ready) if self.is_alive() => ready.clear_ready(),
                Ok(_) => break,
                // The runtime is being shut down, and this task with it.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Reaps it if it is our child and says how it ended; `asked` when a stop was asked for.
    pub(crate) fn ending(&self, asked: bool) -> VmEvent {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(rustix::fd::AsFd::as_fd(self.pidfd.get_ref())), options);
        match status.ok().flatten().and_then(|status| status.terminating_signal()) {
            Some(signal) if signal == Signal::TERM.as_raw() => {
                VmEvent::Exited { clean: true, reason: "shut down".into() }
            }
            Some(signal) => VmEvent::Exited { clean: false, reason: format!("killed by signal {signal}") },
            // Another hostagent's child: nobody here can know.
            None => VmEvent::Exited { clean: asked, reason: "ended".into() },
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Its first argument: whose it is.
fn mark(dir: &Path) -> OsString {
    let mut mark = OsString::from("fake-vm:");
    mark.push(dir);
    mark
}

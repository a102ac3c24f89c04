//! The sleeping process, known by its first argument, held by a pidfd.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use limafs_driver::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;

#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Starts the sleep, in its own session; without a length it lasts a day.
    pub(crate) fn spawn(identity: &Path, milliseconds: Option<u64>) -> Result<Self> {
        let seconds = milliseconds.map_or(86400.0, |milliseconds| milliseconds as f64 / 1000.0);
        let mut command = Command::new("sleep");
        command.arg0(identity).arg(seconds.to_string()).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: one system call.
        unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
        let child = command.spawn().map_err(Error::io("sleep"))?;
        Self::open(Pid::from_child(&child)).map_err(|error| Error::failed("pidfd of the fake VM", error))
    }

    /// Finds the process of an instance among all.
    pub(crate) fn find(identity: &Path) -> Option<Self> {
        let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_ours = |pid: i32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.split(|&byte| byte == 0).next() == Some(identity.as_os_str().as_bytes())
        };
        pids.filter(|&pid| is_ours(pid)).find_map(|pid| {
            let process = Self::open(Pid::from_raw(pid)?).ok()?;
            // Again, now that the number cannot pass to another process unnoticed.
            (is_ours(pid) && process.is_alive()).then_some(process)
        })
    }

    fn open(pid: Pid) -> io::Result<Self> {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        // SAFETY: an OwnedFd is one descriptor for its whole life, and it is handed over here.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE) }?;
        Ok(Self { pid, pidfd })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    pub(crate) fn is_paused(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Returns when it has ended. Cancel-safe.
    pub(crate) async fn ended(&self) {
        while self.is_alive() {
            match self.pidfd.readable().await {
                Ok(mut ready) if self.is_alive() => ready.clear_ready(),
                Ok(_) => break,
                // The runtime is being shut down, and this task with it.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Reaps it if it is our child and has ended; the signal that ended it, if that can be known.
    pub(crate) fn killed_by(&self) -> Option<i32> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        rustix::process::waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options).ok()??.terminating_signal()
    }

    /// Success when it has ended already.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

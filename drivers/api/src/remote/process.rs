//! A process that is held by a pidfd: a number alone may have passed to another one.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of a process. Whoever calls knows, or finds out afterwards, that it is the right one.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
        let number = number.ok_or_else(|| io::Error::other(format!("{pid} is no process")))?;
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())?;
        // SAFETY: an OwnedFd is one descriptor for its whole life, and it is handed over here.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Self { pid, pidfd })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether `parent` started it. Asked with the pidfd held, the answer is this process's.
    pub(super) fn is_child_of(&self, parent: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        self.is_alive() && after_name.split(' ').nth(1).and_then(|word| word.parse().ok()) == Some(parent)
    }

    /// Whether it has neither ended nor become a zombie.
    pub(super) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    /// Returns when it has ended. Cancel-safe.
    pub(super) async fn ended(&self) {
        while self.is_alive() {
            match self.pidfd.readable().await {
                Ok(mut ready) if self.is_alive() => ready.clear_ready(),
                Ok(_) => break,
                // The runtime is being shut down, and this task with it.
                Err(_) => std::future::pending().await,
            }
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal) {
            // It has ended already.
            Err(rustix::io::Errno::SRCH) | Ok(()) => {}
            Err(error) => tracing::warn!("signal to process {}: {error}", self.pid),
        }
    }
}

//! The QEMU process: started apart from us, recognised by its arguments, held by a pidfd.
//!
//! A pid is only a number. Nothing here signals a process that has not been proven, while its pidfd was held, to be
//! the QEMU of this instance.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};

use limafs_driver::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::io::unix::AsyncFd;

use crate::{names, swtpm, virtiofsd};

#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

/// How a process ended, as far as its non-parents can know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    Exited(i32),
    Killed(i32),
    /// Somebody else's child.
    Unknown,
}

impl Process {
    /// Starts a program in its own session, with nothing of ours but a place for its errors.
    pub(crate) fn spawn(words: &[OsString], errors: Stdio) -> Result<(Self, Option<ChildStderr>)> {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        // SAFETY: the closure makes system calls only and allocates nothing.
        unsafe { command.pre_exec(separate) };
        let mut child = command.spawn().map_err(Error::io(&words[0]))?;
        let stderr = child.stderr.take();
        let pid = Pid::from_child(&child);
        // Our child is not reaped before `ending`, so that its pid is its own until then.
        match Self::open(pid) {
            Ok(process) => Ok((process, stderr)),
            Err(error) => {
                // Unwatched it would be worse than not started.
                let _ = child.kill().and_then(|()| child.wait());
                Err(Error::failed(format!("pidfd of {}", words[0].display()), error))
            }
        }
    }

    /// Finds the QEMU that runs the instance in `dir`: by its pid file if that is true, else by its arguments.
    pub(crate) fn find(dir: &Path) -> Option<Self> {
        let pid_file = dir.join(names::QEMU_PID);
        let words = ["-pidfile".as_ref(), pid_file.as_os_str()];
        let recorded = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
        if let Some(process) = recorded.and_then(|pid| Self::prove(pid, dir, &words)) {
            return Some(process);
        }
        let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.into_iter().find_map(|pid: i32| Self::prove(pid, dir, &words))
    }

    /// Takes hold of a process if these words, one after the other, are among its arguments, and it belongs to us or to
    /// the owner of the instance directory.
    pub(crate) fn prove(pid: i32, dir: &Path, words: &[&OsStr]) -> Option<Self> {
        if pid <= 1 || !has_words(&fs::read(format!("/proc/{pid}/cmdline")).ok()?, words) {
            return None;
        }
        let process = Self::open(Pid::from_raw(pid)?).ok()?;
        // Again, now that the number cannot pass to another process unnoticed.
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let owner = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        let may_be_ours =
            owner == rustix::process::geteuid().as_raw() || dir.metadata().is_ok_and(|dir| dir.uid() == owner);
        (has_words(&arguments, words) && may_be_ours && process.is_alive()).then_some(process)
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

    /// Whether it has neither ended nor become a zombie.
    pub(crate) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
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

    /// Reaps it if it is our child and has ended.
    pub(crate) fn ending(&self) -> Ending {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options) {
            Ok(Some(status)) => ending_of(&status),
            _ => Ending::Unknown,
        }
    }

    pub(crate) fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid())).unwrap_or_default();
        bytes.split(|&byte| byte == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect()
    }
}

/// Removes what a dead QEMU leaves in its instance directory.
pub(crate) fn clean(dir: &Path) {
    for name in names::TRANSIENT {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{name} of the dead VM stays: {error}");
            }
            _ => {}
        }
    }
    virtiofsd::clean(dir);
    swtpm::clean(dir);
}

fn has_words(arguments: &[u8], words: &[&OsStr]) -> bool {
    let arguments: Vec<&[u8]> = arguments.split(|&byte| byte == 0).collect();
    let is_it = |(argument, word): (&&[u8], &&OsStr)| *argument == word.as_bytes();
    arguments.windows(words.len()).any(|window| window.iter().zip(words).all(is_it))
}

fn ending_of(status: &WaitIdStatus) -> Ending {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, Some(signal)) => Ending::Killed(signal),
        (None, None) => Ending::Unknown,
    }
}

/// Runs between fork and exec. The death of our process must not reach QEMU, hence the session, and no
/// PR_SET_PDEATHSIG; no file of ours may, hence close-on-exec on all that others opened without it.
fn separate() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: marks descriptors and touches no memory. They must stay open until exec: std has one among them. That
    // old kernels lack it is no reason not to start.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_known_by_its_pid_file_argument_and_nothing_less() {
        let ours = ["-pidfile".as_ref(), "/h/vm/qemu.pid".as_ref()];
        let has_pid_file = |arguments: &[u8]| has_words(arguments, &ours);
        assert!(has_pid_file(b"qemu\0-m\x001\0-pidfile\0/h/vm/qemu.pid\0"));
        assert!(!has_pid_file(b"qemu\0-pidfile\0/h/vm2/qemu.pid\0"));
        assert!(!has_pid_file(b"vi\0/h/vm/qemu.pid\0"));
        assert!(!has_pid_file(b""));
    }
}

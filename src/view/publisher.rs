//! The publisher: a child process of the mount that makes the system calls which inotify sees. It holds no /dev/fuse
//! and nobody waits for it, so that its being stuck in the tree can never be the tree's own doing.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::View;
use crate::agent;

/// One thing to do below the mountpoint; paths are relative to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// open, ftruncate to the present size, close: OPEN, MODIFY and CLOSE_WRITE for whoever watches.
    Touch(String),
    Make(String),
    Remove(String),
    Move(String, String),
}

impl Step {
    /// One line; names in the tree hold no tabs or newlines (see `Name`, and the node tables).
    fn line(&self) -> String {
        match self {
            Self::Touch(path) => format!("touch\t{path}\n"),
            Self::Make(name) => format!("make\t{name}\n"),
            Self::Remove(name) => format!("remove\t{name}\n"),
            Self::Move(from, to) => format!("move\t{from}\t{to}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split('\t');
        let step = match (words.next()?, words.next()?.to_owned()) {
            ("touch", path) => Self::Touch(path),
            ("make", name) => Self::Make(name),
            ("remove", name) => Self::Remove(name),
            ("move", from) => Self::Move(from, words.next()?.to_owned()),
            _ => return None,
        };
        Some(step)
    }
}

/// The mount's end: a queue, and a thread that hands its steps to the child and replaces a child that died.
pub struct Publisher {
    steps: Sender<Step>,
}

impl Publisher {
    /// Starts `limafs publisher MOUNTPOINT`. `pid` is kept at the child's.
    fn spawn(mountpoint: &Path, pid: Arc<AtomicU32>) -> io::Result<Self> {
        let mut child = Living::spawn(mountpoint, &pid)?;
        let (steps, queue) = channel();
        let mountpoint = mountpoint.to_owned();
        std::thread::Builder::new().name("publish".into()).spawn(move || {
            while let Err(error) = child.take_steps(&queue) {
                tracing::warn!("the publisher died ({error}); another one takes over");
                match Living::spawn(&mountpoint, &pid) {
                    Ok(next) => child = next,
                    Err(error) => return tracing::error!("no publisher, inotify sees no more changes: {error}"),
                }
            }
        })?;
        Ok(Self { steps })
    }

    /// Queues a step; does not wait until it is done.
    pub(super) fn perform(&self, step: Step) {
        // The thread has said why when it is gone.
        let _ = self.steps.send(step);
    }
}

/// A child that runs.
struct Living {
    child: Child,
    pipe: ChildStdin,
}

impl Living {
    fn spawn(mountpoint: &Path, pid: &AtomicU32) -> io::Result<Self> {
        // fusermount3 hands /dev/fuse over without the flag; a child that holds it keeps a dead mount up.
        agent::close_on_exec();
        let mut child = Command::new("/proc/self/exe")
            .arg0("limafs-publisher")
            .arg("publisher")
            .arg(mountpoint)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()?;
        let pipe = child.stdin.take().ok_or_else(|| io::Error::other("no pipe"))?;
        pid.store(child.id(), Ordering::Relaxed);
        Ok(Self { child, pipe })
    }

    /// Returns when the queue is closed, with an error when the child is gone.
    fn take_steps(&mut self, queue: &Receiver<Step>) -> io::Result<()> {
        while let Ok(first) = queue.recv() {
            let mut seen = HashSet::new();
            for step in std::iter::once(first).chain(queue.try_iter()) {
                if seen.insert(step.clone())
                    && let Err(error) = self.pipe.write_all(step.line().as_bytes())
                {
                    // Reaped here: nobody else waits for it.
                    let _ = self.child.wait();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl View {
    /// Starts the publisher; its system calls are from now on known as ours.
    pub fn start_publisher(&self, mountpoint: &Path) -> io::Result<Publisher> {
        Publisher::spawn(mountpoint, self.0.publisher.clone())
    }
}

/// The child's whole life: a step a line, until the mount closes the pipe.
pub fn run(mountpoint: &Path) {
    for line in BufReader::new(io::stdin().lock()).lines() {
        let Ok(line) = line else { return };
        let Some(step) = Step::parse(&line) else { continue };
        // A node that is gone by now needs no announcement.
        let _ = match step {
            Step::Touch(path) => touch(&mountpoint.join(path)),
            Step::Make(name) => fs::create_dir(mountpoint.join(name)),
            Step::Remove(name) => fs::remove_dir(mountpoint.join(name)),
            Step::Move(from, to) => fs::rename(mountpoint.join(from), mountpoint.join(to)),
        };
    }
}

fn touch(path: &Path) -> io::Result<()> {
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    match opened {
        Ok(file) => file.set_len(file.metadata()?.len()),
        // A shared mount leaves the check of mode bits to the kernel; the owner may still set times.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
            let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
            Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty())?)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_survives_its_line() {
        for step in [
            Step::Touch("foo/state".into()),
            Step::Make("foo".into()),
            Step::Remove("foo".into()),
            Step::Move("foo".into(), "bar".into()),
        ] {
            assert_eq!(Step::parse(step.line().trim_end()), Some(step));
        }
        assert_eq!(Step::parse("rm\t/"), None);
    }
}

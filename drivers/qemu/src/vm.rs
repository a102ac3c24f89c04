//! A running VM: the tasks around its process, and the last event.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ChildStderr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use limafs_driver::{Error, Result, VmEvent};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::monitor::{Client, Monitor, Seen};
use crate::process::{self, Ending, Process};
use crate::{boot, names};

/// Events that wait for a reader.
const EVENTS: usize = 64;
const STDERR_TAIL: usize = 4096;
/// Only the parent of a process is told how it ended.
const UNKNOWN: &str = "its exit status went to an earlier hostagent";
/// For the tasks to take in the last words of a QEMU that is gone.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// SIGKILL is not refused, but memory takes time to free and a disk may hold the process for a while.
const KILL_DEADLINE: Duration = Duration::from_secs(20);

/// A VM that is watched. Dropping it ends the watching, not the VM.
#[derive(Debug)]
pub(crate) struct Running {
    pub process: Arc<Process>,
    pub qmp: Client,
    pub seen: watch::Receiver<Seen>,
    /// Whether a `stop` asked for the end.
    stopping: Arc<watch::Sender<bool>>,
    stderr: Tail,
    gone: watch::Receiver<bool>,
    _tasks: JoinSet<()>,
}

impl Running {
    /// Watches a process, new or found. `daemons` are those of our children that serve it and end with it.
    pub(crate) fn watch(
        process: Process,
        dir: &Path,
        stderr: Option<ChildStderr>,
        daemons: Vec<Process>,
    ) -> (Self, mpsc::Receiver<VmEvent>) {
        let process = Arc::new(process);
        let (events, receiver) = mpsc::channel(EVENTS);
        let (qmp, requests) = Client::new();
        let (seen_sender, seen) = watch::channel(Seen::default());
        let (ended_sender, ended) = watch::channel(false);
        let (gone_sender, gone) = watch::channel(false);
        let stopping = Arc::new(watch::Sender::new(false));
        let tail = Tail::default();

        let socket = monitor_socket(dir, &process);
        let monitor = Monitor::new(socket, events.clone(), seen_sender, ended);
        let mut talking = JoinSet::new();
        talking.spawn(monitor.run(requests));
        if let Some(stderr) = stderr {
            talking.spawn(tail.clone().read(stderr));
        }
        let mut listening = JoinSet::new();
        let (boot_socket, boot_events) = (dir.join(names::BOOT_SOCK), events.clone());
        listening.spawn(async move { boot::listen(&boot_socket, boot_events).await });

        let end = End {
            process: process.clone(),
            daemons,
            dir: dir.to_owned(),
            seen: seen.clone(),
            stopping: stopping.clone(),
            stderr: tail.clone(),
            ended: ended_sender,
            gone: gone_sender,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(end.wait(talking, listening, events));
        (Self { process, qmp, seen, stopping, stderr: tail, gone, _tasks: tasks }, receiver)
    }

    /// Returns when QEMU answers; fails with its words when it ends instead.
    pub(crate) async fn answers(&self) -> Result<()> {
        let (mut seen, mut gone) = (self.seen.clone(), self.gone.clone());
        // Cancel-safe: both are watches. An error of either means that the watching ended, with the process.
        tokio::select! {
            Ok(_) = seen.wait_for(|seen| seen.answered) => Ok(()),
            _ = gone.wait_for(|gone| *gone) => {
                Err(Error::failed("QEMU", self.stderr.last_line().unwrap_or("ended without a word".into())))
            }
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    pub(crate) async fn gone(&self) {
        // An error means that the watching has ended; that is only ever after the process.
        let _ = self.gone.clone().wait_for(|gone| *gone).await;
    }

    pub(crate) fn expect_end(&self) {
        self.stopping.send_replace(true);
    }

    /// Kills and waits. Needs no answer of QEMU, and works on a stopped one.
    pub(crate) async fn kill(&self) -> Result<()> {
        let pid = self.process.pid();
        self.process.kill().map_err(|error| Error::failed(format!("killing process {pid}"), error))?;
        let late = |_| Error::Timeout { what: format!("the end of process {pid}"), seconds: KILL_DEADLINE.as_secs() };
        timeout(KILL_DEADLINE, self.gone()).await.map_err(late)
    }
}

/// Ours if this QEMU has it; one that limactl started has only Lima's.
fn monitor_socket(dir: &Path, process: &Process) -> PathBuf {
    let ours = dir.join(names::OUR_QMP_SOCK);
    let is_ours = process.arguments().iter().any(|word| word.to_string_lossy().contains(names::OUR_QMP_SOCK));
    if is_ours { ours } else { dir.join(names::QMP_SOCK) }
}

/// The task that waits for the process.
struct End {
    process: Arc<Process>,
    daemons: Vec<Process>,
    dir: PathBuf,
    seen: watch::Receiver<Seen>,
    stopping: Arc<watch::Sender<bool>>,
    stderr: Tail,
    ended: watch::Sender<bool>,
    gone: watch::Sender<bool>,
}

impl End {
    async fn wait(self, mut talking: JoinSet<()>, mut listening: JoinSet<()>, events: mpsc::Sender<VmEvent>) {
        self.process.ended().await;
        self.ended.send_replace(true);
        // Lost when they take longer: the guest's reason to shut down, QEMU's last error line.
        let _ = timeout(LAST_WORDS, async { while talking.join_next().await.is_some() {} }).await;
        talking.abort_all();
        listening.shutdown().await;
        let last = self.event(self.process.ending());
        process::clean(&self.dir);
        // One that takes longer stays in the table of processes until we end, too.
        let _ = timeout(LAST_WORDS, self.reap_daemons()).await;
        self.gone.send_replace(true);
        // Nobody may be listening any more.
        let _ = events.send(last).await;
    }

    async fn reap_daemons(&self) {
        for daemon in &self.daemons {
            daemon.ended().await;
            daemon.ending();
        }
    }

    fn event(&self, ending: Ending) -> VmEvent {
        let shutdown = self.seen.borrow().shutdown;
        let (clean, reason) = match ending {
            Ending::Killed(signal) => (false, format!("killed by signal {signal}")),
            Ending::Exited(0) if shutdown => (true, "shut down".into()),
            Ending::Exited(0) => (true, "QEMU quit".into()),
            Ending::Exited(code) => {
                let words = self.stderr.last_line().map(|line| format!(": {line}")).unwrap_or_default();
                (false, format!("exited with status {code}{words}"))
            }
            Ending::Unknown => (shutdown || *self.stopping.borrow(), UNKNOWN.into()),
        };
        VmEvent::Exited { clean, reason }
    }
}

/// The last of what QEMU wrote to stderr.
#[derive(Debug, Clone, Default)]
struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    async fn read(self, stderr: ChildStderr) {
        let Ok(mut pipe) = pipe::Receiver::from_owned_fd(OwnedFd::from(stderr)) else { return };
        let mut chunk = [0; 1024];
        while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
            let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(&chunk[..count]);
            let excess = tail.len().saturating_sub(STDERR_TAIL);
            tail.drain(..excess);
        }
    }

    fn last_line(&self) -> Option<String> {
        let tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&tail);
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }
}

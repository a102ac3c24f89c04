//! A VM, from the stream of the server that runs it. Ends the server with the VM.
//!
//! ```text
//!  ours:    stream -> events ... Exited      broken: the driver died; a new one takes the VM up
//!  Lima's:  stream -> success ... success    broken: the driver died, and its VM is ended
//! ```

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::{Response, Streaming};

use super::line::{Line, SHORT};
use super::process::Process;
use super::{Inner, Remote};
use crate::wire::names;
use crate::wire::proto::driver::StartResponse;
use crate::wire::proto::extra::event::Kind;
use crate::wire::proto::extra::{Event, Started};
use crate::wire::status::sentence;
use crate::{Accelerator, Error, Result, Vm, VmEvent};

/// For a hypervisor to run.
const START: Duration = Duration::from_secs(60);
/// For a VM that was killed to be gone.
pub(super) const KILL: Duration = Duration::from_secs(30);
/// For a driver to end the VM whose stream has ended, before we do.
const GONE: Duration = Duration::from_secs(2);
/// For a VM's process to be written down.
const RECORDED: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between attempts to have a driver again whose VM may run.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Events that wait for a reader.
const EVENTS: usize = 64;
const BOOT_LINE_MAX: usize = 1024;

/// A VM that is looked after.
#[derive(Clone)]
pub(super) struct Life {
    over: watch::Receiver<bool>,
    /// Lets go of a stream of Lima's, which kills its VM.
    let_go: Option<Arc<watch::Sender<bool>>>,
    /// Proven to be a child of the driver's server.
    process: Option<Arc<Process>>,
}

impl Life {
    pub(super) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Whether it ends with our connection.
    pub(super) fn is_limas(&self) -> bool {
        self.let_go.is_some()
    }
}

/// What the task has that looks after a VM.
struct Keeper {
    inner: Arc<Inner>,
    line: Line,
    process: Option<Arc<Process>>,
    events: mpsc::Sender<VmEvent>,
    over: watch::Sender<bool>,
}

pub(super) async fn start(remote: &Remote, line: Line) -> Result<Vm> {
    if let Some(mut extra) = line.extra.clone() {
        let stream = line.long(START, "start", extra.start(())).await?;
        let started = ours(remote, line, stream).await?;
        return started.ok_or_else(|| remote.inner.failed("says nothing of the VM it started"));
    }
    let mut stream = line.long(START, "start", line.lima.clone().start(())).await?;
    let first = async { stream.message().await.map(Response::new) };
    match line.long(START, "start", first).await? {
        Some(StartResponse { success: true, .. }) => Ok(limas(remote, line, stream).await),
        Some(StartResponse { error, .. }) if error.is_empty() => Err(remote.inner.failed("did not start the VM")),
        Some(StartResponse { error, .. }) => Err(Error::failed("start", sentence(&error))),
        None => Err(remote.inner.failed("says nothing of the VM it started")),
    }
}

/// Takes up what runs. A VM of Lima's does not outlive its host.
pub(super) async fn attach(remote: &Remote, line: Line) -> Result<Option<Vm>> {
    let Some(mut extra) = line.extra.clone() else { return Ok(None) };
    let stream = line.long(START, "attach", extra.attach(())).await?;
    ours(remote, line, stream).await
}

async fn ours(remote: &Remote, line: Line, mut stream: Streaming<Event>) -> Result<Option<Vm>> {
    let Some(started) = started(&line, &mut stream).await? else { return Ok(None) };
    let process = prove(&line, started.pid);
    let (keeper, events, over) = Keeper::new(remote, line, process);
    remote.inner.state(|state| {
        state.life = Some(Life { over, let_go: None, process: keeper.process.clone() });
    });
    remote.spawn(keeper.keep_ours(stream));
    let reason = sentence(&started.accelerator_reason);
    let accelerator = started.accelerator.map(|name| Accelerator { name: sentence(&name), reason });
    Ok(Some(Vm { pid: started.pid, accelerator, events }))
}

async fn limas(remote: &Remote, line: Line, stream: Streaming<StartResponse>) -> Vm {
    let pid = match remote.inner.dir() {
        Ok(dir) => recorded_soon(&dir, &line.name).await,
        Err(_) => None,
    };
    let process = prove(&line, pid);
    let pid = process.as_ref().map(|process| process.pid());
    let (keeper, events, over) = Keeper::new(remote, line, process);
    let (let_go, going) = watch::channel(false);
    remote.inner.state(|state| {
        let let_go = Some(Arc::new(let_go));
        state.life = Some(Life { over, let_go, process: keeper.process.clone() });
    });
    remote.spawn(keeper.keep_limas(stream, going));
    Vm { pid, accelerator: None, events }
}

/// The first event, which says what runs; none where nothing does.
async fn started(line: &Line, stream: &mut Streaming<Event>) -> Result<Option<Started>> {
    let first = async { stream.message().await.map(Response::new) };
    match line.within(SHORT, "say what runs", first).await? {
        None => Ok(None),
        Some(Event { kind: Some(Kind::Started(started)) }) => Ok(Some(started)),
        Some(_) => Err(Error::failed(format!("driver {}", line.name), "tells of a VM before it says what runs")),
    }
}

/// Lima's hosts rely on the file as well, but a hypervisor may write it a little after its start.
async fn recorded_soon(dir: &Path, name: &str) -> Option<u32> {
    let look = async {
        loop {
            match recorded(dir, name) {
                Some(pid) => return pid,
                None => sleep(LOOK_AGAIN).await,
            }
        }
    };
    timeout(RECORDED, look).await.ok()
}

fn recorded(dir: &Path, name: &str) -> Option<u32> {
    fs::read_to_string(names::vm_pid(dir, name)).ok()?.trim().parse().ok()
}

/// The process, if the server started it: a number alone proves nothing.
fn prove(line: &Line, pid: Option<u32>) -> Option<Arc<Process>> {
    let process = Process::open(pid?).ok()?;
    process.is_child_of(line.server.process.pid()).then(|| Arc::new(process))
}

/// Returns when the VM is over, and the server with it.
pub(super) async fn over(inner: &Inner, deadline: Duration) -> Result<()> {
    let Some(mut life) = inner.state(|state| state.life.clone()) else { return Ok(()) };
    match timeout(deadline, life.over.wait_for(|over| *over)).await {
        // An error means that nobody looks after it any more.
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Timeout { what: "the end of the VM".into(), seconds: deadline.as_secs() }),
    }
}

pub(super) async fn kill(inner: &Inner) -> Result<()> {
    let life = inner.state(|state| state.life.clone()).filter(|life| !life.is_over());
    if let Some(let_go) = life.as_ref().and_then(|life| life.let_go.as_ref()) {
        let_go.send_replace(true);
        return over(inner, KILL).await;
    }
    match (ask_to_kill(inner).await, life.and_then(|life| life.process)) {
        (Ok(()), _) => {}
        (Err(error), None) => return Err(error),
        (Err(error), Some(process)) => {
            tracing::warn!("process {} is killed without its driver: {error}", process.pid());
            process.signal(Signal::KILL);
        }
    }
    over(inner, KILL).await
}

async fn ask_to_kill(inner: &Inner) -> Result<()> {
    let line = inner.line().await?;
    match line.extra.clone() {
        Some(mut extra) => line.within(SHORT, "kill", extra.kill(())).await,
        None => {
            // One of Lima's that another host has started.
            if let Some(process) = prove(&line, recorded(&inner.dir()?, &line.name)) {
                process.signal(Signal::KILL);
                // What does not end is seen by the next start.
                let _ = timeout(KILL, process.ended()).await;
            }
            Ok(())
        }
    }
}

impl Keeper {
    fn new(
        remote: &Remote,
        line: Line,
        process: Option<Arc<Process>>,
    ) -> (Self, mpsc::Receiver<VmEvent>, watch::Receiver<bool>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (over, is_over) = watch::channel(false);
        (Self { inner: remote.inner.clone(), line, process, events, over }, receiver, is_over)
    }

    async fn keep_ours(mut self, mut stream: Streaming<Event>) {
        let last = loop {
            if let Some(last) = self.follow(&mut stream).await {
                break last;
            }
            self.tell(VmEvent::Unresponsive).await;
            match self.take_up().await {
                Ok(taken_up) => stream = taken_up,
                Err(last) => break last,
            }
            self.tell(VmEvent::Responsive).await;
        };
        self.finish(last).await;
    }

    /// Passes events on; returns the last one, or none if the stream broke.
    async fn follow(&self, stream: &mut Streaming<Event>) -> Option<VmEvent> {
        while let Ok(Some(event)) = stream.message().await {
            match event.kind.and_then(event_of) {
                Some(last @ VmEvent::Exited { .. }) => return Some(last),
                // Dropped rather than waited with, as every driver does.
                Some(VmEvent::Boot(line)) => drop(self.events.try_send(VmEvent::Boot(line))),
                Some(event) => self.tell(event).await,
                None => {}
            }
        }
        None
    }

    /// Has the VM again after its driver died, or its end.
    async fn take_up(&mut self) -> Result<Streaming<Event>, VmEvent> {
        let mut wait = Duration::from_millis(100);
        loop {
            match self.attach().await {
                Ok(Some(stream)) => return Ok(stream),
                Ok(None) => return Err(exited("its driver died, and the VM is gone")),
                Err(error) => tracing::warn!("driver {}: {error}", self.line.name),
            }
            let ended = async {
                match &self.process {
                    Some(process) => process.ended().await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: a pidfd and a timer.
            tokio::select! {
                () = ended => return Err(exited("it ended while its driver was dead")),
                () = sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
            }
        }
    }

    async fn attach(&mut self) -> Result<Option<Streaming<Event>>> {
        let line = self.inner.line().await?;
        let Some(mut extra) = line.extra.clone() else { return Ok(None) };
        let mut stream = line.long(START, "attach", extra.attach(())).await?;
        let is_there = started(&line, &mut stream).await?.is_some();
        self.line = line;
        Ok(is_there.then_some(stream))
    }

    async fn keep_limas(self, mut stream: Streaming<StartResponse>, mut going: watch::Receiver<bool>) {
        // Cancel-safe: what is lost is the answer to a stream that is let go of.
        let last = tokio::select! {
            last = end_of(&mut stream) => last,
            Ok(_) = going.wait_for(|going| *going) => exited("killed"),
        };
        drop(stream);
        match &self.process {
            Some(process) if timeout(GONE, process.ended()).await.is_err() => {
                tracing::warn!("process {} outlives its driver and is killed", process.pid());
                process.signal(Signal::KILL);
                // What does not end is seen by the next start.
                let _ = timeout(KILL, process.ended()).await;
            }
            Some(_) => {}
            // It may be in the server itself.
            None if *going.borrow() => self.line.server.kill().await,
            None => {}
        }
        self.finish(last).await;
    }

    async fn finish(self, last: VmEvent) {
        // Another call may have a new server by now.
        self.inner.line.lock().await.take_if(|line| Arc::ptr_eq(&line.server, &self.line.server));
        self.line.server.end().await;
        self.over.send_replace(true);
        self.tell(last).await;
    }

    async fn tell(&self, event: VmEvent) {
        // Nobody may be listening any more.
        let _ = self.events.send(event).await;
    }
}

async fn end_of(stream: &mut Streaming<StartResponse>) -> VmEvent {
    match stream.message().await {
        Ok(Some(StartResponse { success: true, .. })) => VmEvent::Exited { clean: true, reason: "shut down".into() },
        Ok(Some(StartResponse { error, .. })) => exited(&sentence(&error)),
        Ok(None) | Err(_) => exited("its driver died"),
    }
}

fn exited(reason: &str) -> VmEvent {
    VmEvent::Exited { clean: false, reason: reason.into() }
}

fn event_of(kind: Kind) -> Option<VmEvent> {
    Some(match kind {
        Kind::Exited(exited) => VmEvent::Exited { clean: exited.clean, reason: sentence(&exited.reason) },
        Kind::Boot(mut line) => {
            let end = (0..=BOOT_LINE_MAX.min(line.len())).rev().find(|&at| line.is_char_boundary(at));
            line.truncate(end.unwrap_or_default());
            VmEvent::Boot(line)
        }
        Kind::Change(word) => match word.as_str() {
            "paused" => VmEvent::Paused,
            "resumed" => VmEvent::Resumed,
            "reset" => VmEvent::Reset,
            "powering-down" => VmEvent::PoweringDown,
            "panicked" => VmEvent::Panicked,
            "unresponsive" => VmEvent::Unresponsive,
            "responsive" => VmEvent::Responsive,
            // Of a driver that is newer than we are.
            _ => return None,
        },
        Kind::Started(_) => return None,
    })
}

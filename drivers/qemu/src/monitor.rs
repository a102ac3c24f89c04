//! The task that stays connected to QEMU's monitor: carries commands, passes events on, notices silence.
//!
//! ```text
//!  Client --Request--> watch --QMP--> QEMU     no answer for 3 s: Unresponsive, until one comes
//!                        `--VmEvent--> Vm      connection lost while QEMU lives: connects again
//! ```

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use limafs_driver::{Error, Result, VmEvent};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::qmp::{Connection, Message};

/// How long a caller waits for the answer to a command.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// QEMU is asked for its status this often, and is unresponsive when it has not answered for so long.
const ASK_EVERY: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(3);
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// For the last events of a QEMU that is gone.
const DRAIN: Duration = Duration::from_millis(300);
/// How long an event waits for a reader who is behind.
const DELIVERY: Duration = Duration::from_secs(1);

pub(crate) struct Request {
    command: &'static str,
    arguments: Option<Value>,
    /// Goes to QEMU with the command.
    file: Option<OwnedFd>,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<Value, String>>;

/// What ends a wait of the task.
enum Next {
    Message(Message),
    Request(Request),
    Ask,
    Silence,
    End,
}

/// Sends commands to the task.
#[derive(Debug, Clone)]
pub(crate) struct Client(mpsc::Sender<Request>);

impl Client {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(8);
        (Self(sender), receiver)
    }

    pub(crate) async fn execute(&self, command: &'static str, arguments: Option<Value>) -> Result<Value> {
        self.request(command, arguments, None).await
    }

    /// Gives QEMU an open file, under a name.
    pub(crate) async fn give(&self, name: &str, file: OwnedFd) -> Result<()> {
        self.request("getfd", Some(json!({ "fdname": name })), Some(file)).await.map(drop)
    }

    async fn request(&self, command: &'static str, arguments: Option<Value>, file: Option<OwnedFd>) -> Result<Value> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.0.send(Request { command, arguments, file, answer }).await.map_err(|_| Error::NotRunning)?;
            answered.await.map_err(|_| Error::NotRunning)?.map_err(|why| Error::failed(command, why))
        };
        let late =
            |_| Error::Timeout { what: format!("QEMU's answer to {command}"), seconds: ANSWER_DEADLINE.as_secs() };
        timeout(ANSWER_DEADLINE, asked).await.map_err(late)?
    }
}

/// What the task tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// QEMU answered at least once.
    pub answered: bool,
    pub paused: bool,
    /// The guest, or a command, ended the VM.
    pub shutdown: bool,
}

pub(crate) struct Monitor {
    socket: PathBuf,
    events: mpsc::Sender<VmEvent>,
    seen: watch::Sender<Seen>,
    /// Becomes true when the process has ended.
    ended: watch::Receiver<bool>,
    unresponsive: bool,
    powering_down: bool,
}

impl Monitor {
    pub(crate) fn new(
        socket: PathBuf,
        events: mpsc::Sender<VmEvent>,
        seen: watch::Sender<Seen>,
        ended: watch::Receiver<bool>,
    ) -> Self {
        Self { socket, events, seen, ended, unresponsive: false, powering_down: false }
    }

    /// Runs until the process has ended.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut pause = RETRY_FIRST;
        let mut lost = Instant::now();
        while !*self.ended.borrow() {
            match Connection::open(&self.socket).await {
                Ok(connection) => {
                    if let Err(error) = self.converse(connection, &mut requests).await {
                        tracing::debug!("the connection to QEMU ended: {error}");
                    }
                    (pause, lost) = (RETRY_FIRST, Instant::now());
                }
                Err(Error::Timeout { .. }) => self.answers(false).await,
                Err(_) if lost.elapsed() > ASK_EVERY + SILENCE => self.answers(false).await,
                Err(_) => {}
            }
            // Cancel-safe: a watch and a timer.
            tokio::select! {
                _ = self.ended.wait_for(|ended| *ended) => break,
                _ = sleep(pause) => pause = pause.mul_f32(1.2).min(RETRY_LAST),
            }
        }
    }

    /// Serves one connection until it or the process ends.
    async fn converse(&mut self, mut connection: Connection, requests: &mut mpsc::Receiver<Request>) -> io::Result<()> {
        let mut ended = self.ended.clone();
        let mut open = BTreeMap::new();
        let mut ask = interval(ASK_EVERY);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked: Option<(u64, Instant)> = None;
        loop {
            let silence = asked.map_or_else(Instant::now, |(_, since)| since + SILENCE);
            // Every arm is cancel-safe: bounded lines keep what they have read, the rest are channels and timers.
            let next = tokio::select! {
                message = connection.next() => Next::Message(message?),
                Some(request) = requests.recv() => Next::Request(request),
                _ = ask.tick(), if asked.is_none() => Next::Ask,
                _ = sleep_until(silence), if asked.is_some() && !self.unresponsive => Next::Silence,
                _ = ended.wait_for(|ended| *ended) => Next::End,
            };
            match next {
                Next::Message(Message::Greeting) => {}
                Next::Message(Message::Event { name, data }) => self.event(&name, &data).await,
                Next::Message(Message::Answer { id, result }) => {
                    if asked.is_some_and(|(ours, _)| id == Some(ours)) {
                        asked = None;
                        self.answers(true).await;
                        self.status(result.unwrap_or_default()).await;
                    } else if let Some(answer) = id.and_then(|id| open.remove(&id)) {
                        pass(answer, result);
                    }
                }
                Next::Request(Request { command, arguments, file, answer }) => {
                    let file = file.as_ref().map(AsFd::as_fd);
                    let id = connection.send(command, arguments.as_ref(), file).await?;
                    open.retain(|_, answer: &mut Answer| !answer.is_closed());
                    open.insert(id, answer);
                }
                Next::Ask => asked = Some((connection.send("query-status", None, None).await?, Instant::now())),
                Next::Silence => self.answers(false).await,
                Next::End => return self.drain(connection).await,
            }
        }
    }

    /// Reads what QEMU said last; its socket outlives it.
    async fn drain(&mut self, mut connection: Connection) -> io::Result<()> {
        let rest = async {
            while let Ok(message) = connection.next().await {
                if let Message::Event { name, data } = message {
                    self.event(&name, &data).await;
                }
            }
        };
        // Nothing is lost but a QEMU's last words that do not end.
        let _ = timeout(DRAIN, rest).await;
        if connection.garbage() > 0 {
            tracing::warn!("{} pieces of QEMU's monitor could not be read", connection.garbage());
        }
        Ok(())
    }

    async fn event(&mut self, name: &str, data: &Value) {
        match name {
            "STOP" => self.paused(true).await,
            "RESUME" => self.paused(false).await,
            "RESET" => {
                self.powering_down = false;
                self.tell(VmEvent::Reset).await;
            }
            "POWERDOWN" => self.power_down().await,
            "BLOCK_IO_ERROR" if data["action"] == "stop" => {
                let why = data["reason"].as_str().unwrap_or("for no reason that QEMU knows");
                tracing::warn!("the VM is paused because its disk failed: {why}; write resume to go on");
            }
            "GUEST_PANICKED" => self.tell(VmEvent::Panicked).await,
            "SHUTDOWN" => {
                tracing::info!("the VM shuts down: {}", data["reason"]);
                self.seen.send_modify(|seen| seen.shutdown = true);
                self.power_down().await;
            }
            _ => {}
        }
    }

    /// The state itself, for events that were missed while not connected.
    async fn status(&mut self, status: Value) {
        match status["status"].as_str() {
            // The latter after a suspend that was begun and not ended.
            Some("paused" | "postmigrate") => self.paused(true).await,
            Some("running") => self.paused(false).await,
            _ => {}
        }
    }

    async fn paused(&mut self, paused: bool) {
        if self.seen.borrow().paused != paused {
            self.seen.send_modify(|seen| seen.paused = paused);
            self.tell(if paused { VmEvent::Paused } else { VmEvent::Resumed }).await;
        }
    }

    /// Told once, however often the button is pressed.
    async fn power_down(&mut self) {
        if !std::mem::replace(&mut self.powering_down, true) {
            self.tell(VmEvent::PoweringDown).await;
        }
    }

    async fn answers(&mut self, answers: bool) {
        if answers {
            self.seen.send_if_modified(|seen| !std::mem::replace(&mut seen.answered, true));
        }
        if self.unresponsive == answers {
            self.unresponsive = !answers;
            self.tell(if answers { VmEvent::Responsive } else { VmEvent::Unresponsive }).await;
        }
    }

    async fn tell(&self, event: VmEvent) {
        // A reader who is gone wants no events; one who is behind must not keep commands from passing.
        if let Err(mpsc::error::SendTimeoutError::Timeout(event)) = self.events.send_timeout(event, DELIVERY).await {
            tracing::warn!("nobody took the event {event:?}");
        }
    }
}

fn pass(answer: Answer, result: Result<Value, String>) {
    // The asker may have given up.
    let _ = answer.send(result);
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;

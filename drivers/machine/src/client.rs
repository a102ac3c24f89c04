//! Calls to a plugin: one task owns the connection, matches answers to questions by their numbers, and asks every few
//! seconds whether the plugin is there. A plugin that does not answer that is given up, and all who wait are told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::gob::{Encoder, Shape, Value};
use crate::wire::{self, Broken, EMPTY, Incoming, REQUEST};

const HEARTBEAT: Duration = Duration::from_secs(5);
/// So long it may take to say that it is there.
const PULSE: Duration = Duration::from_secs(4);
/// So long it may take to name its version, and so long it may not read what it is told.
const PATIENCE: Duration = Duration::from_secs(8);
const CONNECT: Duration = Duration::from_secs(5);
/// Of a plugin's error.
const ERROR_MAX: usize = 4096;
const BEATS: &str = "Heartbeat";

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The plugin's own words.
    #[error("{0}")]
    Refused(String),
    /// There is nobody any more who could answer.
    #[error("the plugin is gone: {0}")]
    Gone(String),
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("it answered with another kind of value")]
    Misfit,
}

/// A connection to a plugin. Dropping it closes the connection.
pub struct Client {
    service: &'static str,
    calls: mpsc::Sender<Call>,
    _task: JoinSet<()>,
}

struct Call {
    method: String,
    shape: &'static Shape,
    value: Value,
    answer: oneshot::Sender<Result<Value, Fault>>,
}

impl Client {
    /// Connects and learns which name the service has. Refuses another version.
    pub async fn connect(address: SocketAddr) -> Result<Self, Fault> {
        let late = |_| Fault::Late(CONNECT);
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (reader, mut writer) = stream.into_split();
            writer.write_all(wire::CONNECT).await?;
            let mut incoming = Incoming::new(reader);
            match incoming.greeting().await?.starts_with(b"HTTP/1.0 200 Connected to Go RPC") {
                true => Ok((incoming, writer)),
                false => Err(Broken::NoRpc),
            }
        };
        let (incoming, writer) = timeout(CONNECT, connecting).await.map_err(late)?.map_err(gone)?;
        let (calls, questions) = mpsc::channel(16);
        let mut task = JoinSet::new();
        task.spawn(Connection::new(incoming, writer).run(questions));
        let mut client = Self { service: wire::SERVICE, calls, _task: task };
        let version = match client.version().await {
            Err(Fault::Refused(_)) => {
                client.service = wire::OLD_SERVICE;
                client.version().await?
            }
            other => other?,
        };
        match version {
            wire::VERSION => Ok(client),
            other => Err(Fault::Refused(format!("it speaks version {other} of the protocol, not {}", wire::VERSION))),
        }
    }

    async fn version(&self) -> Result<i64, Fault> {
        match self.call("GetVersion", &EMPTY, wire::empty(), PATIENCE).await? {
            Value::Int(version) => Ok(version),
            _ => Err(Fault::Misfit),
        }
    }

    /// Asks, and waits for at most `limit`. A question whose answer nobody waits for any more goes on in the plugin.
    pub async fn call(
        &self,
        method: &str,
        shape: &'static Shape,
        value: Value,
        limit: Duration,
    ) -> Result<Value, Fault> {
        let over = || Fault::Gone("the connection is over".into());
        let (answer, answered) = oneshot::channel();
        let call = Call { method: format!("{}.{method}", self.service), shape, value, answer };
        let asking = async {
            self.calls.send(call).await.map_err(|_| over())?;
            answered.await.map_err(|_| over())?
        };
        timeout(limit, asking).await.unwrap_or(Err(Fault::Late(limit)))
    }

    pub fn is_open(&self) -> bool {
        !self.calls.is_closed()
    }
}

/// What the one task owns.
struct Connection {
    incoming: Incoming<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    encoder: Encoder,
    /// `None` waits for a heartbeat.
    waiting: HashMap<u64, Option<oneshot::Sender<Result<Value, Fault>>>>,
    seq: u64,
    /// When the oldest heartbeat without an answer was sent.
    asked: Option<Instant>,
    /// The call whose answer is being read.
    head: Option<Value>,
}

impl Connection {
    fn new(incoming: Incoming<OwnedReadHalf>, writer: OwnedWriteHalf) -> Self {
        let (encoder, waiting) = (Encoder::default(), HashMap::new());
        Self { incoming, writer, encoder, waiting, seq: 0, asked: None, head: None }
    }

    async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        let mut service = wire::SERVICE.to_owned();
        let mut beats = interval(HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats.tick().await;
        let why = loop {
            let silent = self.asked.map(|asked| asked + PULSE);
            // Every arm is cancel-safe: a channel, a reader that keeps what it has, and clocks. In this order: what it
            // has said by now counts, however late this host comes to read it.
            let done = tokio::select! {
                biased;
                call = calls.recv() => match call {
                    Some(call) => {
                        if let Some((name, _)) = call.method.split_once('.') {
                            service = name.to_owned();
                        }
                        self.ask(&call.method, call.shape, &call.value, Some(call.answer)).await
                    }
                    None => return,
                },
                value = self.incoming.next() => value.map(|value| self.heard(value)),
                _ = beats.tick() => self.ask(&format!("{service}.{BEATS}"), &EMPTY, &wire::empty(), None).await,
                () = until(silent) => break "it does not answer any more".to_owned(),
            };
            if let Err(error) = done {
                break error.to_string();
            }
        };
        // Whoever asks from now on finds the channel closed.
        calls.close();
        while let Ok(call) = calls.try_recv() {
            self.waiting.insert(u64::MAX - self.waiting.len() as u64, Some(call.answer));
        }
        for answer in self.waiting.into_values().flatten() {
            // Whoever asked may have left; the same below.
            let _ = answer.send(Err(Fault::Gone(why.clone())));
        }
    }

    async fn ask(
        &mut self,
        method: &str,
        shape: &'static Shape,
        value: &Value,
        answer: Option<oneshot::Sender<Result<Value, Fault>>>,
    ) -> Result<(), Broken> {
        let mut bytes = self.encoder.encode(&REQUEST, &wire::request(method, self.seq))?;
        bytes.extend(self.encoder.encode(shape, value)?);
        if answer.is_none() {
            self.asked.get_or_insert_with(Instant::now);
        }
        self.waiting.insert(self.seq, answer);
        self.seq += 1;
        let slow = || std::io::Error::other("it does not read what it is told");
        timeout(PATIENCE, self.writer.write_all(&bytes)).await.map_err(|_| slow())??;
        Ok(())
    }

    /// An answer is two values: whose it is and whether it failed, and then the answer itself.
    fn heard(&mut self, value: Value) {
        let Some(head) = self.head.take() else {
            self.head = Some(value);
            return;
        };
        let (_, seq) = wire::head(&head);
        match self.waiting.remove(&seq) {
            Some(Some(answer)) => {
                let error = head.field("Error").and_then(Value::text).unwrap_or_default();
                let _ = answer.send(if error.is_empty() { Ok(value) } else { Err(Fault::Refused(short(error))) });
            }
            // However it answers: it does.
            Some(None) => self.asked = None,
            None => {}
        }
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn gone(error: Broken) -> Fault {
    Fault::Gone(error.to_string())
}

/// On one line, and not too long of one.
fn short(error: &str) -> String {
    let line: String = error.chars().map(|char| if char.is_control() { ' ' } else { char }).take(ERROR_MAX).collect();
    line.trim().to_owned()
}

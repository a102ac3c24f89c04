//! A guest's files over sftp: the client, on any stream. One connection answers in the order in which it is asked, so
//! that whatever is asked after a write sees it. Follows no symbolic link and believes nothing without bounds.

mod calls;
mod errno;
mod packet;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use calls::Writing;
pub use errno::Attempt;
pub use packet::{Attrs, Entry, OPEN_APPEND, OPEN_CREATE, OPEN_EXCLUSIVE, OPEN_READ, OPEN_TRUNCATE, OPEN_WRITE, Room};

use packet::{Answer, Garbled, PACKET_MAX, Request};

/// Within this a guest answers what moves no data.
pub const METADATA: Duration = Duration::from_secs(5);
/// Within this it has taken or sent what was asked for at once.
pub const DATA: Duration = Duration::from_secs(20);
/// How many chunks are under way at once, all in all: what is asked next waits behind them.
const CHUNKS: usize = 64;

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The guest's own word: a code of the protocol.
    #[error("the guest says no ({0})")]
    Status(u32),
    #[error("the connection to the guest's files is gone")]
    Gone,
    #[error("the guest did not answer in time")]
    Late,
    #[error(transparent)]
    Garbled(#[from] Garbled),
}

pub type Called<T> = std::result::Result<T, Fault>;

/// What the other side can do beyond the protocol's version 3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Features {
    posix_rename: bool,
    statvfs: bool,
    fsync: bool,
    hardlink: bool,
    lsetstat: bool,
    limits: bool,
}

/// A connection; closed when dropped.
pub struct Client {
    send: mpsc::UnboundedSender<Bytes>,
    waiting: Arc<Waiting>,
    last: AtomicU32,
    chunks: Arc<Semaphore>,
    /// Bytes in one request for data, or with data.
    chunk: usize,
    features: Features,
    /// uid and gid of the guest's user.
    user: (u32, u32),
    home: Vec<u8>,
    _tasks: JoinSet<()>,
}

/// Those who wait for answers, by the number of their request; `None` when the connection is gone.
struct Waiting {
    calls: Mutex<Option<HashMap<u32, oneshot::Sender<Answer>>>>,
    heard: Mutex<Instant>,
}

/// An answer that is on its way.
pub struct Reply {
    id: u32,
    waiting: Arc<Waiting>,
    answer: oneshot::Receiver<Answer>,
}

impl Client {
    /// Greets the other side and asks what it can do, within the deadline for metadata.
    pub async fn begin(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Called<Self> {
        timeout(METADATA, Self::greet(stream)).await.unwrap_or(Err(Fault::Late))
    }

    async fn greet(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Called<Self> {
        let (mut reader, mut writer) = split(stream);
        writer.write_all(&packet::hello()).await.map_err(|_| Fault::Gone)?;
        let first = next_packet(&mut reader).await?.ok_or(Fault::Gone)?;
        let extensions = packet::version(first)?;
        let has = |name: &str| extensions.iter().any(|extension| extension == name.as_bytes());
        let features = Features {
            posix_rename: has("posix-rename@openssh.com"),
            statvfs: has("statvfs@openssh.com"),
            fsync: has("fsync@openssh.com"),
            hardlink: has("hardlink@openssh.com"),
            lsetstat: has("lsetstat@openssh.com"),
            limits: has("limits@openssh.com"),
        };
        let waiting = Arc::new(Waiting { calls: Mutex::new(Some(HashMap::new())), heard: Mutex::new(Instant::now()) });
        let (send, queue) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(write_for_ever(queue, writer, Arc::clone(&waiting)));
        tasks.spawn(read_for_ever(reader, Arc::clone(&waiting)));
        let chunks = Arc::new(Semaphore::new(CHUNKS));
        let last = AtomicU32::new(0);
        let mut client = Self {
            send,
            waiting,
            last,
            chunks,
            chunk: 32 << 10,
            features,
            user: (0, 0),
            home: Vec::new(),
            _tasks: tasks,
        };
        client.learn().await?;
        Ok(client)
    }

    pub fn is_open(&self) -> bool {
        self.waiting.calls.lock().is_some()
    }

    /// Ends the connection for all who wait for something.
    pub fn abandon(&self) {
        self.waiting.calls.lock().take();
    }

    /// Whether nothing at all was heard since then.
    pub fn is_silent_since(&self, since: Instant) -> bool {
        *self.waiting.heard.lock() < since
    }

    /// uid and gid of the user that the guest's files are reached as.
    pub fn user(&self) -> (u32, u32) {
        self.user
    }

    /// The user's home.
    pub fn home(&self) -> &[u8] {
        &self.home
    }

    /// Sends a request now; it is answered after all that were sent before it.
    fn send(&self, make: impl FnOnce(u32) -> Request) -> Called<Reply> {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let (to, answer) = oneshot::channel();
        let reply = Reply { id, waiting: Arc::clone(&self.waiting), answer };
        self.waiting.calls.lock().as_mut().ok_or(Fault::Gone)?.insert(id, to);
        self.send.send(make(id).finish()).map_err(|_| Fault::Gone)?;
        Ok(reply)
    }

    async fn call(&self, limit: Duration, make: impl FnOnce(u32) -> Request) -> Called<Answer> {
        self.send(make)?.within(limit).await
    }
}

impl Reply {
    async fn within(mut self, limit: Duration) -> Called<Answer> {
        match timeout(limit, &mut self.answer).await {
            Ok(answer) => answer.map_err(|_| Fault::Gone),
            Err(_) => Err(Fault::Late),
        }
    }

    /// The end of something that is only done or not.
    pub async fn done(self, limit: Duration) -> Called<()> {
        done(self.within(limit).await?)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(calls) = self.waiting.calls.lock().as_mut() {
            calls.remove(&self.id);
        }
    }
}

fn done(answer: Answer) -> Called<()> {
    match answer {
        Answer::Status(0) => Ok(()),
        Answer::Status(code) => Err(Fault::Status(code)),
        _ => Err(Garbled.into()),
    }
}

async fn write_for_ever(
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    mut writer: WriteHalf<impl AsyncWrite>,
    waiting: Arc<Waiting>,
) {
    while let Some(packet) = queue.recv().await {
        if writer.write_all(&packet).await.is_err() {
            break;
        }
    }
    waiting.calls.lock().take();
}

async fn read_for_ever(mut reader: ReadHalf<impl AsyncRead>, waiting: Arc<Waiting>) {
    while let Ok(Some(packet)) = next_packet(&mut reader).await {
        let Ok((id, answer)) = packet::answer(packet) else { break };
        *waiting.heard.lock() = Instant::now();
        let caller = waiting.calls.lock().as_mut().and_then(|calls| calls.remove(&id));
        if let Some(caller) = caller {
            // Who has given up since is not told.
            let _ = caller.send(answer);
        }
    }
    // All who wait are told that it is gone.
    waiting.calls.lock().take();
}

/// The next packet without its length; `None` at the end.
async fn next_packet(reader: &mut (impl AsyncRead + Unpin)) -> Called<Option<Bytes>> {
    let Ok(length) = reader.read_u32().await else { return Ok(None) };
    let length = length as usize;
    if length == 0 || length > PACKET_MAX {
        return Err(Garbled.into());
    }
    let mut packet = BytesMut::zeroed(length);
    match reader.read_exact(&mut packet).await {
        Ok(_) => Ok(Some(packet.freeze())),
        Err(_) => Ok(None),
    }
}

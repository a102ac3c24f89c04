//! Where the host finds the agent: a virtio port, vsock, or a Unix socket.

use std::cell::RefCell;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener};

use super::{Beginning, serve};
use crate::service::Agent;

/// A host has one, and a second while it renews it.
const HOSTS_MAX: usize = 64;
/// How often a virtio port that nobody has opened on the host is looked at: it cannot be waited for.
const PORT_TICK: Duration = Duration::from_millis(500);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Within this the first word of a host is there that waits for us.
const FIRST_WORD: Duration = Duration::from_millis(300);
/// GOAWAY, as RFC 9113, 6.8 has it: no stream was taken, no error.
const GOODBYE: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// More than the rest of any frame that the other agent had begun.
const GOODBYES: usize = 8 << 10;
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// As much as a virtio port takes at once.
const WRITE_MAX: usize = 32 << 10;

thread_local! {
    /// Where parts are joined that go out together.
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Its name below /dev/virtio-ports.
    Virtio(String),
    Vsock(u32),
    /// `owner`: whose the socket is, root's where none is given.
    Unix {
        path: PathBuf,
        owner: Option<u32>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Virtio(name) => write!(f, "virtio port {name}"),
            Self::Vsock(port) => write!(f, "vsock port {port}"),
            Self::Unix { path, .. } => write!(f, "{}", path.display()),
        }
    }
}

/// Serves all hosts that come, until listening fails.
pub async fn run(place: &Place, agent: Agent) -> io::Result<()> {
    match place {
        Place::Virtio(name) => virtio(&Path::new("/dev/virtio-ports").join(name), agent).await,
        Place::Vsock(port) => vsock(*port, agent).await,
        Place::Unix { path, owner } => unix(path, *owner, agent).await,
    }
}

async fn unix(path: &Path, owner: Option<u32>, agent: Agent) -> io::Result<()> {
    let listener = bind(path, owner)?;
    let mut hosts = Hosts::new(agent);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => hosts.add(stream).await,
            Err(error) => later(error).await,
        }
    }
}

/// The socket is made under another name, so that nobody meets it with other permissions than its own.
fn bind(path: &Path, owner: Option<u32>) -> io::Result<UnixListener> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    if owner.is_some() {
        chown(&new, owner, None)?;
    }
    fs::rename(&new, path)?;
    Ok(listener)
}

async fn vsock(port: u32, agent: Agent) -> io::Result<()> {
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))?;
    let mut hosts = Hosts::new(agent);
    loop {
        match listener.accept().await {
            // Anyone in the guest can connect, too, and root is needed for little of what we do.
            Ok((_, peer)) if peer.cid() != VMADDR_CID_HOST => {
                tracing::warn!("refused a connection from vsock CID {}", peer.cid());
            }
            Ok((stream, _)) => hosts.add(stream).await,
            Err(error) => later(error).await,
        }
    }
}

/// Most likely there are no descriptors left. The tunnels that have them end; they would all end with us.
async fn later(error: io::Error) {
    tracing::warn!("a host could not be accepted: {error}");
    sleep(ACCEPT_PAUSE).await;
}

/// One host at a time: the port is one stream of bytes, which says only by its end that another host begins. It stays
/// open: what a host sends to a port that nobody has open may be lost.
async fn virtio(path: &Path, agent: Agent) -> io::Result<()> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = Arc::new(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?);
    if has_host(&file)? {
        found(Port::of(&file)?, &agent).await;
    }
    loop {
        if has_host(&file)?
            && let Err(error) = serve(Port::of(&file)?, Beginning::Leftovers, agent.clone()).await
        {
            tracing::debug!("host: {error}");
        }
        sleep(PORT_TICK).await;
    }
}

/// Serves a host that was there before us: one that has begun and waits, or one that speaks with an agent which is no
/// more and does not know it yet.
async fn found<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(mut port: S, agent: &Agent) {
    let mut begun = vec![0; 1 << 10];
    let count = timeout(FIRST_WORD, port.read(&mut begun)).await.map_or(0, |read| read.unwrap_or(0));
    begun.truncate(count);
    if !begun.starts_with(b"PRI ") {
        let goodbyes = GOODBYE.repeat(GOODBYES);
        // It may be gone by now; the next one begins anew.
        let _ = timeout(GOODBYE_LIMIT, port.write_all(&goodbyes)).await;
    }
    let (read, write) = tokio::io::split(port);
    let stream = tokio::io::join(io::Cursor::new(begun).chain(read), write);
    if let Err(error) = serve(stream, Beginning::Leftovers, agent.clone()).await {
        tracing::debug!("host: {error}");
    }
}

/// Whether somebody has the port open on the host.
fn has_host(file: &fs::File) -> io::Result<bool> {
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default()))?;
    Ok(!fds[0].revents().contains(PollFlags::HUP))
}

/// The connections that are served.
struct Hosts {
    agent: Agent,
    tasks: JoinSet<()>,
}

impl Hosts {
    fn new(agent: Agent) -> Self {
        Self { agent, tasks: JoinSet::new() }
    }

    async fn add<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&mut self, stream: S) {
        while self.tasks.try_join_next().is_some() {}
        while self.tasks.len() >= HOSTS_MAX && self.tasks.join_next().await.is_some() {}
        let agent = self.agent.clone();
        self.tasks.spawn(async move {
            if let Err(error) = serve(stream, Beginning::Clean, agent).await {
                tracing::debug!("host: {error}");
            }
        });
    }
}

/// A virtio-serial port during the time of one host. Once its end was seen it is seen for good, hence each host has its
/// own.
struct Port(AsyncFd<Arc<fs::File>>);

impl Port {
    fn of(file: &Arc<fs::File>) -> io::Result<Self> {
        // SAFETY: the descriptor is the file's, which nobody closes or exchanges while it is registered.
        Ok(Self(unsafe { AsyncFd::register(Arc::clone(file)) }?))
    }
}

impl AsyncRead for Port {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let is_closed = guard.ready().is_read_closed();
            match guard.try_io(|file| Ok(rustix::io::read(file.get_ref(), buf.initialize_unfilled())?)) {
                Ok(read) => {
                    buf.advance(read?);
                    return Poll::Ready(Ok(()));
                }
                // Another host has come meanwhile; this one has read all.
                Err(_) if is_closed => return Poll::Ready(Ok(())),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            let is_closed = guard.ready().is_write_closed();
            match guard.try_io(|file| Ok(rustix::io::write(file.get_ref(), bytes)?)) {
                Ok(written) => return Poll::Ready(written),
                Err(_) if is_closed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Err(_) => {}
            }
        }
    }

    /// The kernel hands each call's bytes to the host as one buffer, and each part of a vector as one, too: heads of
    /// frames go with what follows them.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        JOINED.with_borrow_mut(|joined| {
            joined.clear();
            for part in parts {
                let room = WRITE_MAX - joined.len();
                joined.extend_from_slice(&part[..part.len().min(room)]);
            }
            self.poll_write(cx, joined)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[cfg(feature = "client")]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::client;

    const LONG: Duration = Duration::from_secs(60);

    fn agent() -> Agent {
        let (_, services) = watch::channel(Default::default());
        Agent { runtime_dir: "/".into(), sockets: crate::ports::watch::start(LONG).unwrap(), services }
    }

    #[tokio::test]
    async fn a_host_that_has_begun_before_us_is_served() {
        let (host, port) = tokio::io::duplex(1 << 20);
        let (mut client, connection) = client::connect(host).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async { drop(connection.await) });
        tasks.spawn(async move { found(port, &agent()).await });
        timeout(LONG, client.info()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_host_of_an_agent_that_died_is_told_and_may_begin_anew() {
        let (mut host, port) = tokio::io::duplex(1 << 20);
        let mut tasks = JoinSet::new();
        // In the middle of a frame.
        host.write_all(&[7; 100]).await.unwrap();
        tasks.spawn(async move { found(port, &agent()).await });
        let mut goodbyes = vec![0; GOODBYE.len() * GOODBYES];
        timeout(LONG, host.read_exact(&mut goodbyes)).await.unwrap().unwrap();
        assert_eq!(&goodbyes[..GOODBYE.len()], GOODBYE);
        let (mut client, connection) = client::connect(host).await.unwrap();
        tasks.spawn(async { drop(connection.await) });
        timeout(LONG, client.info()).await.unwrap().unwrap();
    }
}

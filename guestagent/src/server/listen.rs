//! Where the host finds the agent: a virtio port, vsock, or a Unix socket.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener};

use super::{Beginning, serve};
use crate::service::Agent;

/// A host has one, and a second while it renews it.
const HOSTS_MAX: usize = 64;
/// How often a virtio port that nobody has opened on the host is looked at: it cannot be waited for.
const PORT_TICK: Duration = Duration::from_millis(500);

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
        let (stream, _) = listener.accept().await?;
        hosts.add(stream).await;
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
        let (stream, peer) = listener.accept().await?;
        // Anyone in the guest can connect, too, and root is needed for little of what we do.
        if peer.cid() == VMADDR_CID_HOST {
            hosts.add(stream).await;
        } else {
            tracing::warn!("refused a connection from vsock CID {}", peer.cid());
        }
    }
}

/// One host at a time: the port is one stream of bytes, which says only by its end that another host begins.
async fn virtio(path: &Path, agent: Agent) -> io::Result<()> {
    loop {
        let port = Port::open(path)?;
        if port.has_host()?
            && let Err(error) = serve(port, Beginning::Leftovers, agent.clone()).await
        {
            tracing::debug!("host: {error}");
        }
        sleep(PORT_TICK).await;
    }
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

/// A virtio-serial port.
struct Port(AsyncFd<fs::File>);

impl Port {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        // SAFETY: the descriptor is the file's, which nobody closes or exchanges while it is registered.
        Ok(Self(unsafe { AsyncFd::register(file) }?))
    }

    /// Whether somebody has opened it on the host.
    fn has_host(&self) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(self.0.get_ref(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default()))?;
        Ok(!fds[0].revents().contains(PollFlags::HUP))
    }
}

impl AsyncRead for Port {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let read = guard.try_io(|file| Ok(rustix::io::read(file.get_ref(), buf.initialize_unfilled())?));
            if let Ok(read) = read {
                buf.advance(read?);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(written) = guard.try_io(|file| Ok(rustix::io::write(file.get_ref(), bytes)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

//! The guest's ssh at the host's loopback: `127.0.0.1:<sshLocalPort>`, led to the guest over vsock where its sshd
//! listens there, else over the user-mode network. Ends with us, and is there again when the VM is attached to.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use limafs_driver::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::{names, network};

/// At once; more wait.
const CONNECTIONS: usize = 64;
/// sshd speaks first. One that is asked over vsock and is not there is given up for the network.
const VSOCK_PATIENCE: Duration = Duration::from_secs(3);
const DIAL_DEADLINE: Duration = Duration::from_secs(20);
/// A port may be held for a moment by whoever led to the last VM.
const AGAIN: Duration = Duration::from_millis(200);
const BIND_DEADLINE: Duration = Duration::from_secs(5);
const BANNER_MAX: usize = 512;

pub(crate) struct Front {
    listener: TcpListener,
    dir: PathBuf,
    over_vsock: bool,
}

impl Front {
    pub(crate) async fn bind(port: u16, dir: &Path, over_vsock: bool) -> Result<Self> {
        let bind = async {
            loop {
                match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                    Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => sleep(AGAIN).await,
                    result => return result,
                }
            }
        };
        let taken = |_| Error::failed(format!("port {port}"), "is taken, the guest's ssh cannot be forwarded");
        let bound = timeout(BIND_DEADLINE, bind).await.map_err(taken)?;
        let listener = bound.map_err(|error| Error::failed(format!("port {port}"), error))?;
        Ok(Self { listener, dir: dir.to_owned(), over_vsock })
    }

    /// Serves for as long as it is polled.
    pub(crate) async fn serve(self) {
        let mut connections = JoinSet::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // Never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((client, _)) => {
                    let (dir, over_vsock) = (self.dir.clone(), self.over_vsock);
                    connections.spawn(async move {
                        lead(client, &dir, over_vsock).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, for one: others end.
                    tracing::warn!("the guest's ssh: {error}");
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

async fn lead(mut client: TcpStream, dir: &Path, over_vsock: bool) {
    match timeout(DIAL_DEADLINE, dial(dir, over_vsock)).await {
        Ok(Ok((mut guest, banner))) => {
            // Either side may go at any time; who waits for an answer sees it.
            if client.write_all(&banner).await.is_ok() {
                let _ = copy_bidirectional(&mut client, &mut guest).await;
            }
        }
        Ok(Err(error)) => tracing::debug!("the guest's ssh: {error}"),
        Err(_) => tracing::debug!("the guest's ssh does not answer"),
    }
}

/// A connection to the guest's sshd and what that has said already.
async fn dial(dir: &Path, over_vsock: bool) -> Result<(UnixStream, Vec<u8>)> {
    if over_vsock && let Ok(Some(found)) = timeout(VSOCK_PATIENCE, over(&dir.join(names::SSH_VSOCK_SOCK))).await {
        return Ok(found);
    }
    Ok((network::connect(dir, 22).await?, Vec::new()))
}

/// The socket accepts whether or not somebody listens in the guest: only a greeting proves it.
async fn over(socket: &Path) -> Option<(UnixStream, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket).await.ok()?;
    let mut banner = vec![0; BANNER_MAX];
    let count = stream.read(&mut banner).await.ok().filter(|count| *count > 0)?;
    banner.truncate(count);
    Some((stream, banner))
}

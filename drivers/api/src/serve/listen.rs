//! The socket and its connections, until the program is asked to end.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tonic::codegen::{Service, http};

use super::extra::Extra;
use super::host::Host;
use super::lima::Lima;
use crate::wire::REQUEST_MAX;
use crate::wire::proto::driver::driver_server::DriverServer;
use crate::wire::proto::extra::extra_server::{ExtraServer, SERVICE_NAME};
use crate::{Error, Result};

/// Lima's: how often an idle host is asked whether it is there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a server sees whether its socket is there.
const LOOK: Duration = Duration::from_secs(5);
const STREAMS_MAX: u32 = 256;
/// For the last answers to be taken.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A socket, and which one it is.
pub(super) struct Door {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Door {
    /// Whether a host can still find it.
    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }
}

impl Drop for Door {
    /// A socket of another server that has come in its place stays.
    fn drop(&mut self) {
        if self.is_there()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("the socket stays: {error}");
        }
    }
}

/// Listens at a path of which only the owner makes use; a socket that a dead server left is removed.
pub(super) fn bind(path: &Path) -> Result<Door> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(path)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(Error::io(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::io(path))?;
    let inode = fs::symlink_metadata(path).map_err(Error::io(path))?.ino();
    Ok(Door { listener, path: path.into(), inode })
}

/// Serves until SIGINT or SIGTERM and then until there is no call and no VM any more. With `patience`, ends as well
/// when nobody has connected for so long; and when its socket is gone: Lima's host loses sight of servers.
pub(super) async fn serve(door: Door, host: Host, patience: Option<Duration>) -> Result<()> {
    let signals = |kind| signal(kind).map_err(|error| Error::failed("signals", error));
    let (mut interrupt, mut terminate) = (signals(SignalKind::interrupt())?, signals(SignalKind::terminate())?);
    let (end, ending) = watch::channel(false);
    let (mut connections, mut busy) = (JoinSet::new(), host.watch_busy());
    let begun = Instant::now();
    let (mut alone, mut asked) = (patience.map(|patience| begun + patience), false);
    let mut look = interval(LOOK);
    loop {
        // Cancel-safe: signals, a listener, a JoinSet, a watch, timers.
        tokio::select! {
            _ = interrupt.recv() => asked = true,
            _ = terminate.recv() => asked = true,
            // Until then hosts are still accepted: one of them has to stop the VM.
            _ = busy.wait_for(|count| *count == 0), if asked => break,
            _ = look.tick() => asked |= !door.is_there(),
            accepted = door.listener.accept() => match accepted {
                Ok((stream, _)) => {
                    alone = None;
                    connections.spawn(connection(stream, host.clone(), ending.clone()));
                }
                // Out of descriptors: later there may be some.
                Err(error) => {
                    tracing::warn!("a connection was lost: {error}");
                    sleep(LAST_WORDS).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = sleep_until(alone.unwrap_or(begun)), if alone.is_some() => break,
        }
    }
    tracing::info!("the server ends");
    drop(door);
    end.send_replace(true);
    // Those that do not end by then have nothing to be told.
    let _ = timeout(LAST_WORDS, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// One host. Those that look whether a server is there close it at once.
async fn connection(stream: UnixStream, host: Host, mut ending: watch::Receiver<bool>) {
    let lima = DriverServer::new(Lima(host.clone())).max_decoding_message_size(REQUEST_MAX);
    let extra = ExtraServer::new(Extra(host.clone())).max_decoding_message_size(REQUEST_MAX);
    let answer = service_fn(move |request: http::Request<Incoming>| {
        let is_extra = request.uri().path().trim_start_matches('/').starts_with(SERVICE_NAME);
        let (mut lima, mut extra, busy) = (lima.clone(), extra.clone(), host.busy());
        async move {
            let answered = if is_extra { extra.call(request).await } else { lima.call(request).await };
            drop(busy);
            Ok::<_, Infallible>(answered.unwrap_or_else(|never| match never {}))
        }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(served);
    // Cancel-safe: a watch; the other arm goes on below.
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        _ = ending.wait_for(|ending| *ending) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection: {error}");
    }
}

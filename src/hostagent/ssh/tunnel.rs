//! Streams through a session: to addresses and sockets of the guest, and from sockets of the guest to us.
//! The guest opens none that was not asked for.
//!
//! russh gives a channel's window back as data comes, not as it is read: a reader that stops holds up the whole
//! session. Whoever reads a stream either always reads, or uses a session of its own for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use russh::ChannelStream;
use russh::client::Msg;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Fault, Session, unreachable};

pub type Stream = ChannelStream<Msg>;

/// Streams that the guest has opened and nobody has taken yet; more are refused.
const CALLERS: usize = 64;

/// Who takes the streams of which socket of the guest.
pub type Takers = Arc<Mutex<HashMap<String, mpsc::Sender<Stream>>>>;

impl Session {
    /// Connects to a TCP address, as the guest sees it.
    pub async fn dial_tcp(&self, address: SocketAddr, limit: Duration) -> Result<Stream, Fault> {
        let (host, port) = (address.ip().to_string(), u32::from(address.port()));
        let opening = self.handle.channel_open_direct_tcpip(host, port, "127.0.0.1", 0);
        match timeout(limit, opening).await {
            Ok(opened) => Ok(opened.map_err(unreachable)?.into_stream()),
            Err(_) => Err(Fault::Slow(limit)),
        }
    }

    /// Connects to a socket of the guest.
    pub async fn dial_socket(&self, path: &str, limit: Duration) -> Result<Stream, Fault> {
        match timeout(limit, self.handle.channel_open_direct_streamlocal(path)).await {
            Ok(opened) => Ok(opened.map_err(unreachable)?.into_stream()),
            Err(_) => Err(Fault::Slow(limit)),
        }
    }

    /// Has the guest's sshd listen on a socket, which must not be there yet, for as long as the session lasts.
    pub async fn listen(&self, path: &str, limit: Duration) -> Result<mpsc::Receiver<Stream>, Fault> {
        let (taker, streams) = mpsc::channel(CALLERS);
        self.takers.lock().insert(path.to_owned(), taker);
        let result = match timeout(limit, self.handle.streamlocal_forward(path)).await {
            Ok(result) => result.map_err(unreachable),
            Err(_) => Err(Fault::Slow(limit)),
        };
        if result.is_err() {
            self.takers.lock().remove(path);
        }
        result.map(|()| streams)
    }
}

//! UDP: one tunnel for each peer of the host, one message for each datagram.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use limafs_guestagent::client::Client;
use limafs_guestagent::proto::TunnelMessage;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::agent::Heard;
use super::post::Way;
use super::rules::Proto;
use super::tunnel::{self, greeting};

/// Of one socket.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A peer that says and hears nothing for so long is forgotten.
    pub idle: Duration,
    /// Beyond these a new peer takes the place of the one that has been silent longest: whoever asks a name server once,
    /// each time from another port, needs no answer any more.
    pub peers: usize,
}

/// The time is Lima's.
pub const LIMITS: Limits = Limits { idle: Duration::from_secs(90), peers: 1024 };
/// Datagrams of a peer that wait for the agent; more are lost, as on any network.
const WAITING: usize = 256;
const DATAGRAM_MAX: usize = 65535;

/// Serves a socket until it fails. The guest's address may change meanwhile.
pub async fn serve(
    socket: UdpSocket,
    way: watch::Receiver<Way>,
    heard: watch::Receiver<Heard>,
    limits: Limits,
) -> io::Error {
    let socket = Arc::new(socket);
    let mut peers: HashMap<SocketAddr, Heeded> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let (length, peer) = tokio::select! {       // cancel-safe: a socket and a JoinSet
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An answer to what was sent to a peer that is gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return error,
            },
            Some(ended) = tasks.join_next() => {
                // Its place may be another's by now.
                if let Ok(peer) = ended
                    && peers.get(&peer).is_some_and(|heeded| heeded.to.is_closed())
                {
                    peers.remove(&peer);
                }
                continue;
            }
        };
        let datagram = buffer[..length].to_vec();
        if let Some(heeded) = peers.get_mut(&peer).filter(|heeded| !heeded.to.is_closed()) {
            heeded.last = Instant::now();
            // Full: lost, as on any network.
            let _ = heeded.to.try_send(datagram);
            continue;
        }
        let (Some(client), Way::Agent(guest)) = (heard.borrow().client.clone(), way.borrow().clone()) else { continue };
        if length == 0 {
            continue;
        }
        if peers.len() >= limits.peers {
            let oldest = peers.iter().min_by_key(|(_, heeded)| heeded.last).map(|(peer, _)| *peer);
            oldest.and_then(|oldest| peers.remove(&oldest));
        }
        let (to, datagrams) = mpsc::channel(WAITING);
        // It is empty yet.
        let _ = to.try_send(datagram);
        peers.insert(peer, Heeded { to, last: Instant::now() });
        let talk = Peer { client, guest, socket: Arc::clone(&socket), address: peer, idle: limits.idle };
        tasks.spawn(talk.carry(datagrams));
    }
}

/// A peer as the socket's reader knows it; without it the peer is forgotten.
struct Heeded {
    to: mpsc::Sender<Vec<u8>>,
    last: Instant,
}

struct Peer {
    client: Client,
    guest: SocketAddr,
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    idle: Duration,
}

impl Peer {
    /// Carries datagrams both ways until none has come for long. Returns the peer.
    async fn carry(self, mut datagrams: mpsc::Receiver<Vec<u8>>) -> SocketAddr {
        let greeting = greeting(Proto::Udp, self.guest);
        let (messages_to, messages) = mpsc::channel::<TunnelMessage>(WAITING);
        // There is room for the first.
        let _ = messages_to.try_send(greeting.clone());
        let messages = stream::unfold(messages, |mut messages| async { Some((messages.recv().await?, messages)) });
        let mut replies = tunnel::open(self.client, messages);
        let mut last = Instant::now();
        loop {
            tokio::select! {        // cancel-safe: channels, a stream and a clock
                data = datagrams.recv() => {
                    let Some(data) = data else { return self.address };
                    // As above.
                    let _ = messages_to.try_send(TunnelMessage { data, ..greeting.clone() });
                }
                reply = replies.next() => match reply {
                    Some(Ok(message)) if message.data.is_empty() => continue,
                    // A peer that is gone hears nothing; it will be idle.
                    Some(Ok(message)) => drop(self.socket.send_to(&message.data, self.address).await),
                    Some(Err(_)) | None => return self.address,
                },
                () = sleep_until(last + self.idle) => return self.address,
            }
            last = Instant::now();
        }
    }
}

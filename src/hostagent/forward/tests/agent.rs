//! A pretend agent behind a real socket: says what it is told to, and dials what it is asked for, as Lima's does.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use limafs_guestagent::proto::guest_service_server::{GuestService, GuestServiceServer};
use limafs_guestagent::proto::{Event, Info, Inotify, IpPort, TimeSyncRequest, TimeSyncResponse, TunnelMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::codegen::Service;
use tonic::{Request, Response, Status, Streaming};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
pub struct Said {
    pub connections: AtomicUsize,
    pub syncs: AtomicUsize,
    /// Milliseconds until the guest's clock is set.
    pub sync_takes: AtomicU64,
    pub tunnels: AtomicUsize,
    pub udp_ended: AtomicUsize,
    /// It says when the guest's side alone is done, as an agent of ours does.
    pub knows_halves: AtomicBool,
}

pub struct FakeAgent {
    pub said: Arc<Said>,
    ports: watch::Sender<Vec<IpPort>>,
    _serving: JoinSet<()>,
}

impl FakeAgent {
    pub fn start(path: &Path, ports: Vec<IpPort>) -> Self {
        // One that was there before is gone.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let (ports, look) = watch::channel(ports);
        let said = Arc::new(Said::default());
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Pretence { said: Arc::clone(&said), ports: look }));
        Self { said, ports, _serving: serving }
    }

    pub fn listens(&self, ports: Vec<IpPort>) {
        self.ports.send_replace(ports);
    }
}

pub fn port(protocol: &str, address: SocketAddr) -> IpPort {
    IpPort { protocol: protocol.into(), ip: address.ip().to_string(), port: address.port().into() }
}

async fn serve(listener: UnixListener, service: Pretence) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        service.said.connections.fetch_add(1, Ordering::SeqCst);
        let server = GuestServiceServer::new(service.clone());
        let answer = hyper::service::service_fn(move |request| server.clone().call(request));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), answer);
        connections.spawn(async move { drop(connection.await) });
    }
}

#[derive(Clone)]
struct Pretence {
    said: Arc<Said>,
    ports: watch::Receiver<Vec<IpPort>>,
}

#[tonic::async_trait]
impl GuestService for Pretence {
    type GetEventsStream = Streamed<Event>;
    type TunnelStream = Streamed<TunnelMessage>;

    async fn get_info(&self, _: Request<()>) -> Result<Response<Info>, Status> {
        Ok(Response::new(Info { local_ports: self.ports.borrow().clone() }))
    }

    /// As Lima's: differences only.
    async fn get_events(&self, _: Request<()>) -> Result<Response<Self::GetEventsStream>, Status> {
        let known = self.ports.borrow().clone();
        let events = stream::unfold((self.ports.clone(), known), |(mut ports, known)| async move {
            ports.changed().await.ok()?;
            let now = ports.borrow_and_update().clone();
            let less = |from: &[IpPort], what: &[IpPort]| from.iter().filter(|p| !what.contains(p)).cloned().collect();
            let event = Event {
                added_local_ports: less(&now, &known),
                removed_local_ports: less(&known, &now),
                ..Event::default()
            };
            Some((Ok(event), (ports, now)))
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn post_inotify(&self, _: Request<Streaming<Inotify>>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn tunnel(&self, request: Request<Streaming<TunnelMessage>>) -> Result<Response<Self::TunnelStream>, Status> {
        self.said.tunnels.fetch_add(1, Ordering::SeqCst);
        let mut messages = request.into_inner();
        let greeting = messages.message().await?.ok_or_else(|| Status::unknown("no greeting"))?;
        assert!(greeting.data.is_empty(), "the first message has no data");
        let (replies, out) = mpsc::channel(1);
        match greeting.protocol.as_str() {
            "tcp" => {
                let stream = TcpStream::connect(&greeting.guest_addr).await.map_err(unknown)?;
                let halves = self.said.knows_halves.load(Ordering::SeqCst);
                tokio::spawn(tcp(stream, messages, replies, halves));
            }
            _ => {
                let socket = UdpSocket::bind("127.0.0.1:0").await.map_err(unknown)?;
                socket.connect(&greeting.guest_addr).await.map_err(unknown)?;
                let said = Arc::clone(&self.said);
                tokio::spawn(async move {
                    udp(socket, messages, replies).await;
                    said.udp_ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        }
        Ok(Response::new(Box::pin(stream::unfold(out, |mut out| async { Some((out.recv().await?, out)) }))))
    }

    async fn sync_time(&self, _: Request<TimeSyncRequest>) -> Result<Response<TimeSyncResponse>, Status> {
        tokio::time::sleep(Duration::from_millis(self.said.sync_takes.load(Ordering::SeqCst))).await;
        self.said.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(TimeSyncResponse::default()))
    }
}

type Replies = mpsc::Sender<Result<TunnelMessage, Status>>;

fn unknown(error: io::Error) -> Status {
    Status::unknown(error.to_string())
}

/// A reply with an address that nobody must dial.
fn reply(data: &[u8]) -> Result<TunnelMessage, Status> {
    Ok(TunnelMessage { data: data.to_vec(), guest_addr: "127.0.0.1:1".into(), ..TunnelMessage::default() })
}

async fn tcp(stream: TcpStream, mut messages: Streaming<TunnelMessage>, replies: Replies, halves: bool) {
    let (mut read, mut write) = stream.into_split();
    let to_guest = async move {
        while let Ok(Some(message)) = messages.message().await {
            if write.write_all(&message.data).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let end = TunnelMessage { protocol: "end".into(), ..TunnelMessage::default() };
    let to_host = async move {
        let mut buffer = vec![0; 32 << 10];
        loop {
            let (reply, is_last) = match read.read(&mut buffer).await {
                Ok(0) if halves => (Ok(end.clone()), true),
                Ok(0) => return None,
                Ok(length) => (reply(&buffer[..length]), false),
                Err(error) => (Err(unknown(error)), true),
            };
            let goes_on = reply.is_ok();
            replies.send(reply).await.ok()?;
            if is_last {
                return goes_on.then_some(replies);
            }
        }
    };
    // Dropped with the last of the two where the guest may still listen.
    let (_replies, ()) = tokio::join!(to_host, to_guest);
}

async fn udp(socket: UdpSocket, mut messages: Streaming<TunnelMessage>, replies: Replies) {
    let mut buffer = vec![0; 65535];
    loop {
        tokio::select! {
            message = messages.message() => match message {
                Ok(Some(message)) => drop(socket.send(&message.data).await),
                _ => return,
            },
            received = socket.recv(&mut buffer) => {
                let Ok(length) = received else { continue };
                if replies.send(reply(&buffer[..length])).await.is_err() {
                    return;
                }
            }
        }
    }
}

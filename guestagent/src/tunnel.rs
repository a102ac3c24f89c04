//! Tunnel: one connection or one UDP peer in the guest for each stream.
//!
//! The end of the host's messages closes the socket for writing alone; answers go on until the guest's side ends, and
//! messages beyond that where the host understands it. Each direction holds at most one piece of data of its own: what is
//! not taken is not read.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::proto::TunnelMessage;
use crate::{END, memory};

const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// A TCP read; the size of Lima's messages.
const PIECE: usize = 32 << 10;
const DATAGRAM_MAX: usize = 64 << 10;

thread_local! {
    /// Where data is read to before its size is known: idle streams have no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; DATAGRAM_MAX]);
}

type Answers = mpsc::Sender<Result<TunnelMessage, Status>>;

/// Dials what the first message says, and returns what the guest's side sends. Ends with everything when the host
/// drops the stream. `halves`: the host can be told that the guest has said all and still listens.
pub async fn open(
    mut messages: Streaming<TunnelMessage>,
    halves: bool,
) -> Result<impl Stream<Item = Result<TunnelMessage, Status>> + Send + 'static, Status> {
    let first = messages.message().await?.ok_or_else(|| Status::invalid_argument("the tunnel has no first message"))?;
    let socket = dial(&first.protocol, &first.guest_addr).await?;
    tracing::debug!("tunnel {:?}: {} {}", first.id, first.protocol, first.guest_addr);
    let (answers, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        let _open = memory::Carried;
        let gone = answers.clone();
        tokio::select! {
            result = run(socket, first, messages, &answers, halves) => if let Err(status) = result {
                // The host hears it, or is gone itself.
                answers.send(Err(status)).await.ok();
            },
            // Also ends a write that waits for a guest which does not read.
            () = gone.closed() => {}
        }
    });
    Ok(tokio_stream::wrappers::ReceiverStream::new(stream))
}

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

async fn dial(protocol: &str, address: &str) -> Result<Socket, Status> {
    let failed = |why: String| Status::unknown(format!("dial {protocol} {address}: {why}"));
    let address = parse(address).ok_or_else(|| failed("is no IP address with a port".into()))?;
    let dialled = match protocol {
        "tcp" => timeout(DIAL_LIMIT, tcp(address)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        "udp" => udp(address),
        _ => return Err(failed("unknown protocol".into())),
    };
    dialled.map_err(|error| failed(error.to_string()))
}

/// Names are not looked up: a program without shared libraries cannot do it as the guest would.
fn parse(address: &str) -> Option<SocketAddr> {
    match address.strip_prefix("localhost:") {
        Some(port) => Some((IpAddr::from(Ipv4Addr::LOCALHOST), port.parse().ok()?).into()),
        None => address.parse().ok(),
    }
}

async fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Socket::Tcp(stream))
}

/// Connected without bind(2), so that no list of unconnected sockets ever has it.
fn udp(address: SocketAddr) -> io::Result<Socket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    rustix::net::connect(&socket, &address)?;
    Ok(Socket::Udp(UdpSocket::from_std(socket.into())?))
}

async fn run(
    socket: Socket,
    first: TunnelMessage,
    mut messages: Streaming<TunnelMessage>,
    answers: &Answers,
    halves: bool,
) -> Result<(), Status> {
    let TunnelMessage { id, data, .. } = first;
    match socket {
        Socket::Tcp(stream) => {
            let (reader, mut writer) = stream.into_split();
            writer.write_all(&data).await?;
            let (from, to) = (from_tcp(reader, &id, answers), to_tcp(&mut messages, writer));
            tokio::pin!(from, to);
            tokio::select! {
                said = &mut from => said?,
                heard = &mut to => {
                    heard?;
                    return from.await;
                }
            }
            // The end of the answers ends the call, and the messages with it.
            if halves && answers.send(Ok(end(&id))).await.is_ok() {
                to.await?;
            }
            Ok(())
        }
        Socket::Udp(socket) => {
            let socket = Arc::new(socket);
            if !data.is_empty() {
                socket.send(&data).await?;
            }
            tokio::select! {
                result = from_udp(&socket, &id, answers) => result,
                result = to_udp(messages, &socket) => result,
            }
        }
    }
}

/// Ends with the host's last message, or when the socket takes no more; answers may still be on their way.
async fn to_tcp(messages: &mut Streaming<TunnelMessage>, mut writer: OwnedWriteHalf) -> Result<(), Status> {
    while let Some(message) = messages.message().await? {
        if writer.write_all(&message.data).await.is_err() {
            return Ok(());
        }
    }
    // A socket that cannot be shut down is closed already.
    writer.shutdown().await.ok();
    Ok(())
}

async fn from_tcp(reader: OwnedReadHalf, id: &str, answers: &Answers) -> Result<(), Status> {
    loop {
        let room = answers.reserve().await.map_err(|_| Status::cancelled("the host is gone"))?;
        reader.readable().await?;
        match SCRATCH
            .with_borrow_mut(|buffer| reader.try_read(&mut buffer[..PIECE]).map(|count| buffer[..count].to_vec()))
        {
            Ok(data) if data.is_empty() => return Ok(()),
            Ok(data) => room.send(Ok(answer(id, data))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn to_udp(mut messages: Streaming<TunnelMessage>, socket: &UdpSocket) -> Result<(), Status> {
    while let Some(message) = messages.message().await? {
        if !message.data.is_empty() {
            socket.send(&message.data).await?;
        }
    }
    Ok(())
}

async fn from_udp(socket: &UdpSocket, id: &str, answers: &Answers) -> Result<(), Status> {
    loop {
        let room = answers.reserve().await.map_err(|_| Status::cancelled("the host is gone"))?;
        socket.ready(Interest::READABLE).await?;
        match SCRATCH.with_borrow_mut(|buffer| socket.try_recv(buffer).map(|count| buffer[..count].to_vec())) {
            Ok(data) => room.send(Ok(answer(id, data))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn end(id: &str) -> TunnelMessage {
    TunnelMessage { id: id.to_owned(), protocol: END.into(), ..TunnelMessage::default() }
}

fn answer(id: &str, data: Vec<u8>) -> TunnelMessage {
    TunnelMessage { id: id.to_owned(), data, ..TunnelMessage::default() }
}

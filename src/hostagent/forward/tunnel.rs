//! A connection of the host carried by the guest agent: one Tunnel stream. Ends are carried one by one, as far as the
//! agent can; each side waits for the other, never for a third. What broke off does not look like an end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use limafs_guestagent::client::{Client, dial, is_end};
use limafs_guestagent::memory::Carried;
use limafs_guestagent::proto::TunnelMessage;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Socket;
use super::rules::Proto;

/// As much as Lima's agents send at once.
const CHUNK: usize = 32 << 10;

pub type Replies = BoxStream<'static, Result<TunnelMessage, Status>>;

/// What every message of a tunnel says. The address is ours: what the guest says of one is not looked at.
pub fn greeting(proto: Proto, guest: SocketAddr) -> TunnelMessage {
    dial(&format!("{}-{guest}", proto.word()), proto.word(), &guest.to_string())
}

/// Opens a tunnel. An agent may answer only when the guest has something to say.
pub fn open(mut client: Client, messages: impl stream::Stream<Item = TunnelMessage> + Send + 'static) -> Replies {
    let opening = async move { client.tunnel(messages).await };
    stream::once(opening).try_flatten().boxed()
}

/// Carries one connection until both sides are done, or one is gone.
pub async fn carry(client: Client, guest: SocketAddr, socket: Socket) {
    let _carried = Carried;
    match socket {
        Either::Left(tcp) => {
            let (read, write) = tcp.into_split();
            if let Err(Torn(write)) = between(client, guest, read, write).await {
                // A socket that cannot be told is closed already.
                let _ = write.as_ref().set_zero_linger();
                // Without the orderly end that dropping it would be.
                write.forget();
            }
        }
        // Such a socket knows no other end than an orderly one.
        Either::Right(unix) => {
            let (read, write) = unix.into_split();
            drop(between(client, guest, read, write).await);
        }
    }
}

/// The guest's side broke off: the host's is to be, too.
struct Torn<W>(W);

async fn between<R, W>(client: Client, guest: SocketAddr, read: R, mut write: W) -> Result<(), Torn<W>>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin,
{
    let over = CancellationToken::new();
    let _over_when_dropped = over.clone().drop_guard();
    let (end_to, mut end) = oneshot::channel();
    let mut replies = open(client, messages(read, greeting(Proto::Tcp, guest), over, end_to));
    let mut reading = true;
    loop {
        let reply = tokio::select! {        // cancel-safe: a stream and a oneshot
            reply = replies.next() => reply,
            end = &mut end, if reading => match end {
                Ok(Broken) => return Ok(()),
                Err(_) => {
                    reading = false;
                    continue;
                }
            },
        };
        match reply {
            Some(Ok(message)) => {
                let taken = match is_end(&message) {
                    true => write.shutdown().await,
                    false => write.write_all(&message.data).await,
                };
                if taken.is_err() {
                    return Ok(());
                }
            }
            Some(Err(status)) => {
                tracing::debug!("tunnel to {guest}: {:?}", status.code());
                return Err(Torn(write));
            }
            None => break,
        }
    }
    // The guest has said all; an agent that takes no more ends the messages too.
    if write.shutdown().await.is_ok() && reading {
        // Whichever way it ends, that was all.
        let _ = end.await;
    }
    Ok(())
}

/// The host's side is gone without a word.
struct Broken;

struct Reader<R> {
    socket: R,
    greeting: TunnelMessage,
    greeted: bool,
    over: CancellationToken,
    /// Dropped at the end; used when it is no good one.
    end: Option<oneshot::Sender<Broken>>,
}

/// What the host sends, as messages; ends with its end.
fn messages<R: AsyncRead + Unpin + Send>(
    socket: R,
    greeting: TunnelMessage,
    over: CancellationToken,
    end: oneshot::Sender<Broken>,
) -> impl stream::Stream<Item = TunnelMessage> + Send {
    let reader = Reader { socket, greeting, greeted: false, over, end: Some(end) };
    stream::unfold(reader, |mut reader| async move {
        if !std::mem::replace(&mut reader.greeted, true) {
            return Some((reader.greeting.clone(), reader));
        }
        let over = reader.over.clone();
        let chunk = tokio::select! {        // cancel-safe: what was not read is still there
            chunk = Chunk(&mut reader.socket) => chunk,
            () = over.cancelled() => return None,
        };
        match chunk {
            Ok(data) if data.is_empty() => None,
            Ok(data) => Some((TunnelMessage { data, ..reader.greeting.clone() }, reader)),
            Err(_) => {
                // Nobody waits any more: it has ended already.
                let _ = reader.end.take().map(|end| end.send(Broken));
                reader.over.cancelled().await;
                None
            }
        }
    })
}

/// Reads what is there; holds no buffer while there is nothing.
struct Chunk<'a, R>(&'a mut R);

impl<R: AsyncRead + Unpin> Future for Chunk<'_, R> {
    type Output = io::Result<Vec<u8>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Self::Output> {
        let mut space = [const { std::mem::MaybeUninit::uninit() }; CHUNK];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *self.0).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().to_vec()))
    }
}

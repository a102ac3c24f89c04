//! The host's side: calls to an agent over one stream of bytes, whatever carries it. Opens no connection itself,
//! and the caller runs [`Connection`]. Sends no pings: Lima's own agent ends connections that do.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::Stream;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::guest_service_client::GuestServiceClient;
use crate::proto::{Event, Info, Inotify, TimeSyncRequest, TimeSyncResponse, TunnelMessage};
use crate::{END, HALVES};

/// What one stream may have sent that nobody has read yet.
const STREAM_WINDOW: u32 = 128 << 10;
/// The same for all streams together, and so the most that a guest can make us keep.
const CONNECTION_WINDOW: u32 = 16 << 20;
const SEND_BUFFER: usize = 64 << 10;
/// A message of a tunnel is one frame.
const FRAME: u32 = 64 << 10;
/// Beyond any message that an agent has to send; all that listens in a guest fits.
const MESSAGE_MAX: usize = 1 << 20;

/// Calls to one agent; clones share the connection. A call that the caller drops is cancelled in the guest.
#[derive(Debug, Clone)]
pub struct Client {
    service: GuestServiceClient<Sender>,
}

/// Does the work of a connection: to be awaited beside the calls. Ends when the connection does, or when the last
/// [`Client`] and its streams are gone.
pub type Connection = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

/// Begins to speak with an agent. Nothing says yet that there is one: [`Client::info`] does. The caller has a deadline.
pub async fn connect<S>(stream: S) -> Result<(Client, Connection), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_frame_size(FRAME)
        .handshake(TokioIo::new(stream))
        .await?;
    let origin = http::Uri::from_static("http://lima-guestagent");
    let service = GuestServiceClient::with_origin(Sender(sender), origin).max_decoding_message_size(MESSAGE_MAX);
    Ok((Client { service }, Box::pin(connection)))
}

impl Client {
    /// What listens now.
    pub async fn info(&mut self) -> Result<Info, Status> {
        Ok(self.service.get_info(()).await?.into_inner())
    }

    /// First what changed since an earlier stream ended, then each change. Only one stream at a time: they share what
    /// is remembered between them.
    pub async fn events(&mut self) -> Result<Streaming<Event>, Status> {
        Ok(self.service.get_events(()).await?.into_inner())
    }

    /// Opens a tunnel. The first message says what to dial and has no data (see [`dial`]); the end of `messages` closes
    /// the guest's connection for writing alone, and an answer that [`is_end`] is the same of the guest's. Fails with the
    /// guest's reason where it cannot dial.
    /// Lima's own agent begins to answer with the first data from the guest: messages have to go on while this waits.
    pub async fn tunnel<M>(&mut self, messages: M) -> Result<Streaming<TunnelMessage>, Status>
    where
        M: Stream<Item = TunnelMessage> + Send + 'static,
    {
        let mut request = Request::new(messages);
        request.metadata_mut().insert(HALVES, MetadataValue::from_static("1"));
        Ok(self.service.tunnel(request).await?.into_inner())
    }

    /// Tells of files that changed on the host, until `changes` ends.
    pub async fn post_inotify<M>(&mut self, changes: M) -> Result<(), Status>
    where
        M: Stream<Item = Inotify> + Send + 'static,
    {
        self.service.post_inotify(changes).await.map(Response::into_inner)
    }

    /// Sets the guest's clock if it is more than 100 ms off.
    pub async fn sync_time(&mut self, host_time: SystemTime) -> Result<TimeSyncResponse, Status> {
        let request = TimeSyncRequest { host_time: Some(host_time.into()) };
        Ok(self.service.sync_time(request).await?.into_inner())
    }
}

/// Whether an answer says that the guest has said all while it may still listen: the end of the answers ends the whole
/// tunnel. Only agents of ours say so, and only to hosts that asked for it.
pub fn is_end(answer: &TunnelMessage) -> bool {
    answer.protocol == END && answer.data.is_empty()
}

/// The first message of a tunnel. `protocol` is `tcp` or `udp`, `address` an IP address and a port as the guest sees
/// them; `id` is for the guest's log.
pub fn dial(id: &str, protocol: &str, address: &str) -> TunnelMessage {
    TunnelMessage { id: id.into(), protocol: protocol.into(), guest_addr: address.into(), ..Default::default() }
}

/// hyper's sender as the service that the generated client calls.
#[derive(Debug, Clone)]
struct Sender(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

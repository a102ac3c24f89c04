//! gRPC over any stream of bytes: HTTP/2 without TLS, as the guest agent speaks it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use limafs_guestagent::proto::guest_service_client::GuestServiceClient;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response, Uri};

/// What one stream may have on the way to us: a connection that nobody reads holds no more memory than this.
const STREAM_WINDOW: u32 = 256 << 10;
/// What all streams may: so many idle readers have to come together before one holds up another.
const CONNECTION_WINDOW: u32 = 64 << 20;
const SEND_BUFFER: usize = 128 << 10;
const FRAME: u32 = 32 << 10;
/// Beyond any message of a tunnel, and below what a guest could hurt with.
const MESSAGE_MAX: usize = 1 << 20;
const HANDSHAKE: Duration = Duration::from_secs(10);

pub type Client = GuestServiceClient<Http2>;

/// One connection; cheap to clone.
#[derive(Clone)]
pub struct Http2(SendRequest<Body>);

impl Service<Request<Body>> for Http2 {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A client, and the connection, which is to be polled until it ends.
pub async fn connect(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(Client, impl Future<Output = hyper::Result<()>> + Send), String> {
    // hyper spawns a task for each request that has a body; it ends with the request or the connection.
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buf_size(SEND_BUFFER);
    let handshake = timeout(HANDSHAKE, builder.handshake(TokioIo::new(stream))).await;
    let (sender, connection) = handshake.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
    let client = GuestServiceClient::with_origin(Http2(sender), Uri::from_static("http://guest"));
    Ok((client.max_decoding_message_size(MESSAGE_MAX), connection))
}

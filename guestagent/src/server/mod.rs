//! Serves the service on streams of bytes, whatever carries them.

mod authority;
mod filtered;
pub mod listen;

use std::convert::Infallible;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::{Service, http};

use crate::proto::guest_service_server::GuestServiceServer;
use crate::service::Agent;
use authority::Filter;
use filtered::Filtered;

/// Tunnels of one host, and what else it calls.
const STREAMS_MAX: u32 = 4096;
/// What one stream may have sent that the guest has not taken.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all streams together: 256 streams that are stuck leave the others free.
const CONNECTION_WINDOW: u32 = 64 << 20;
const SEND_BUFFER: usize = 64 << 10;
const HEADERS_MAX: u32 = 16 << 10;

/// What a stream of bytes begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// A host that has just connected.
    Clean,
    /// Perhaps with what an earlier host left.
    Leftovers,
}

/// Serves one host until it or the connection ends.
pub async fn serve<S>(stream: S, beginning: Beginning, agent: Agent) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let filter = match beginning {
        Beginning::Clean => Filter::new(),
        Beginning::Leftovers => Filter::resynchronizing(),
    };
    let service = GuestServiceServer::new(agent);
    let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let answered = service.clone().call(request);
        async { Ok::<_, Infallible>(answered.await.unwrap_or_else(|never| match never {})) }
    });
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS_MAX)
        .serve_connection(TokioIo::new(Filtered::new(stream, filter)), answer)
        .await
}

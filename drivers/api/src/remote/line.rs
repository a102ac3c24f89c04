//! A connection to a driver's server. Opens it, and gives each call its deadline.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Response, Status};

use super::server::Server;
use crate::wire::proto::driver::driver_client::DriverClient;
use crate::wire::proto::extra::extra_client::ExtraClient;
use crate::wire::{ANSWER_MAX, status};
use crate::{Error, Result};

/// Lima's, for a socket that is there.
const CONNECT: Duration = Duration::from_secs(2);
/// For what a driver has to answer at once; Lima waits 10 s.
pub(super) const SHORT: Duration = Duration::from_secs(9);
/// While a driver works for longer, it is asked so often whether it is there.
const ASK_AGAIN: Duration = Duration::from_secs(3);
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Calls to one server; clones share the connection.
#[derive(Clone)]
pub(super) struct Line {
    pub name: Arc<str>,
    pub lima: DriverClient<Sender>,
    /// Where the driver has it.
    pub extra: Option<ExtraClient<Sender>>,
    pub server: Arc<Server>,
    sender: Sender,
    _connection: Arc<JoinSet<()>>,
}

/// Connects to a socket.
pub(super) async fn connect(socket: &Path) -> io::Result<UnixStream> {
    timeout(CONNECT, UnixStream::connect(socket)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Line {
    /// Begins to speak with a server. One that speaks something else is killed: it serves nobody, and would be found
    /// again.
    pub(super) async fn open(name: Arc<str>, stream: UnixStream, server: Server) -> Result<Self> {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let late = |_| Error::Timeout { what: format!("driver {name}"), seconds: CONNECT.as_secs() };
        let opened = timeout(CONNECT, handshake).await.map_err(late);
        let opened = opened.and_then(|opened| opened.map_err(|error| Error::failed(format!("driver {name}"), error)));
        let (sender, connection) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                server.kill().await;
                return Err(error);
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("connection to a driver: {error}");
            }
        });
        let sender = Sender(sender);
        let lima = DriverClient::with_origin(sender.clone(), origin()).max_decoding_message_size(ANSWER_MAX);
        let (server, connection) = (Arc::new(server), Arc::new(tasks));
        Ok(Self { name, lima, extra: None, server, sender, _connection: connection })
    }

    /// Uses our service from here on.
    pub(super) fn with_extra(mut self) -> Self {
        let extra = ExtraClient::with_origin(self.sender.clone(), origin());
        self.extra = Some(extra.max_decoding_message_size(ANSWER_MAX));
        self
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.0.is_closed() || !self.server.process.is_alive()
    }

    /// An answer to `operation` that has to come soon.
    pub(super) async fn short<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        self.within(SHORT, operation, call).await
    }

    pub(super) async fn within<T>(
        &self,
        deadline: Duration,
        operation: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        match timeout(deadline, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.error(&status, operation)),
            Err(_) => Err(self.late(operation, deadline)),
        }
    }

    /// An answer to work that may take up to `deadline`, of a driver that answers other calls meanwhile.
    pub(super) async fn long<T>(
        &self,
        deadline: Duration,
        operation: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        // Cancel-safe: when the driver is silent its answer is no longer waited for.
        tokio::select! {
            answer = self.within(deadline, operation, call) => answer,
            error = self.silence(operation) => Err(error),
        }
    }

    async fn silence(&self, operation: &'static str) -> Error {
        loop {
            sleep(ASK_AGAIN).await;
            if timeout(SILENCE_MAX, self.lima.clone().info(())).await.is_err() {
                return self.late(operation, ASK_AGAIN + SILENCE_MAX);
            }
        }
    }

    fn late(&self, operation: &str, deadline: Duration) -> Error {
        let what = format!("{operation}: the answer of driver {}", self.name);
        Error::Timeout { what, seconds: deadline.as_secs() }
    }

    pub(super) fn error(&self, status: &Status, operation: &'static str) -> Error {
        if self.is_closed() {
            return Error::failed(format!("driver {}", self.name), format!("went away when asked to {operation}"));
        }
        status::error(status, &self.name, operation)
    }
}

fn origin() -> http::Uri {
    http::Uri::from_static("http://localhost")
}

/// hyper's sender as the service that the generated clients call.
#[derive(Clone)]
pub(super) struct Sender(http2::SendRequest<Body>);

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

//! A host as Lima's, by hand: what it sends is what Lima's sends.

use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use limafs_driver::proto::driver::driver_client::DriverClient;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use crate::bench::{Bench, until};

/// A server that was started as Lima 2.2 does; killed when dropped.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    pub async fn start(bench: &Bench) -> Self {
        let mut command = Command::new(&bench.program);
        command.arg("-inst-dir").arg(bench.instance_dir()).stdout(Stdio::piped()).stderr(Stdio::null());
        let server = Self(command.spawn().unwrap());
        // Lima's host looks so: connects and closes, without a word.
        let socket = bench.instance_dir().join("fake.drv.sock");
        until(|| std::os::unix::net::UnixStream::connect(&socket).is_ok(), "the socket").await;
        server
    }

    pub fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

pub async fn connect(socket: &Path) -> DriverClient<Sender> {
    connect_until(socket).await.0
}

/// With the socket, for a host that is killed: it is shut down.
pub async fn connect_until(socket: &Path) -> (DriverClient<Sender>, std::os::unix::net::UnixStream) {
    let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.set_nonblocking(true).unwrap();
    let end = stream.try_clone().unwrap();
    let stream = UnixStream::from_std(stream).unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    (DriverClient::with_origin(Sender(sender), http::Uri::from_static("http://localhost")), end)
}

#[derive(Clone)]
pub struct Sender(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

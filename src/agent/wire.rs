//! HTTP over ha.sock, the client's side: one connection, one exchange after the other.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::http::request;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::refused;
use crate::error::{Error, Result};
use crate::names;

/// An answer, or a line of a stream, beyond this is a fault.
const ANSWER_MAX: usize = 1 << 20;

/// A connection to a hostagent; closed when dropped.
pub struct Line {
    sender: SendRequest<Full<Bytes>>,
    /// hyper's half of the connection.
    connection: JoinSet<()>,
}

impl Line {
    pub async fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(names::HA_SOCK);
        let stream = UnixStream::connect(&path).await.map_err(|source| match source.kind() {
            // Reset: it died with the connection in its queue.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                Error::HostDown { what: dir.file_name().unwrap_or_default().to_string_lossy().into_owned() }
            }
            _ => Error::io(&path)(source),
        })?;
        let (sender, driving) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let mut connection = JoinSet::new();
        connection.spawn(async {
            // Its end is seen by whoever waits for an answer.
            let _ = driving.with_upgrades().await;
        });
        Ok(Self { sender, connection })
    }

    pub async fn get(&mut self, path: &str) -> Result<(StatusCode, Bytes)> {
        self.get_up_to(path, ANSWER_MAX).await
    }

    /// The same for what may be larger, or must be smaller.
    pub async fn get_up_to(&mut self, path: &str, most: usize) -> Result<(StatusCode, Bytes)> {
        whole(self.send(Method::GET, path, Bytes::new()).await?, most).await
    }

    pub async fn post(&mut self, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
        whole(self.send(Method::POST, path, body.into()).await?, ANSWER_MAX).await
    }

    /// The lines of an answer that grows; `None` where the other side knows no such path.
    pub async fn stream(&mut self, path: &str) -> Result<Option<Lines>> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        match response.status() {
            StatusCode::OK => Ok(Some(Lines { body: response.into_body(), read: VecDeque::new(), rest: Vec::new() })),
            StatusCode::NOT_FOUND => Ok(None),
            code => Err(Error::failed(names::HA_SOCK, format!("it answered {code}"))),
        }
    }

    /// Turns the connection into one of another protocol.
    pub async fn upgrade(mut self, path: &str, protocol: &'static str) -> Result<TokioIo<Upgraded>> {
        let request = Request::builder().uri(path).header(CONNECTION, "upgrade").header(UPGRADE, protocol);
        let response = self.exchange(request, Bytes::new()).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return hyper::upgrade::on(response).await.map(TokioIo::new).map_err(failed);
        }
        let (code, body) = whole(response, ANSWER_MAX).await?;
        match code {
            // An older hostagent, or Lima's.
            StatusCode::NOT_FOUND => Err(Error::unsupported(path, "this instance's hostagent does not know it")),
            code => Err(refused(code, &body)),
        }
    }

    /// Comes back when the other side has closed the connection.
    pub async fn closed(&mut self) {
        self.connection.join_next().await;
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        self.exchange(Request::builder().method(method).uri(path), body).await
    }

    async fn exchange(&mut self, request: request::Builder, body: Bytes) -> Result<Response<Incoming>> {
        let request = request.header(HOST, "lima-hostagent").body(Full::new(body));
        let request = request.map_err(|error| Error::failed(names::HA_SOCK, error))?;
        self.sender.send_request(request).await.map_err(failed)
    }
}

/// Lines of a growing answer.
pub struct Lines {
    body: Incoming,
    read: VecDeque<Vec<u8>>,
    rest: Vec<u8>,
}

impl Lines {
    /// The next whole line, or `None` at the end. Cancel-safe: what was read is kept.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(line) = self.read.pop_front() {
                return Ok(Some(line));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let Ok(bytes) = frame.map_err(failed)?.into_data() else { continue };
            self.rest.extend_from_slice(&bytes);
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).collect();
                self.read.push_back(line);
            }
            if self.rest.len() > ANSWER_MAX {
                return Err(Error::TooBig { what: names::HA_SOCK.into(), limit: ANSWER_MAX });
            }
        }
    }
}

async fn whole(response: Response<Incoming>, most: usize) -> Result<(StatusCode, Bytes)> {
    let code = response.status();
    let body = Limited::new(response.into_body(), most).collect().await;
    Ok((code, body.map_err(|error| Error::failed(names::HA_SOCK, error))?.to_bytes()))
}

/// A hostagent that dies in the middle of an answer is as gone as one that was never there.
fn failed(error: hyper::Error) -> Error {
    let gone = error.is_canceled() || error.is_closed() || error.is_incomplete_message() || is_io(&error);
    if gone { Error::HostDown { what: "the hostagent".into() } } else { Error::failed(names::HA_SOCK, error) }
}

fn is_io(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<io::Error>())
}

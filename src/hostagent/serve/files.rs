//! `GET /v1/sftp`: joins a connection with the sftp subsystem of the guest, over the ssh session that all share. Looks
//! at none of the bytes that pass.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, BufReader, copy_buf, split};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::super::line::Line;
use super::super::ssh::{Fault, Stream};
use super::{Body, json, refuse};

/// So many channels at once; sshd itself lets ten be open in a session, and others need some, too.
const CHANNELS_MAX: usize = 4;
/// Within this a guest that is well begins a subsystem.
const OPEN: Duration = Duration::from_secs(4);
const BUFFER: usize = 256 << 10;
const PROTOCOL: HeaderValue = HeaderValue::from_static("sftp");

/// What it takes to reach the guest's files.
#[derive(Clone)]
pub struct Files {
    line: watch::Receiver<Option<Arc<Line>>>,
    free: Arc<Semaphore>,
}

/// A connection that is about to become a channel's.
pub struct Joint {
    connection: OnUpgrade,
    channel: Stream,
    _place: OwnedSemaphorePermit,
}

impl Files {
    pub fn new(line: watch::Receiver<Option<Arc<Line>>>) -> Self {
        Self { line, free: Arc::new(Semaphore::new(CHANNELS_MAX)) }
    }

    /// `POST /v1/jobs`: there is something new among the jobs on disk.
    pub fn nudge(&self) -> Response<Body> {
        match &*self.line.borrow() {
            Some(line) => {
                line.nudged.notify_one();
                json(StatusCode::ACCEPTED, &serde_json::Map::new())
            }
            None => refuse(StatusCode::SERVICE_UNAVAILABLE, "there is no guest".into(), libc::EHOSTDOWN),
        }
    }

    /// Answers with a change of protocol, and leaves the joint to whoever serves the connection.
    pub async fn join(&self, mut request: hyper::Request<Incoming>, joint: &mpsc::Sender<Joint>) -> Response<Body> {
        if request.headers().get(UPGRADE) != Some(&PROTOCOL) {
            return refuse(StatusCode::UPGRADE_REQUIRED, "/v1/sftp takes Upgrade: sftp".into(), libc::EINVAL);
        }
        let line = self.line.borrow().clone();
        let Some(session) = line.and_then(|line| line.current()) else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the guest is not reached".into(), libc::EHOSTDOWN);
        };
        let Ok(place) = Arc::clone(&self.free).try_acquire_owned() else {
            return refuse(StatusCode::TOO_MANY_REQUESTS, "too many sftp connections".into(), libc::EBUSY);
        };
        let channel = match session.subsystem("sftp", OPEN).await {
            Ok(channel) => channel,
            Err(Fault::Slow(_)) => {
                return refuse(StatusCode::GATEWAY_TIMEOUT, "the guest does not answer".into(), libc::ETIMEDOUT);
            }
            Err(fault) => return refuse(StatusCode::BAD_GATEWAY, fault.to_string(), libc::EHOSTDOWN),
        };
        let connection = hyper::upgrade::on(&mut request);
        if joint.try_send(Joint { connection, channel, _place: place }).is_err() {
            return refuse(StatusCode::CONFLICT, "this connection is taken".into(), libc::EBUSY);
        }
        switching()
    }
}

impl Joint {
    /// Passes bytes both ways until either side ends: a guest that hangs must not keep what nobody uses any more.
    pub async fn last(self) {
        let connection = match self.connection.await {
            Ok(connection) => TokioIo::new(connection),
            Err(error) => return tracing::debug!("sftp: {error}"),
        };
        let (mount_reads, mut mount_writes) = split(connection);
        let (guest_reads, mut guest_writes) = split(self.channel);
        let (mut asked, mut answered) = (buffered(mount_reads), buffered(guest_reads));
        let ended = tokio::select! {            // both arms end it
            ended = copy_buf(&mut asked, &mut guest_writes) => ended,
            ended = copy_buf(&mut answered, &mut mount_writes) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!("sftp: {error}");
        }
    }
}

fn buffered<R: AsyncRead>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(BUFFER, reader)
}

fn switching() -> Response<Body> {
    let mut response = Response::new(Empty::<Bytes>::new().boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, PROTOCOL);
    response
}

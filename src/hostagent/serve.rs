//! ha.sock: HTTP/1.1 for Lima's tools (`/v1/info`) and for the mount (status, events, commands). Reads what the actor
//! publishes and sends it requests; a slow reader costs itself only.

mod files;
#[cfg(test)]
mod tests;
mod wishes;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::actor::Request;
use super::line::Line;
use super::wishes::Wish;
use crate::error::{Error, Result};
use crate::status::{Command, Refusal, Status};
use files::{Files, Joint};
use wishes::Drivers;

const BODY_MAX: usize = 4096;
const CONNECTIONS_MAX: usize = 128;
const HEADERS: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(3);

type Body = BoxBody<Bytes, Infallible>;

/// What the answers are made of.
#[derive(Clone)]
pub struct Sources {
    status: watch::Receiver<Status>,
    events: broadcast::Sender<Arc<str>>,
    requests: mpsc::Sender<Request>,
    files: Files,
    drivers: Drivers,
}

impl Sources {
    pub fn new(
        status: watch::Receiver<Status>,
        events: broadcast::Sender<Arc<str>>,
        requests: mpsc::Sender<Request>,
        line: watch::Receiver<Option<Arc<Line>>>,
        drivers: Drivers,
    ) -> Self {
        Self { status, events, requests, files: Files::new(line), drivers }
    }
}

/// Listens at `path`, for the owner only; what an earlier hostagent left there is removed.
pub fn listen(path: &Path) -> Result<UnixListener> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::io(path)(source)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(Error::io(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::io(path))?;
    Ok(listener)
}

/// Serves until `end`, then lets each connection finish what it sends, for at most a second.
pub async fn serve(listener: UnixListener, sources: Sources, mut end: oneshot::Receiver<()>) {
    let (closing, closed) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        // Every arm is cancel-safe: a listener, a JoinSet and a channel.
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, sources.clone(), closed.clone()));
                }
                // Out of descriptors, most likely: others must close some first.
                Err(error) => {
                    tracing::warn!("ha.sock: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = &mut end => break,
        }
    }
    // `Sources` holds a sender of events; a follower's stream of them ends with the last one.
    drop(sources);
    closing.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    // Readers that are slower than that miss the end.
    let _ = timeout(Duration::from_secs(1), all).await;
}

async fn converse(stream: UnixStream, sources: Sources, mut closing: watch::Receiver<bool>) {
    // At most one request of a connection turns it into something else.
    let (joint_to, mut joint) = mpsc::channel(1);
    let service = {
        let closing = closing.clone();
        service_fn(move |request| {
            let (sources, closing, joint_to) = (sources.clone(), closing.clone(), joint_to.clone());
            async move { Ok::<_, Infallible>(respond(request, sources, closing, joint_to).await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = last_call(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("ha.sock: {error}");
    }
    if let Ok(joint) = joint.try_recv() {
        tokio::select! {                        // both arms end it
            () = Joint::last(joint) => {}
            () = last_call(&mut closing) => {}
        }
    }
}

async fn respond(
    request: hyper::Request<Incoming>,
    sources: Sources,
    closing: watch::Receiver<bool>,
    joint: mpsc::Sender<Joint>,
) -> Response<Body> {
    let follow = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "follow=1"));
    let wanted = match request.uri().path() {
        "/v1/info" | "/v1/status" | "/v1/events" | "/v1/sftp" | "/v1/screenshot" | "/v1/memory" => Method::GET,
        "/v1/command" | "/v1/jobs" | "/v1/snapshots" | "/v1/resize" => Method::POST,
        path => return refuse(StatusCode::NOT_FOUND, format!("{path} does not exist"), libc::ENOENT),
    };
    if request.method() != wanted {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, format!("only {wanted} is allowed"), libc::EINVAL);
        let allowed = if wanted == Method::GET { "GET" } else { "POST" };
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static(allowed));
        return response;
    }
    match request.uri().path() {
        "/v1/info" => info(&sources),
        "/v1/status" if follow => follow_status(sources.status),
        "/v1/status" => json(StatusCode::OK, &*sources.status.borrow()),
        "/v1/events" => follow_events(sources.events.subscribe(), closing),
        "/v1/jobs" => sources.files.nudge(),
        "/v1/screenshot" => wishes::screenshot(request.uri().query(), sources.drivers).await,
        "/v1/memory" => wishes::memory(sources.drivers).await,
        "/v1/snapshots" => wishes::wish(request, sources.requests, Wish::Snapshot).await,
        "/v1/resize" => wishes::wish(request, sources.requests, Wish::Resize).await,
        "/v1/sftp" => sources.files.join(request, &joint).await,
        _ => command(request, sources.requests).await,
    }
}

/// Lima's own answer.
fn info(sources: &Sources) -> Response<Body> {
    match sources.status.borrow().ssh_local_port {
        0 => json(StatusCode::OK, &json!({})),
        port => json(StatusCode::OK, &json!({ "sshLocalPort": port })),
    }
}

/// The status now and after each change, a line each; a slow reader gets the latest only. Ends with the actor.
fn follow_status(mut status: watch::Receiver<Status>) -> Response<Body> {
    status.mark_changed();
    let lines = stream::unfold(status, |mut status| async move {
        status.changed().await.ok()?;
        let line = to_line(&*status.borrow_and_update());
        Some((line, status))
    });
    streamed(lines)
}

/// Events from now on, a line each; a reader that is too slow is told how many it missed.
fn follow_events(events: broadcast::Receiver<Arc<str>>, closing: watch::Receiver<bool>) -> Response<Body> {
    let lines = stream::unfold((events, closing), |(mut events, mut closing)| async move {
        let line = tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok(line) => Bytes::from(format!("{line}\n")),
                Err(broadcast::error::RecvError::Lagged(missed)) => to_line(&json!({ "missed": missed })),
                Err(broadcast::error::RecvError::Closed) => return None,
            },
            () = last_call(&mut closing) => return None,
        };
        Some((line, (events, closing)))
    });
    streamed(lines)
}

async fn command(request: hyper::Request<Incoming>, requests: mpsc::Sender<Request>) -> Response<Body> {
    let body = match timeout(ANSWER, Limited::new(request.into_body(), BODY_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return refuse(StatusCode::BAD_REQUEST, error.to_string(), libc::EINVAL),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come".into(), libc::ETIMEDOUT),
    };
    let verb = match serde_json::from_slice::<Command>(&body) {
        Ok(command) => command.verb,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string(), libc::EINVAL),
    };
    let (answer, answered) = oneshot::channel();
    let asked = async {
        requests.send(Request::Verb { verb, answer }).await.ok()?;
        answered.await.ok()
    };
    match timeout(ANSWER, asked).await {
        Ok(Some(Ok(status))) => json(StatusCode::ACCEPTED, &status),
        Ok(Some(Err(refusal))) => json(StatusCode::CONFLICT, &refusal),
        Ok(None) => refuse(StatusCode::CONFLICT, "the hostagent is exiting".into(), libc::EHOSTDOWN),
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the hostagent is busy".into(), libc::ETIMEDOUT),
    }
}

async fn last_call(closing: &mut watch::Receiver<bool>) {
    // A server that is gone is closing as well.
    let _ = closing.wait_for(|closing| *closing).await;
}

fn refuse(code: StatusCode, message: String, errno: i32) -> Response<Body> {
    json(code, &Refusal { message, errno })
}

fn json(code: StatusCode, value: &impl Serialize) -> Response<Body> {
    answer(code, "application/json", Full::new(to_line(value)).boxed())
}

fn streamed(lines: impl stream::Stream<Item = Bytes> + Send + Sync + 'static) -> Response<Body> {
    let frames = lines.map(|line| Ok(Frame::data(line)));
    answer(StatusCode::OK, "application/x-ndjson", BodyExt::boxed(StreamBody::new(frames)))
}

fn answer(code: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn to_line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("maps with string keys and finite numbers have a JSON form");
    line.push(b'\n');
    line.into()
}

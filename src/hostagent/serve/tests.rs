//! What ha.sock answers, byte by byte where it matters.

use std::path::PathBuf;

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::hostagent::ssh::tests::connect;
use crate::hostagent::ssh::tests::guest::{Guest, Manners};
use crate::status::{Goal, State, Verb};

const PATIENCE: Duration = Duration::from_secs(30);

struct Served {
    path: PathBuf,
    status: watch::Sender<Status>,
    events: broadcast::Sender<Arc<str>>,
    requests: mpsc::Receiver<Request>,
    line: watch::Sender<Option<Arc<Line>>>,
    end: oneshot::Sender<()>,
    server: JoinSet<()>,
    _temp: TempDir,
}

fn status(port: u16) -> Status {
    Status {
        name: "foo".into(),
        revision: 1,
        state: State::Running,
        goal: Goal::Running,
        since: Timestamp::UNIX_EPOCH,
        step: None,
        step_since: None,
        ready: true,
        driver: "qemu".into(),
        accelerator: None,
        ssh_address: "127.0.0.1".into(),
        ssh_local_port: port,
        hostagent_pid: 1,
        driver_pid: None,
        guest: true,
        forwards: vec![],
        errors: vec![],
    }
}

fn served() -> Served {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("ha.sock");
    let listener = listen(&path).unwrap();
    let (status, watched) = watch::channel(status(60022));
    let (events, _) = broadcast::channel(4);
    let (requests_to, requests) = mpsc::channel(4);
    let (end, ended) = oneshot::channel();
    let line = watch::Sender::new(None);
    let sources = Sources::new(watched, events.clone(), requests_to, line.subscribe(), watch::channel(None).1);
    let mut server = JoinSet::new();
    server.spawn(serve(listener, sources, ended));
    Served { path, status, events, requests, line, end, server, _temp: temp }
}

impl Served {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    /// The first line and the body of the answer to a request that closes the connection.
    async fn ask(&self, request: &str, body: &str) -> (String, String) {
        let mut stream = self.connect().await;
        let length = body.len();
        let head =
            format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }
}

#[tokio::test]
async fn lima_is_told_the_port_once_there_is_one() {
    let served = served();
    assert_eq!(served.ask("GET /v1/info", "").await.1, "{\"sshLocalPort\":60022}\n");
    served.status.send_replace(status(0));
    assert_eq!(served.ask("GET /v1/info", "").await.1, "{}\n");
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_named() {
    let served = served();
    let (code, body) = served.ask("GET /v1/nothing", "").await;
    assert_eq!(code, "HTTP/1.1 404 Not Found");
    assert!(body.contains("/v1/nothing does not exist"));
    assert_eq!(served.ask("POST /v1/info", "").await.0, "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(served.ask("GET /v1/command", "").await.0, "HTTP/1.1 405 Method Not Allowed");
}

#[tokio::test]
async fn the_display_of_nothing_and_formats_that_are_none_are_refused() {
    let served = served();
    let (code, body) = served.ask("GET /v1/screenshot?format=png", "").await;
    assert_eq!(code, "HTTP/1.1 409 Conflict");
    assert!(body.contains("the VM is not running"), "{body}");
    assert_eq!(served.ask("GET /v1/screenshot?format=gif", "").await.0, "HTTP/1.1 400 Bad Request");
    assert_eq!(served.ask("POST /v1/screenshot", "").await.0, "HTTP/1.1 405 Method Not Allowed");
}

#[tokio::test]
async fn a_wish_is_answered_when_it_is_done() {
    let mut served = served();
    let mut requests = std::mem::replace(&mut served.requests, mpsc::channel(1).1);
    let mut actor = JoinSet::new();
    actor.spawn(async move {
        let Some(Request::Wish { wish: Wish::Snapshot(order), answer }) = requests.recv().await else { panic!() };
        assert_eq!(order.tag, "a");
        answer.send(Err(Refusal { message: "no room".into(), errno: libc::ENOSPC })).unwrap();
    });
    let (code, body) = served.ask("POST /v1/snapshots", r#"{"what": "create", "tag": "a"}"#).await;
    assert_eq!((code.as_str(), body.contains("no room")), ("HTTP/1.1 409 Conflict", true));
    assert_eq!(served.ask("POST /v1/resize", r#"{"cpus": "many"}"#).await.0, "HTTP/1.1 400 Bad Request");
}

#[tokio::test]
async fn a_command_reaches_the_actor_and_its_answer_comes_back() {
    let mut served = served();
    let mut requests = std::mem::replace(&mut served.requests, mpsc::channel(1).1);
    let mut actor = JoinSet::new();
    actor.spawn(async move {
        for answer in [Ok(Box::new(status(60022))), Err(Refusal { message: "no".into(), errno: libc::EBUSY })] {
            let Some(Request::Verb { verb: Verb::Stop, answer: to }) = requests.recv().await else { panic!() };
            to.send(answer).unwrap();
        }
    });
    let body = "{\"verb\":\"stop\"}";
    let (head, answer) = served.ask("POST /v1/command", body).await;
    assert_eq!(head, "HTTP/1.1 202 Accepted");
    assert_eq!(serde_json::from_str::<Status>(&answer).unwrap(), status(60022));
    let refused = served.ask("POST /v1/command", body).await;
    assert_eq!(refused, ("HTTP/1.1 409 Conflict".into(), "{\"message\":\"no\",\"errno\":16}\n".into()));
}

#[tokio::test]
async fn a_body_that_is_no_command_or_too_large_is_refused() {
    let served = served();
    for body in ["", "{}", "{\"verb\":\"strat\"}", &"x".repeat(BODY_MAX + 1)] {
        assert_eq!(served.ask("POST /v1/command", body).await.0, "HTTP/1.1 400 Bad Request");
    }
}

#[tokio::test]
async fn a_follower_that_does_not_read_holds_up_nobody_and_gets_the_latest() {
    let served = served();
    let mut slow = served.connect().await;
    slow.write_all(b"GET /v1/status?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let text = "x".repeat(10_000);
    for port in 1..=1000 {
        served.status.send_replace(Status { errors: vec![text.clone()], ..status(port) });
        tokio::task::yield_now().await;
    }
    assert_eq!(served.ask("GET /v1/info", "").await.1, "{\"sshLocalPort\":1000}\n");
    let Served { status, end, mut server, .. } = served;
    drop(status);
    end.send(()).unwrap();
    let mut all = Vec::new();
    slow.read_to_end(&mut all).await.unwrap();
    server.join_next().await;
    let all = String::from_utf8_lossy(&all);
    assert!(all.contains("\"sshLocalPort\":1000,") && all.ends_with("0\r\n\r\n"));
    assert!(all.matches("sshLocalPort").count() < 1000);
}

#[tokio::test]
async fn events_come_as_they_happen_and_end_with_the_last() {
    let served = served();
    let mut stream = served.connect().await;
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut head = vec![0; 4096];
    let read = stream.read(&mut head).await.unwrap();
    assert!(String::from_utf8_lossy(&head[..read]).starts_with("HTTP/1.1 200 OK"));
    served.events.send("{\"n\":1}".into()).unwrap();
    served.events.send("{\"n\":2}".into()).unwrap();
    let Served { events, end, .. } = served;
    drop(events);
    end.send(()).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("{\"n\":1}\n") && rest.contains("{\"n\":2}\n") && rest.ends_with("0\r\n\r\n"), "{rest}");
}

const UPGRADE: &[u8] = b"GET /v1/sftp HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: sftp\r\n\r\n";

/// The head of the answer to a request for the guest's files, and the connection.
async fn upgraded(served: &Served) -> (String, UnixStream) {
    let mut stream = served.connect().await;
    stream.write_all(UPGRADE).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

async fn with_guest(served: &Served) -> (Guest, Arc<Line>) {
    let guest = Guest::start(Manners::default()).await;
    let login = guest.login().await;
    let line = Arc::new(Line::new(login.clone()));
    line.offer(connect(&login, PATIENCE).await.unwrap());
    served.line.send_replace(Some(Arc::clone(&line)));
    (guest, line)
}

#[tokio::test]
async fn without_a_session_there_are_no_files() {
    let served = served();
    for line in [None, Some(Arc::new(Line::new(Guest::start(Manners::default()).await.login().await)))] {
        served.line.send_replace(line);
        let mut stream = served.connect().await;
        stream.write_all(UPGRADE).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains(&format!("\"errno\":{}", libc::EHOSTDOWN)), "{answer}");
    }
    assert_eq!(served.ask("GET /v1/sftp", "").await.0, "HTTP/1.1 426 Upgrade Required");
}

#[tokio::test]
async fn a_connection_becomes_a_channel_to_the_guest() {
    let served = served();
    let (_guest, line) = with_guest(&served).await;
    let (head, mut stream) = upgraded(&served).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let (mut reads, mut writes) = stream.split();
    let mut back = vec![0; sent.len()];
    let both = async { tokio::join!(writes.write_all(&sent), reads.read_exact(&mut back)) };
    let (wrote, read) = timeout(PATIENCE, both).await.unwrap();
    wrote.unwrap();
    read.unwrap();
    assert!(back == sent);
    line.current().unwrap().shut();
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn channels_are_few_and_given_back() {
    let served = served();
    let (_guest, _line) = with_guest(&served).await;
    let mut open = Vec::new();
    let refused = loop {
        let (head, stream) = upgraded(&served).await;
        match head.starts_with("HTTP/1.1 101") {
            true => open.push(stream),
            false => break head,
        }
    };
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(!open.is_empty() && open.len() < 10);
    open.pop();
    let again = async { while !upgraded(&served).await.0.starts_with("HTTP/1.1 101") {} };
    timeout(PATIENCE, again).await.unwrap();
}

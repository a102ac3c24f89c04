//! What ha.sock answers, byte by byte where it matters.

use std::path::PathBuf;

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::status::{Goal, State, Verb};

struct Served {
    path: PathBuf,
    status: watch::Sender<Status>,
    events: broadcast::Sender<Arc<str>>,
    requests: mpsc::Receiver<Request>,
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
    let sources = Sources { status: watched, events: events.clone(), requests: requests_to };
    let mut server = JoinSet::new();
    server.spawn(serve(listener, sources, ended));
    Served { path, status, events, requests, end, server, _temp: temp }
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

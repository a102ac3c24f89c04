//! The mount's side against pretend hostagents: Lima's, rude ones, and processes that are no hostagents at all.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::process::Command as Process;
use tokio::task::JoinSet;

use super::*;
use crate::names::Name;

struct Home {
    dir: PathBuf,
    _temp: TempDir,
    _server: JoinSet<()>,
}

fn home() -> Home {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("foo");
    std::fs::create_dir(&dir).unwrap();
    Home { dir, _temp: temp, _server: JoinSet::new() }
}

/// A server that answers one request of each connection: for `path` as told, for all others with 404.
fn with_answer(path: &'static str, code: &'static str, body: &'static str) -> Home {
    let mut home = home();
    let listener = UnixListener::bind(home.dir.join(names::HA_SOCK)).unwrap();
    home._server.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let (code, body) = match request.split(' ').nth(1) {
                Some(asked) if asked == path => (code, body),
                _ => ("404 Not Found", "{}"),
            };
            let answer = format!("HTTP/1.1 {code}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    home
}

fn script(text: &str, home: &Home) -> Process {
    let path = home.dir.join("hostagent.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = Process::new("/bin/sh");
    command.arg(path);
    command
}

async fn launch(text: &str, home: &Home) -> Result<u32> {
    launch::launch(script(text, home), &Name::parse("foo").unwrap(), &home.dir, false).await
}

#[tokio::test]
async fn without_a_socket_the_host_is_down() {
    let home = home();
    let error = status(&home.dir).await.unwrap_err();
    assert_eq!(error.errno(), libc::EHOSTDOWN);
    assert_eq!(error.to_string(), "foo: not running");
}

#[tokio::test]
async fn a_stale_socket_is_no_hostagent() {
    let home = home();
    drop(UnixListener::bind(home.dir.join(names::HA_SOCK)).unwrap());
    assert_eq!(command(&home.dir, Verb::Stop).await.unwrap_err().errno(), libc::EHOSTDOWN);
}

#[tokio::test]
async fn limas_hostagent_is_foreign_and_then_gone() {
    let home = with_answer("/v1/info", "200 OK", "{\"sshLocalPort\":60022}");
    let (tx, mut heard) = mpsc::channel(8);
    follow(&home.dir, tx).await;
    assert_eq!(heard.recv().await, Some(Heard::Foreign { ssh_local_port: 60022 }));
    assert_eq!(heard.recv().await, Some(Heard::Gone));
}

#[tokio::test]
async fn an_answer_that_is_no_status_ends_the_following() {
    let home = with_answer("/v1/status?follow=1", "200 OK", "{}\n");
    let (tx, mut heard) = mpsc::channel(8);
    follow(&home.dir, tx).await;
    assert_eq!(heard.recv().await, Some(Heard::Gone));
}

#[tokio::test]
async fn a_refusal_keeps_its_errno_and_sentence() {
    let home = with_answer("/v1/command", "409 Conflict", "{\"message\":\"foo: not now\",\"errno\":16}");
    let error = command(&home.dir, Verb::Pause).await.unwrap_err();
    assert_eq!((error.errno(), error.to_string().as_str()), (libc::EBUSY, "foo: not now"));
}

#[tokio::test]
async fn a_hostagent_that_ends_at_once_is_quoted() {
    let home = home();
    let error = launch("echo 'one' >&2; echo 'there is no qemu' >&2; exit 3", &home).await.unwrap_err();
    assert_eq!(error.to_string(), "the hostagent of foo: it ended with exit status: 3: one; there is no qemu");
}

#[tokio::test]
async fn a_hostagent_that_has_nothing_to_do_is_no_error_and_is_reaped() {
    let home = home();
    let pid = launch("exit 0", &home).await.unwrap();
    let stat = PathBuf::from(format!("/proc/{pid}/stat"));
    let reaped = async {
        while stat.exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), reaped).await.unwrap();
}

#[tokio::test]
async fn its_logs_are_new_and_its_standard_input_is_empty() {
    let home = home();
    std::fs::write(home.dir.join(names::HA_STDOUT_LOG), "old").unwrap();
    launch("cat; pwd; exit 0", &home).await.unwrap();
    assert_eq!(std::fs::read_to_string(home.dir.join(names::HA_STDOUT_LOG)).unwrap(), "/\n");
}

#[tokio::test]
async fn nothing_open_in_the_mount_is_open_in_a_hostagent() {
    let home = home();
    let file = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    launch("ls -l /proc/self/fd | grep -c /dev/null; exit 0", &home).await.unwrap();
    drop(file);
    // Its standard input only.
    assert_eq!(std::fs::read_to_string(home.dir.join(names::HA_STDOUT_LOG)).unwrap(), "1\n");
}

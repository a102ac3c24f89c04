//! The mount's side of a hostagent: starts one, asks it, follows it, commands it. Knows nothing of how it works;
//! keeps nothing.

mod launch;
pub mod link;
mod wire;

#[cfg(test)]
mod tests;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;
use limafs_driver::Memory;
use rustix::process::{Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub use launch::{at_rest, close_on_exec, last_words, remove_elsewhere, spawn};

use crate::error::{Error, Result};
use crate::names;
use crate::status::{Command, Refusal, Resize, SnapshotOrder, Status, Verb};
use wire::Line;

/// Within this a hostagent answers.
const ANSWER: Duration = Duration::from_secs(3);

/// Within this a hostagent has asked its driver and its guest.
const PICTURE: Duration = Duration::from_secs(7);
const PICTURE_MAX: usize = 256 << 20;

/// What a followed hostagent says.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Status(Box<Status>),
    /// Lima's own hostagent, which tells no state.
    Foreign {
        ssh_local_port: u16,
    },
    /// It is not there, or not any more.
    Gone,
}

/// Lima's answer to `GET /v1/info`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Info {
    ssh_local_port: u16,
}

/// Asks for the status of the instance in `dir`. `HostDown` when there is no hostagent.
pub async fn status(dir: &Path) -> Result<Status> {
    within_deadline(async {
        let mut line = Line::open(dir).await?;
        let (code, body) = line.get("/v1/status").await?;
        match code {
            StatusCode::OK => parse(&body),
            _ => Err(refused(code, &body)),
        }
    })
    .await
}

/// Sends a verb; comes back when it is accepted, with the status that it has led to, or refused.
pub async fn command(dir: &Path, verb: Verb) -> Result<Status> {
    within_deadline(async {
        let body = serde_json::to_vec(&Command { verb }).map_err(|error| Error::failed("a command", error))?;
        let mut line = Line::open(dir).await?;
        let (code, answer) = line.post("/v1/command", body).await?;
        if code.is_success() { parse(&answer) } else { Err(refused(code, &answer)) }
    })
    .await
}

/// Has a snapshot taken, removed or gone back to; comes back when that is done, with the status that it has led to.
/// However long it takes: whoever has waited enough drops this, and it goes on.
pub async fn order_snapshot(dir: &Path, order: &SnapshotOrder) -> Result<Status> {
    let mut line = within_deadline(Line::open(dir)).await?;
    wish(&mut line, "/v1/snapshots", order).await
}

/// Gives a running VM another size, if it can be done at once.
pub async fn resize(dir: &Path, size: &Resize) -> Result<Status> {
    within_deadline(async { wish(&mut Line::open(dir).await?, "/v1/resize", size).await }).await
}

async fn wish(line: &mut Line, path: &str, what: &impl Serialize) -> Result<Status> {
    let body = serde_json::to_vec(what).map_err(|error| Error::failed("an order", error))?;
    let (code, answer) = line.post(path, body).await?;
    if code.is_success() { parse(&answer) } else { Err(refused(code, &answer)) }
}

/// The display as it is now: a PNG file's bytes.
pub async fn screenshot(dir: &Path) -> Result<Vec<u8>> {
    let late = |_| Error::Timeout { what: "the display".into(), seconds: PICTURE.as_secs() };
    let (code, body) = timeout(PICTURE, get(dir, "/v1/screenshot?format=png", PICTURE_MAX)).await.map_err(late)??;
    if code == StatusCode::OK { Ok(body.into()) } else { Err(refused(code, &body)) }
}

/// What the guest makes of its memory.
pub async fn memory(dir: &Path) -> Result<Memory> {
    let late = |_| Error::Timeout { what: "the guest's memory".into(), seconds: PICTURE.as_secs() };
    let (code, body) = timeout(PICTURE, get(dir, "/v1/memory", 4096)).await.map_err(late)??;
    if code == StatusCode::OK { parse(&body) } else { Err(refused(code, &body)) }
}

async fn get(dir: &Path, path: &str, most: usize) -> Result<(StatusCode, bytes::Bytes)> {
    Line::open(dir).await?.get_up_to(path, most).await
}

/// Tells the hostagent that there is something new among the jobs.
pub async fn nudge(dir: &Path) -> Result<()> {
    within_deadline(async {
        let (code, answer) = Line::open(dir).await?.post("/v1/jobs", Vec::new()).await?;
        if code.is_success() { Ok(()) } else { Err(refused(code, &answer)) }
    })
    .await
}

/// Asks a hostagent that knows no commands (Lima's) to stop its VM, as `limactl stop` does. The process that listens is
/// asked, whatever a pid file says.
pub fn interrupt(dir: &Path) -> Result<()> {
    let path = dir.join(names::HA_SOCK);
    let stream = UnixStream::connect(&path).map_err(|_| Error::HostDown { what: "the hostagent".into() })?;
    let failed = |errno: rustix::io::Errno| Error::io(&path)(errno.into());
    let listener = rustix::net::sockopt::socket_peercred(&stream).map_err(failed)?;
    kill_process(listener.pid, Signal::INT).map_err(failed)
}

/// Tells `tx` of each status until the hostagent is gone, which is the last thing told. Comes back then, or when
/// nobody listens.
pub async fn follow(dir: &Path, tx: mpsc::Sender<Heard>) {
    if let Err(error) = follow_until_end(dir, &tx).await {
        tracing::debug!("{}: {error}", dir.display());
    }
    // Nobody listens any more: there is nobody to tell.
    let _ = tx.send(Heard::Gone).await;
}

async fn follow_until_end(dir: &Path, tx: &mpsc::Sender<Heard>) -> Result<()> {
    let mut line = within_deadline(Line::open(dir)).await?;
    let Some(mut lines) = within_deadline(line.stream("/v1/status?follow=1")).await? else {
        return follow_foreign(dir, tx).await;
    };
    loop {
        let text = tokio::select! {             // what is lost with the other arm is wanted by nobody
            text = lines.next() => text?,
            () = tx.closed() => return Ok(()),
        };
        let Some(text) = text else { return Ok(()) };
        if tx.send(Heard::Status(Box::new(parse(&text)?))).await.is_err() {
            return Ok(());
        }
    }
}

/// Lima's hostagent says its port once; its end is the end of the connection.
async fn follow_foreign(dir: &Path, tx: &mpsc::Sender<Heard>) -> Result<()> {
    let mut line = within_deadline(Line::open(dir)).await?;
    let (code, body) = within_deadline(line.get("/v1/info")).await?;
    if code != StatusCode::OK {
        return Err(refused(code, &body));
    }
    let info: Info = parse(&body)?;
    if tx.send(Heard::Foreign { ssh_local_port: info.ssh_local_port }).await.is_ok() {
        tokio::select! {                        // both arms end it
            () = line.closed() => {}
            () = tx.closed() => {}
        }
    }
    Ok(())
}

async fn within_deadline<T>(doing: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || Error::Timeout { what: "the hostagent's answer".into(), seconds: ANSWER.as_secs() };
    timeout(ANSWER, doing).await.unwrap_or_else(|_| Err(late()))
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| Error::failed(names::HA_SOCK, error))
}

fn refused(code: StatusCode, body: &[u8]) -> Error {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { message, errno }) => Error::Refused { message, errno },
        Err(_) => Error::failed(names::HA_SOCK, format!("it answered {code}")),
    }
}

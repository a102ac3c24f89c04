//! The program's REST API on a unix socket: the VM's state, and wishes to change it. A connection for each request;
//! krunkit serves one after the other and closes each.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use limafs_driver::{Error, Result};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(5);
/// An answer beyond this is a fault.
const ANSWER_MAX: usize = 64 << 10;

#[derive(Debug, Clone)]
pub(crate) struct Rest {
    program: &'static str,
    socket: PathBuf,
}

/// The VM as the program has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Running,
    Pausing,
    Paused,
    Resuming,
    Stopping,
    Stopped,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Pause,
    Resume,
    Stop,
    HardStop,
}

impl Rest {
    pub(crate) fn new(program: &'static str, socket: &Path) -> Self {
        Self { program, socket: socket.to_owned() }
    }

    pub(crate) async fn state(&self) -> Result<State> {
        let answer = self.exchange(Method::GET, Bytes::new()).await?;
        let word = answer["state"].as_str().unwrap_or_default();
        parse(word).ok_or_else(|| self.failed(format!("tells of an unknown state {word:?}")))
    }

    pub(crate) async fn wish(&self, wish: Wish) -> Result<()> {
        let body = json!({ "state": format!("{wish:?}") }).to_string();
        self.exchange(Method::POST, body.into()).await.map(drop)
    }

    async fn exchange(&self, method: Method, body: Bytes) -> Result<Value> {
        let late = |_| Error::Timeout { what: format!("an answer of {}", self.program), seconds: DEADLINE.as_secs() };
        let (status, body) = timeout(DEADLINE, self.send(method, body)).await.map_err(late)??;
        // krunkit ends its answers with a zero byte.
        let answer: Value = serde_json::from_slice(body.strip_suffix(&[0]).unwrap_or(&body)).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let why = answer["error"].as_str().map_or_else(|| format!("answered {status}"), str::to_owned);
        Err(self.failed(why))
    }

    async fn send(&self, method: Method, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let stream = UnixStream::connect(&self.socket).await.map_err(Error::io(&self.socket))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.failed(error))?;
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            // Its end is seen by whoever waits for the answer.
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri("/vm/state")
            .header(HOST, self.program)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.failed(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.failed(error))?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|error| self.failed(error))?;
        Ok((status, body.to_bytes()))
    }

    fn failed(&self, why: impl ToString) -> Error {
        Error::failed(self.program, why)
    }
}

fn parse(word: &str) -> Option<State> {
    Some(match word.strip_prefix("VirtualMachineState")? {
        "Starting" | "Restoring" => State::Starting,
        "Running" | "Saving" => State::Running,
        "Pausing" => State::Pausing,
        "Paused" => State::Paused,
        "Resuming" => State::Resuming,
        "Stopping" => State::Stopping,
        "Stopped" => State::Stopped,
        "Error" => State::Error,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_the_frameworks_words() {
        assert_eq!(parse("VirtualMachineStateRunning"), Some(State::Running));
        assert_eq!(parse("VirtualMachineStatePaused"), Some(State::Paused));
        assert_eq!(parse("Running"), None);
        assert_eq!(format!("{:?}", Wish::HardStop), "HardStop");
    }
}

//! What a driver's program answers without serving.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::line::Line;
use super::program::Program;
use super::server;
use super::spawn::spawn;
use crate::wire::ANSWER_MAX;
use crate::wire::status::sentence;
use crate::{Error, Health, Info, Instance, Report, Result};

/// `limactl list` and its kind wait for this.
const INSPECT: Duration = Duration::from_secs(3);
/// For really trying.
const REPORT: Duration = Duration::from_secs(10);
const STDERR_MAX: usize = 4096;

/// Lima's envelope: a JSON string with base64 of the JSON of an instance, and the same back.
pub(super) async fn inspect_status(name: &str, program: &Program, instance: Instance) -> Result<Instance> {
    let garbage =
        |error: String| Error::failed(format!("driver {name}"), format!("its answer is no instance: {error}"));
    let text = serde_json::to_vec(&instance).map_err(|error| garbage(error.to_string()))?;
    let request = format!("{}\n", json!(BASE64_STANDARD.encode(text)));
    let answer = ask(name, program, "-inspect-status", request.into_bytes(), INSPECT).await?;
    let text: String = serde_json::from_slice(&answer).map_err(|error| garbage(error.to_string()))?;
    let text = BASE64_STANDARD.decode(text).map_err(|error| garbage(error.to_string()))?;
    let inspected: Value = serde_json::from_slice(&text).map_err(|error| garbage(error.to_string()))?;
    let status = inspected["status"].as_str().ok_or_else(|| garbage("it has no status".into()))?;
    Ok(Instance { status: sentence(status), ..instance })
}

/// What a driver says of itself. One that cannot, as Lima's own, works if it can be started and says what it is.
pub(super) async fn report(name: &str, program: &Program) -> Report {
    let answer = ask(name, program, "-health", Vec::new(), REPORT).await;
    let error = match answer.map(|text| serde_json::from_slice(&text)) {
        Ok(Ok(report)) => return report,
        Ok(Err(error)) => Error::failed(format!("driver {name}"), error),
        Err(error) => error,
    };
    if let Error::Timeout { .. } | Error::Io { .. } = error {
        return unhealthy(&error);
    }
    match introduced(name, program).await {
        Ok(info) => Report { info, health: Health::working(""), ..Report::default() },
        Err(error) => unhealthy(&error),
    }
}

fn unhealthy(error: &Error) -> Report {
    let is_missing = matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
    let (reason, fix) = match error {
        _ if is_missing => ("not-found", "install the driver's program"),
        Error::Timeout { .. } => ("no-answer", "see what its program does"),
        _ => ("does-not-start", "start its program by hand and see what it says"),
    };
    Report { health: Health::failing(!is_missing, reason, error, fix), ..Report::default() }
}

/// Starts a server only to ask what it is.
async fn introduced(name: &str, program: &Program) -> Result<Info> {
    let dir = tempfile::tempdir().map_err(Error::io("a temporary directory"))?;
    let (server, stream) = server::find_or_start(name, program, dir.path()).await?;
    let line = Line::open(name.into(), stream, server).await?;
    let answer = line.short("say what it is", line.lima.clone().info(())).await;
    line.server.kill().await;
    serde_json::from_slice(&answer?.info_json).map_err(|error| Error::failed(format!("driver {name}"), error))
}

/// One run of the program; it is killed when it takes longer or says more than it may.
async fn ask(name: &str, program: &Program, flag: &str, input: Vec<u8>, deadline: Duration) -> Result<Vec<u8>> {
    let mut command = program.command(name)?;
    command.arg(flag).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&mut command).await.map_err(Error::io(&program.path))?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Error::failed(format!("driver {name}"), "has no standard streams"));
    };
    let talk = async move {
        // A program that does not read is judged by what it says; what it says is judged by the caller.
        let write = async move { stdin.write_all(&input).await.unwrap_or_default() };
        let ((), answer, words) = tokio::join!(write, first(stdout, ANSWER_MAX), first(stderr, STDERR_MAX));
        io::Result::Ok((child.wait().await?, answer?, words?))
    };
    let late = |_| Error::Timeout { what: format!("driver {name} {flag}"), seconds: deadline.as_secs() };
    let (status, answer, words) = timeout(deadline, talk).await.map_err(late)?.map_err(Error::io(&program.path))?;
    if !status.success() {
        let words = sentence(&String::from_utf8_lossy(&words));
        return Err(Error::failed(format!("driver {name} {flag}"), format!("{status}: {words}")));
    }
    Ok(answer)
}

/// The first bytes of all that comes.
async fn first(mut from: impl AsyncRead + Unpin, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut from).take(most as u64).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(bytes)
}

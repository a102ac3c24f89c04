//! A driver's server: found or started, and ended.
//!
//! ```text
//!  DIR/NAME.drv.sock answers ------------------------------------------> reused
//!  else: PROGRAM --inst-dir DIR --+-- the socket answers ---------------> Lima 2.2
//!                                 +-- fails: PROGRAM, a line of JSON ---> Lima 2.0 and 2.1
//! ```

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdout};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::line::connect;
use super::log::{self, Tail};
use super::process::Process;
use super::program::Program;
use super::spawn::spawn;
use crate::wire::names;
use crate::{Error, Result};

/// Lima's, for a program to serve.
const START: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Lima's, for a server that is asked to end.
const END: Duration = Duration::from_secs(10);
/// SIGKILL is not refused, but what the process does in the kernel has to end first.
const KILL: Duration = Duration::from_secs(5);
/// For the last words of a program that has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How Go's flags end a program that does not know one.
const UNKNOWN_FLAG: i32 = 2;
const HANDSHAKE_MAX: u64 = 8192;

/// A server that is there. Dropping it leaves it there.
#[derive(Debug)]
pub(super) struct Server {
    pub process: Process,
    /// Lima 2.0 or 2.1: it is nobody's but ours, and its Configure answers nothing.
    pub is_old: bool,
    /// Ours to end when it has no VM; another host may use one that was found.
    pub is_ours: AtomicBool,
    socket: PathBuf,
    pid_file: PathBuf,
    /// Reap it and keep what it says.
    _tasks: JoinSet<()>,
}

/// The server of driver `name` in an instance directory, and a connection to it.
pub(super) async fn find_or_start(name: &str, program: &Program, dir: &Path) -> Result<(Server, UnixStream)> {
    if let Some(found) = find(name, dir).await {
        return Ok(found);
    }
    let deadline = Instant::now() + START;
    let first = Starting::start(name, program, &["--inst-dir".into(), dir.into()], dir).await?;
    let ended = first.ended.clone();
    let error = match first.serve(name, Some(&names::socket(dir, name)), deadline).await {
        Err(error) => error,
        served => return served,
    };
    if ended.borrow().is_none_or(|status| status.code() != Some(UNKNOWN_FLAG)) {
        return Err(error);
    }
    let second = Starting::start(name, program, &[], dir).await?;
    second.serve(name, None, deadline).await.map_err(|_| error)
}

/// A server that runs already: of an earlier host of ours, or of Lima's. Never another user's.
async fn find(name: &str, dir: &Path) -> Option<(Server, UnixStream)> {
    let socket = names::socket(dir, name);
    let stream = connect(&socket).await.ok()?;
    let peer = stream.peer_cred().ok()?;
    if peer.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    let process = Process::open(peer.pid()?.try_into().ok()?).ok()?;
    let pid_file = names::pid(dir, name);
    let server =
        Server { process, is_old: false, is_ours: AtomicBool::new(false), socket, pid_file, _tasks: JoinSet::new() };
    Some((server, stream))
}

impl Server {
    /// Asks it to end, waits, and kills it if need be.
    pub(super) async fn end(&self) {
        self.ask_to_end();
        if timeout(END, self.process.ended()).await.is_err() {
            tracing::warn!("driver server {} does not end and is killed", self.process.pid());
        }
        self.kill().await;
    }

    pub(super) fn ask_to_end(&self) {
        self.process.signal(Signal::TERM);
    }

    pub(super) async fn kill(&self) {
        self.dismiss();
        if timeout(KILL, self.process.ended()).await.is_err() {
            tracing::warn!("driver server {} is killed but has not ended", self.process.pid());
        }
    }

    /// Kills it and does not wait.
    pub(super) fn dismiss(&self) {
        self.process.signal(Signal::KILL);
        for path in [&self.socket, &self.pid_file] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("{} stays: {error}", path.display());
                }
                _ => {}
            }
        }
    }
}

/// A server on its way. Dropping it kills it.
struct Starting {
    server: Option<Server>,
    ended: watch::Receiver<Option<ExitStatus>>,
    /// Where a server of Lima 2.0 or 2.1 says that it is.
    told: watch::Receiver<Option<PathBuf>>,
    tail: Tail,
    /// Closed when all that it said has been read.
    said_all: watch::Receiver<()>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.dismiss();
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Handshake {
    socket_path: PathBuf,
}

impl Starting {
    async fn start(name: &str, program: &Program, arguments: &[OsString], dir: &Path) -> Result<Self> {
        let mut command = program.command(name)?;
        command.args(arguments);
        // What a terminal sends its programs is not for this one.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(&mut command).await.map_err(Error::io(&program.path))?;
        let pid = child.id().unwrap_or_default();
        let Ok(process) = Process::open(pid) else {
            // Unwatched it would be worse than not started; that it has ended is as well.
            let _ = child.start_kill();
            return Err(Error::failed(format!("driver {name}"), "cannot be watched"));
        };
        let (tail, mut tasks) = (Tail::default(), JoinSet::new());
        let (tell, told) = watch::channel(None);
        let (all_said, said_all) = watch::channel(());
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            tasks.spawn(read_handshake(stdout, tell));
            let copy = log::copy(stderr, names::log(dir), tail.clone());
            tasks.spawn(async move {
                copy.await;
                drop(all_said);
            });
        }
        let (tell_end, ended) = watch::channel(None);
        tasks.spawn(reap(child, tell_end));
        let (socket, pid_file) = (names::socket(dir, name), names::pid(dir, name));
        let server = Server { process, is_old: false, is_ours: AtomicBool::new(true), socket, pid_file, _tasks: tasks };
        let starting = Self { server: Some(server), ended, told, tail, said_all };
        write_pid(&names::pid(dir, name), pid)?;
        Ok(starting)
    }

    /// Waits for the server, and ends it when it does not come.
    async fn serve(mut self, name: &str, expected: Option<&Path>, deadline: Instant) -> Result<(Server, UnixStream)> {
        let stream = self.wait(name, expected, deadline).await;
        let said = self.told.borrow().clone();
        let Some(mut server) = self.server.take() else { return Err(Error::failed("driver", "was started twice")) };
        match stream {
            Ok(stream) => {
                if let Some(socket) = said {
                    (server.socket, server.is_old) = (socket, true);
                }
                Ok((server, stream))
            }
            Err(error) => {
                server.kill().await;
                Err(error)
            }
        }
    }

    /// Waits for a socket that answers: the one at `expected`, or one that the program names.
    async fn wait(&mut self, name: &str, expected: Option<&Path>, deadline: Instant) -> Result<UnixStream> {
        let late = |_| Error::Timeout { what: format!("the start of driver {name}"), seconds: START.as_secs() };
        loop {
            let said = self.told.borrow().clone();
            if let Some(socket) = said.as_deref().or(expected)
                && let Ok(stream) = connect(socket).await
            {
                return Ok(stream);
            }
            // Cancel-safe: a watch and a timer.
            let looked = tokio::select! {
                _ = self.ended.wait_for(Option::is_some) => None,
                looked = timeout_at(deadline, sleep(LOOK_AGAIN)) => Some(looked),
            };
            match looked {
                Some(looked) => looked.map_err(late)?,
                None => return Err(self.ending(name).await),
            }
        }
    }

    /// Why there is no server, of a program that has ended.
    async fn ending(&mut self, name: &str) -> Error {
        // An error says that all has been said; a child of the program may keep its standard error open.
        let _ = timeout(LAST_WORDS, self.said_all.changed()).await;
        let status = *self.ended.borrow();
        let how = match status.map(|status| (status.code(), status)) {
            Some((Some(0), _)) => "ended without serving".to_owned(),
            Some((Some(code), _)) => format!("failed with code {code} before it served"),
            Some((None, status)) => format!("was killed before it served ({status})"),
            None => "ended before it served".to_owned(),
        };
        let words = self.tail.last_line().map(|line| format!(": {line}")).unwrap_or_default();
        Error::failed(format!("driver {name}"), how + &words)
    }
}

async fn reap(mut child: Child, tell: watch::Sender<Option<ExitStatus>>) {
    match child.wait().await {
        Ok(status) => drop(tell.send_replace(Some(status))),
        Err(error) => tracing::warn!("a driver's end: {error}"),
    }
}

/// Reads what may be the line of a server of Lima 2.0 or 2.1, and throws away all that follows.
async fn read_handshake(stdout: ChildStdout, tell: watch::Sender<Option<PathBuf>>) {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    // What is no such line is nothing to us.
    let _ = (&mut stdout).take(HANDSHAKE_MAX).read_until(b'\n', &mut line).await;
    if let Ok(handshake) = serde_json::from_slice::<Handshake>(&line) {
        tell.send_replace(Some(handshake.socket_path));
    }
    // An error is the end of it.
    let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
}

fn write_pid(path: &Path, pid: u32) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(Error::io(dir))?;
    write!(file, "{pid}").map_err(Error::io(path))?;
    file.persist(path).map(drop).map_err(|error| Error::io(path)(error.error))
}

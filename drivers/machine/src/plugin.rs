//! A plugin's process: started with its token, listened to for as long as it lives, closed or killed and always reaped.
//! The VMs that it started are its own children and are left alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Client, Fault};
use crate::find;
use crate::gob::{Shape, Value};
use crate::log::Log;
use crate::wire::{self, EMPTY};

pub const TOKEN: (&str, &str) = ("MACHINE_PLUGIN_TOKEN", "42");
pub const DRIVER_NAME: &str = "MACHINE_PLUGIN_DRIVER_NAME";

/// Within this a plugin says where it listens.
const HANDSHAKE: Duration = Duration::from_secs(9);
/// The longest first line, and the longest line of its log.
const ADDRESS_MAX: u64 = 64;
const LINE_MAX: u64 = 4096;
/// A plugin that is told to close leaves at once; so long it is waited for.
const LEAVING: Duration = Duration::from_secs(2);

pub struct Plugin {
    client: Client,
    /// Until it is closed.
    child: Mutex<Option<Child>>,
    _readers: JoinSet<()>,
}

impl Plugin {
    /// Starts `program` as the plugin `name` and connects to it. What it prints goes to `log`.
    pub async fn start(program: &Path, name: &str, log: &Arc<Log>) -> Result<Self, Fault> {
        let gone = |what: &str, error: &dyn std::fmt::Display| Fault::Gone(format!("{what}: {error}"));
        // Each time: what was safe when it was found may have been replaced.
        if let Some(why) = find::fault(program) {
            return Err(Fault::Gone(format!("it is not run: {why}")));
        }
        let mut command = Command::new(program);
        command.env_clear().envs(limafs_driver::environment());
        command.env(TOKEN.0, TOKEN.1).env(DRIVER_NAME, name).current_dir("/").kill_on_drop(true).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| gone("starting it", &error))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Fault::Gone("it has no pipes".into()));
        };
        let (readers, address) = listen(stdout, stderr, log);
        let told = timeout(HANDSHAKE, address).await;
        let connected = match told {
            Ok(Ok(line)) => match loopback(&line) {
                Some(address) => Client::connect(address).await,
                None => Err(Fault::Gone(format!("its first line is no address: {line:?}"))),
            },
            Ok(Err(_)) => Err(Fault::Gone(ended(&mut child, log).await)),
            Err(_) => Err(Fault::Gone(format!("it did not say where it listens within {} s", HANDSHAKE.as_secs()))),
        };
        match connected {
            Ok(client) => Ok(Self { client, child: Mutex::new(Some(child)), _readers: readers }),
            Err(fault) => {
                end(child).await;
                Err(fault)
            }
        }
    }

    pub fn is_alive(&self) -> bool {
        self.client.is_open()
    }

    pub async fn call(&self, method: &str, limit: Duration) -> Result<Value, Fault> {
        self.client.call(method, &EMPTY, wire::empty(), limit).await
    }

    pub async fn tell(&self, method: &str, shape: &'static Shape, value: Value, limit: Duration) -> Result<(), Fault> {
        self.client.call(method, shape, value, limit).await.map(drop)
    }

    pub async fn text(&self, method: &str, limit: Duration) -> Result<String, Fault> {
        match self.call(method, limit).await? {
            Value::Text(text) => Ok(text),
            _ => Err(Fault::Misfit),
        }
    }

    pub async fn int(&self, method: &str, limit: Duration) -> Result<i64, Fault> {
        match self.call(method, limit).await? {
            Value::Int(number) => Ok(number),
            _ => Err(Fault::Misfit),
        }
    }

    /// Asks the plugin to leave, and sees to it that it does.
    pub async fn close(&self) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut child) = child else { return };
        if self.client.is_open() {
            // It usually leaves without an answer.
            let _ = self.call("Close", LEAVING).await;
        }
        if timeout(LEAVING, child.wait()).await.is_err() {
            end(child).await;
        }
    }
}

/// Reads both pipes for as long as they are open; the first line of standard output is the address.
fn listen(stdout: ChildStdout, stderr: ChildStderr, log: &Arc<Log>) -> (JoinSet<()>, oneshot::Receiver<String>) {
    let (tell, address) = oneshot::channel();
    let mut readers = JoinSet::new();
    let to = Arc::clone(log);
    readers.spawn(async move {
        let mut lines = BufReader::new(stdout);
        if let Some(line) = line(&mut lines, ADDRESS_MAX).await {
            // Nobody waits any more: it was too slow.
            let _ = tell.send(line);
            copy(lines, "", &to).await;
        }
    });
    let to = Arc::clone(log);
    readers.spawn(async move { copy(BufReader::new(stderr), "DBG | ", &to).await });
    (readers, address)
}

async fn copy(mut lines: BufReader<impl AsyncRead + Unpin>, mark: &str, log: &Log) {
    while let Some(line) = line(&mut lines, LINE_MAX).await {
        log.line(mark, &line);
    }
}

/// A line, or as much of one as is taken at once. `None` at the end.
async fn line(reader: &mut BufReader<impl AsyncRead + Unpin>, most: u64) -> Option<String> {
    let mut bytes = Vec::new();
    let read = reader.take(most).read_until(b'\n', &mut bytes).await;
    let is_over = !matches!(read, Ok(1..));
    (!is_over).then(|| String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// Nobody is dialled elsewhere because a plugin says so.
fn loopback(line: &str) -> Option<SocketAddr> {
    let address: SocketAddr = line.trim().parse().ok()?;
    (address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) && address.port() != 0).then_some(address)
}

/// How a plugin ended that said nothing, with its last words.
async fn ended(child: &mut Child, log: &Log) -> String {
    let how = match timeout(LEAVING, child.wait()).await {
        Ok(Ok(status)) => format!("it ended with {status}"),
        _ => "it closed its standard output".to_owned(),
    };
    match log.last() {
        words if words.is_empty() => how,
        words => format!("{how}: {words}"),
    }
}

/// Kills and reaps.
async fn end(mut child: Child) {
    // Ended already is what was wanted.
    let _ = child.start_kill();
    let _ = timeout(LEAVING, child.wait()).await;
}

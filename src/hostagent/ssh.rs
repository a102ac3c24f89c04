//! ssh to the guest: the user's key, the guest's pinned host key, one command at a time. The only user of russh.
//! Never asks for a password, never sends a key to a host whose own key differs from the pinned one.

pub mod config;
mod judge;
pub mod keys;
pub mod pin;
pub mod program;
pub mod tunnel;

#[cfg(test)]
pub mod tests;

use std::io;
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use russh::ChannelMsg;
use russh::client::{self, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use tokio::io::{AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use judge::Judge;

/// At most this much of what a command prints is kept.
const OUTPUT_MAX: usize = 16 << 10;
/// Read at once: two packets. The protocol is read in smaller parts otherwise.
const READ: usize = 64 << 10;
/// How often a silent guest is asked whether it is there; three times without an answer ends the session.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Where and as whom to log in.
#[derive(Clone)]
pub struct Login {
    pub address: String,
    pub port: u16,
    pub user: String,
    pub key: Arc<PrivateKey>,
    /// Where `key` was read from.
    pub identity_file: PathBuf,
    /// `lima-NAME`, under which the host key is pinned.
    pub alias: String,
    pub known_hosts: PathBuf,
    /// More lines of ssh.config.
    pub options: Vec<(&'static str, &'static str)>,
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing answers as ssh does, yet.
    #[error("ssh does not answer: {0}")]
    Unreachable(String),
    #[error("ssh did not answer within {0:?}")]
    Slow(Duration),
    #[error("the guest refuses user {0} with the key _config/user")]
    Refused(String),
    #[error("the ssh host key of the guest is not the one of its first boot; remove {} to trust the new one", .0.display())]
    HostKey(PathBuf),
}

pub struct Session {
    handle: Handle<Judge>,
    key: PublicKey,
    /// Nobody sends; ends with the session's task.
    life: watch::Receiver<()>,
    takers: tunnel::Takers,
    // Last: the session's task ends when its socket is shut.
    socket: Guard,
}

/// A channel as bytes; closed when dropped.
pub type Stream = russh::ChannelStream<client::Msg>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `None` when the command was ended by a signal.
    pub exit: Option<u32>,
    pub stdout: String,
    /// The last line on standard error; may be empty.
    pub complaint: String,
}

/// A connection on which an ssh server has begun to speak. It has forked for us: hanging up now costs the guest.
pub struct Answered(TcpStream);

/// Connects and waits for the server's first word, within `limit`. A user network accepts connections for a guest that
/// is not there yet, so that a connection alone means nothing.
pub async fn dial(login: &Login, limit: Duration) -> Result<Answered, Fault> {
    let dialing = async {
        let stream = TcpStream::connect((login.address.as_str(), login.port)).await?;
        match stream.peek(&mut [0]).await? {
            0 => Err(std::io::Error::other("it hung up")),
            _ => Ok(stream),
        }
    };
    match timeout(limit, dialing).await {
        Ok(result) => result.map(Answered).map_err(unreachable),
        Err(_) => Err(Fault::Slow(limit)),
    }
}

/// Authenticates, within `limit`. Dropping the future leaves nothing behind.
pub async fn enter(login: &Login, answered: Answered, limit: Duration) -> Result<Session, Fault> {
    match timeout(limit, open(login, answered.0)).await {
        Ok(result) => result,
        Err(_) => Err(Fault::Slow(limit)),
    }
}

async fn open(login: &Login, socket: TcpStream) -> Result<Session, Fault> {
    let (stream, guard) = guarded(socket).map_err(unreachable)?;
    let seen = Arc::new(Mutex::new(None));
    let pinned = pin::read(&login.known_hosts, &login.alias).map_err(unreachable)?;
    let (alive, life) = watch::channel(());
    let takers = tunnel::Takers::default();
    let judge = Judge { pinned: pinned.clone(), seen: Arc::clone(&seen), takers: Arc::clone(&takers), _alive: alive };
    let config = client::Config {
        nodelay: true,
        channel_buffer_size: 16,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        ..client::Config::default()
    };
    let connected = client::connect_stream(Arc::new(config), BufReader::with_capacity(READ, stream), judge).await;
    let key = seen.lock().take();
    let mut handle = match (connected, &key) {
        (_, Some(key)) if !pinned.allows(key) => return Err(Fault::HostKey(login.known_hosts.clone())),
        (Ok(handle), Some(_)) => handle,
        (Err(error), _) => return Err(unreachable(error)),
        (Ok(_), None) => return Err(Fault::Unreachable("no host key was shown".into())),
    };
    let identity = PrivateKeyWithHashAlg::new(Arc::clone(&login.key), None);
    let answer = handle.authenticate_publickey(&login.user, identity).await.map_err(unreachable)?;
    match (answer.success(), key) {
        (true, Some(key)) => Ok(Session { handle, key, life, takers, socket: guard }),
        _ => Err(Fault::Refused(login.user.clone())),
    }
}

impl Session {
    /// Runs a command of the guest's shell, within `limit`.
    pub async fn exec(&self, command: &str, limit: Duration) -> Result<Output, Fault> {
        self.exec_with(command, &[], limit).await
    }

    /// The same, with standard input.
    pub async fn exec_with(&self, command: &str, input: &[u8], limit: Duration) -> Result<Output, Fault> {
        match timeout(limit, self.run(command, input)).await {
            Ok(result) => result.map_err(unreachable),
            Err(_) => Err(Fault::Slow(limit)),
        }
    }

    async fn run(&self, command: &str, input: &[u8]) -> Result<Output, russh::Error> {
        let mut channel = self.handle.channel_open_session().await?;
        channel.exec(true, command).await?;
        if !input.is_empty() && channel.data(input).await.is_ok() {
            // A program that ended without reading has not failed for that.
            let _ = channel.eof().await;
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut exit = None;
        let mut ended = false;
        // The exit status may come after the end of the output.
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } if stdout.len() < OUTPUT_MAX => stdout.extend_from_slice(&data),
                ChannelMsg::ExtendedData { data, .. } if stderr.len() < OUTPUT_MAX => stderr.extend_from_slice(&data),
                ChannelMsg::ExitStatus { exit_status } => (exit, ended) = (Some(exit_status), true),
                ChannelMsg::ExitSignal { .. } => ended = true,
                _ => {}
            }
        }
        match ended {
            true => {
                let stdout = String::from_utf8_lossy(&stdout).into_owned();
                Ok(Output { exit, stdout, complaint: last_line(&stderr) })
            }
            false => Err(russh::Error::Disconnect),
        }
    }

    /// Runs a command and writes what it prints, at most `most` bytes. Its exit code, and the end of its complaint.
    pub async fn fetch(
        &self,
        command: &str,
        sink: &mut (impl AsyncWrite + Unpin),
        most: u64,
    ) -> io::Result<(Option<u32>, String)> {
        let mut channel = self.handle.channel_open_session().await.map_err(io::Error::other)?;
        channel.exec(true, command).await.map_err(io::Error::other)?;
        let (mut exit, mut left, mut complaint) = (None, most, Vec::new());
        let mut ended = false;
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    left = left.checked_sub(data.len() as u64).ok_or_else(|| too_large(most))?;
                    sink.write_all(&data).await?;
                }
                ChannelMsg::ExtendedData { data, .. } if complaint.len() < OUTPUT_MAX => {
                    complaint.extend_from_slice(&data);
                }
                ChannelMsg::ExitStatus { exit_status } => (exit, ended) = (Some(exit_status), true),
                ChannelMsg::ExitSignal { .. } => ended = true,
                _ => {}
            }
        }
        match ended {
            true => Ok((exit, last_line(&complaint))),
            false => Err(io::Error::other("the connection was lost")),
        }
    }

    /// Begins a subsystem of the guest's sshd, within `limit`; the stream is its standard input and output.
    pub async fn subsystem(&self, name: &str, limit: Duration) -> Result<Stream, Fault> {
        let opening = async {
            let mut channel = self.handle.channel_open_session().await?;
            channel.request_subsystem(true, name).await?;
            loop {
                match channel.wait().await {
                    Some(ChannelMsg::Success) => return Ok(channel.into_stream()),
                    // It may grow its window first.
                    Some(ChannelMsg::WindowAdjusted { .. }) => {}
                    _ => return Err(russh::Error::RequestDenied),
                }
            }
        };
        match timeout(limit, opening).await {
            Ok(result) => result.map_err(unreachable),
            Err(_) => Err(Fault::Slow(limit)),
        }
    }

    /// Trusts the guest's host key, and it alone, from now on; in ssh.config too.
    pub fn trust(&self, login: &Login) -> crate::error::Result<()> {
        if pin::read(&login.known_hosts, &login.alias)?.is_set() {
            return Ok(());
        }
        pin::write(&login.known_hosts, &login.alias, &self.key)?;
        config::write(login)
    }

    pub fn is_open(&self) -> bool {
        self.life.has_changed().is_ok()
    }

    /// Returns when the session is no more. Cancel-safe.
    pub async fn closed(&self) {
        let mut life = self.life.clone();
        while life.changed().await.is_ok() {}
    }

    /// Ends the session without a word.
    pub fn shut(&self) {
        self.socket.shut();
    }
}

fn too_large(most: u64) -> io::Error {
    io::Error::other(format!("it is larger than {} MiB", most >> 20))
}

/// What a guest's program said last, made safe for a line of a log.
fn last_line(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    line.chars().filter(|char| !char.is_control()).take(200).collect()
}

fn unreachable(error: impl ToString) -> Fault {
    Fault::Unreachable(error.to_string())
}

/// Shuts the socket when dropped. russh reads it in a task of its own, which would outlive an attempt that timed out.
#[derive(Debug)]
struct Guard(std::net::TcpStream);

impl Guard {
    fn shut(&self) {
        // Already shut is as good.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shut();
    }
}

fn guarded(socket: TcpStream) -> std::io::Result<(TcpStream, Guard)> {
    socket.set_nodelay(true)?;
    let socket = socket.into_std()?;
    let guard = Guard(socket.try_clone()?);
    Ok((TcpStream::from_std(socket)?, guard))
}

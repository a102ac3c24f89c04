//! A pretend guest: sshd with manners.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use russh::keys::{Algorithm, PrivateKey, key::safe_rng};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::hostagent::ssh::{Login, keys};
use crate::names::Home;

pub const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// How the guest treats those who connect.
#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// So many connections are accepted and never answered.
    pub mute: usize,
    /// So many attempts to log in are refused.
    pub refuse: usize,
    /// Commands with this word in them wait until [`Guest::release`].
    pub hold: Option<&'static str>,
    /// Commands with this word in them exit with this code.
    pub exits: Option<(&'static str, u32)>,
    /// Commands and sftp are this machine's own, with this home directory.
    pub local: Option<PathBuf>,
    /// What a held command then prints.
    pub answer: String,
    /// Where the guest's sockets really are, by their last names. Its addresses are those of this machine.
    pub sockets: PathBuf,
}

pub struct Guest {
    pub port: u16,
    counts: Arc<Counts>,
    release: watch::Sender<bool>,
    first_closed: oneshot::Receiver<()>,
    home: TempDir,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    logins: AtomicUsize,
}

impl Guest {
    pub async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
        let counts = Arc::new(Counts::default());
        let (release, released) = watch::channel(false);
        let (first_to, first_closed) = oneshot::channel();
        let mut tasks = JoinSet::new();
        let config = server::Config {
            keys: vec![key],
            auth_rejection_time: Duration::ZERO,
            auth_rejection_time_initial: Some(Duration::ZERO),
            ..server::Config::default()
        };
        tasks.spawn(accept(listener, Arc::new(config), manners, Arc::clone(&counts), released, first_to));
        Self { port, counts, release, first_closed, home: tempfile::tempdir().unwrap(), _tasks: tasks }
    }

    /// A login with a fresh home and an instance directory of its own.
    pub async fn login(&self) -> Login {
        let home = Home::at(self.home.path());
        let identity = keys::ensure(&home).await.unwrap();
        let dir = self.home.path().join("foo");
        std::fs::create_dir_all(&dir).unwrap();
        Login {
            address: "127.0.0.1".into(),
            port: self.port,
            user: "lima".into(),
            key: identity.key,
            identity_file: home.config("user"),
            alias: "lima-foo".into(),
            known_hosts: dir.join("ssh.known_hosts"),
            options: vec![],
        }
    }

    pub fn release(&self) {
        self.release.send_replace(true);
    }

    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    pub fn attempts_to_log_in(&self) -> usize {
        self.counts.logins.load(Ordering::SeqCst)
    }

    /// Comes back when the first, mute connection was closed by the other side.
    pub async fn first_is_closed(self) {
        self.first_closed.await.unwrap();
    }
}

async fn accept(
    listener: TcpListener,
    config: Arc<server::Config>,
    manners: Manners,
    counts: Arc<Counts>,
    released: watch::Receiver<bool>,
    first_closed: oneshot::Sender<()>,
) {
    let mut first_closed = Some(first_closed);
    let mut sessions = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let number = counts.connections.fetch_add(1, Ordering::SeqCst);
        if number < manners.mute {
            sessions.spawn(stay_mute(stream, first_closed.take()));
            continue;
        }
        let handler = Handler {
            manners: manners.clone(),
            counts: Arc::clone(&counts),
            released: released.clone(),
            tasks: JoinSet::new(),
            inputs: HashMap::new(),
            programs: JoinSet::new(),
            echoes: HashSet::new(),
        };
        let config = Arc::clone(&config);
        sessions.spawn(async move {
            if let Ok(session) = server::run_stream(config, stream, handler).await {
                let _ = session.await;
            }
        });
    }
}

async fn stay_mute(mut stream: TcpStream, closed: Option<oneshot::Sender<()>>) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    if let Some(closed) = closed {
        let _ = closed.send(());
    }
}

struct Handler {
    manners: Manners,
    counts: Arc<Counts>,
    released: watch::Receiver<bool>,
    /// Streams, which end with the session.
    tasks: JoinSet<()>,
    /// Standard inputs of this machine's own programs.
    inputs: HashMap<ChannelId, mpsc::UnboundedSender<Vec<u8>>>,
    programs: JoinSet<()>,
    /// Channels that give back what they are sent.
    echoes: HashSet<ChannelId>,
}

impl Handler {
    fn real(&self, path: &str) -> PathBuf {
        self.manners.sockets.join(Path::new(path).file_name().unwrap())
    }

    /// Joins a channel to what is dialled.
    fn join<S>(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        dialling: impl Future<Output = std::io::Result<S>> + Send + 'static,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(async move {
            match dialling.await {
                Ok(mut stream) => {
                    reply.accept().await;
                    let _ = copy_bidirectional(&mut channel.into_stream(), &mut stream).await;
                }
                Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        });
    }

    /// Joins a channel with a program of this machine.
    fn run(&mut self, channel: ChannelId, mut program: Command, home: &Path, session: &Session) {
        let (input, mut inputs) = mpsc::unbounded_channel::<Vec<u8>>();
        self.inputs.insert(channel, input);
        program.env("HOME", home).env("SHELL", "/bin/sh").current_dir(home).kill_on_drop(true);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = program.spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let handle = session.handle();
        self.programs.spawn(async move {
            let feed = async move {
                while let Some(bytes) = inputs.recv().await {
                    if stdin.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
            };
            let drain = async {
                let mut buffer = vec![0; 32 << 10];
                while let Ok(read @ 1..) = stdout.read(&mut buffer).await {
                    if handle.data(channel, buffer[..read].to_vec()).await.is_err() {
                        break;
                    }
                }
                let code = child.wait().await.unwrap().code().unwrap_or(255);
                let _ = handle.exit_status_request(channel, code as u32).await;
                let _ = handle.eof(channel).await;
                let _ = handle.close(channel).await;
            };
            tokio::join!(feed, drain);
        });
    }
}

impl server::Handler for Handler {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, user: &str, _key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let number = self.counts.logins.fetch_add(1, Ordering::SeqCst);
        let is_welcome = user == "lima" && number >= self.manners.refuse;
        Ok(if is_welcome { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let address = (host.to_owned(), u16::try_from(port).unwrap());
        self.join(channel, reply, async move { TcpStream::connect(address).await });
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.join(channel, reply, UnixStream::connect(self.real(path)));
        Ok(())
    }

    async fn streamlocal_forward(&mut self, path: &str, session: &mut Session) -> Result<bool, Self::Error> {
        let Ok(listener) = UnixListener::bind(self.real(path)) else { return Ok(false) };
        let (handle, path) = (session.handle(), path.to_owned());
        self.tasks.spawn(async move {
            let mut streams = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let Ok(channel) = handle.channel_open_forwarded_streamlocal(path.clone()).await else { continue };
                streams.spawn(async move {
                    let _ = copy_bidirectional(&mut channel.into_stream(), &mut stream).await;
                });
            }
        });
        Ok(true)
    }

    /// The one subsystem gives back what it is sent.
    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(home) = self.manners.local.clone() {
            session.channel_success(channel)?;
            self.run(channel, Command::new(SFTP_SERVER), &home, session);
            return Ok(());
        }
        if name != "sftp" {
            return session.channel_failure(channel);
        }
        self.echoes.insert(channel);
        session.channel_success(channel)
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        match self.inputs.get(&channel) {
            Some(input) => drop(input.send(data.to_vec())),
            None if self.echoes.contains(&channel) => session.data(channel, data.to_vec())?,
            None => {}
        }
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.inputs.remove(&channel);
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.inputs.remove(&channel);
        Ok(())
    }

    /// `true` is true; a held command waits; any other is printed and exits with its last word.
    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let command = String::from_utf8_lossy(command).into_owned();
        session.channel_success(channel)?;
        if let Some(home) = self.manners.local.clone() {
            let mut shell = Command::new("/bin/sh");
            shell.arg("-c").arg(command);
            self.run(channel, shell, &home, session);
            return Ok(());
        }
        let exits = self.manners.exits.filter(|(word, _)| command.contains(word)).map(|(_, code)| code);
        let (text, exit) = match (exits, self.manners.hold) {
            _ if command == "true" => (String::new(), 0),
            (Some(code), _) => (String::new(), code),
            (_, Some(word)) if command.contains(word) => {
                let _ = self.released.wait_for(|released| *released).await;
                (self.manners.answer.clone(), 0)
            }
            _ => (command.clone(), command.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)),
        };
        session.data(channel, text.into_bytes())?;
        session.exit_status_request(channel, exit)?;
        session.eof(channel)?;
        session.close(channel)
    }
}

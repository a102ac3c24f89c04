//! The other end: a program that is a plugin. It says where it listens, answers calls side by side, and ends when it is
//! told to or when nobody asks any more whether it is there.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::flags::{self, Flag, Setting};
use crate::gob::{Encoder, Shape, Value};
use crate::plugin::TOKEN;
use crate::state::State;
use crate::wire::{self, BYTES, Broken, EMPTY, FLAGS, INT, Incoming, RESPONSE, TEXT};

/// Without a heartbeat for so long a plugin ends.
pub const SILENCE: Duration = Duration::from_secs(10);
/// A peer that does not read its answers.
const WRITE: Duration = Duration::from_secs(10);
const GREETING: Duration = Duration::from_secs(10);
const CONNECTIONS_MAX: usize = 16;
const CALLS_MAX: usize = 64;

/// Why a call failed, in words for people: nothing else of it goes over the wire.
pub type Answer<T> = Result<T, String>;

/// What a plugin does. Calls come side by side, and `create` may last minutes.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    fn driver_name(&self) -> String;
    fn create_flags(&self) -> Vec<Flag>;
    /// Takes the JSON that [`Plugin::config`] gave, or that of a machine to be made: its name and the store's path.
    async fn set_config(&self, json: &[u8]) -> Answer<()>;
    /// What is to be kept of the machine.
    async fn config(&self) -> Answer<Vec<u8>>;
    /// The settings of a machine to be made; those of others are among them.
    async fn set_flags(&self, settings: Vec<(String, Setting)>) -> Answer<()>;
    async fn machine_name(&self) -> Answer<String>;
    async fn ip(&self) -> Answer<String>;
    async fn url(&self) -> Answer<String>;
    async fn ssh_hostname(&self) -> Answer<String>;
    async fn ssh_port(&self) -> Answer<u16>;
    async fn ssh_key_path(&self) -> Answer<String>;
    async fn ssh_username(&self) -> Answer<String>;
    async fn state(&self) -> Answer<State>;
    async fn pre_create_check(&self) -> Answer<()>;
    /// Makes the machine; it runs then.
    async fn create(&self) -> Answer<()>;
    async fn remove(&self) -> Answer<()>;
    async fn start(&self) -> Answer<()>;
    async fn stop(&self) -> Answer<()>;
    async fn restart(&self) -> Answer<()>;
    async fn kill(&self) -> Answer<()>;
}

/// How a plugin came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to leave.
    Closed,
    /// Nobody has asked for it any more.
    Forgotten,
}

/// All that the `main` of a plugin does.
pub async fn run(plugin: Arc<dyn Plugin>) -> ExitCode {
    if std::env::var(TOKEN.0).as_deref() != Ok(TOKEN.1) {
        // Nobody is left to be told when stderr is gone; the same below.
        let _ = writeln!(
            std::io::stderr(),
            "this is a driver plugin of docker-machine, which starts it: docker-machine create -d {} NAME",
            plugin.driver_name()
        );
        return ExitCode::FAILURE;
    }
    let told = async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{}", listener.local_addr()?)?;
        stdout.flush()?;
        std::io::Result::Ok(listener)
    };
    match told.await {
        Ok(listener) => match serve(listener, plugin, SILENCE).await {
            End::Closed => ExitCode::SUCCESS,
            End::Forgotten => ExitCode::FAILURE,
        },
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "listening: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What connections tell of beside their answers.
enum Sign {
    Beat,
    Close,
}

/// Serves until the end. Calls that are under way then are dropped.
pub async fn serve(listener: TcpListener, plugin: Arc<dyn Plugin>, silence: Duration) -> End {
    let (signs, mut seen) = mpsc::channel(16);
    let mut connections = JoinSet::new();
    let mut deadline = tokio::time::Instant::now() + silence;
    loop {
        let has_room = connections.len() < CONNECTIONS_MAX;
        // Every arm is cancel-safe: a listener, a channel, a JoinSet and a clock.
        tokio::select! {
            biased;
            Some(sign) = seen.recv() => match sign {
                Sign::Beat => deadline = tokio::time::Instant::now() + silence,
                Sign::Close => return End::Closed,
            },
            () = tokio::time::sleep_until(deadline) => return End::Forgotten,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if has_room => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(converse(stream, Arc::clone(&plugin), signs.clone()));
                }
            }
        }
    }
}

async fn converse(stream: TcpStream, plugin: Arc<dyn Plugin>, signs: mpsc::Sender<Sign>) {
    // A connection's end is the end of what was asked over it.
    if let Err(error) = talk(stream, plugin, signs).await {
        tracing::debug!("a connection ended: {error}");
    }
}

async fn talk(stream: TcpStream, plugin: Arc<dyn Plugin>, signs: mpsc::Sender<Sign>) -> Result<(), Broken> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut incoming = Incoming::new(reader);
    let greeting = timeout(GREETING, incoming.greeting()).await.map_err(|_| Broken::NoRpc)??;
    if !greeting.starts_with(b"CONNECT /_goRPC_ ") {
        writer.write_all(b"HTTP/1.0 405 must CONNECT\r\n\r\n").await?;
        return Err(Broken::NoRpc);
    }
    writer.write_all(wire::CONNECTED).await?;
    Conversation { incoming, writer, encoder: Encoder::default(), calls: JoinSet::new(), signs, plugin }.run().await
}

struct Conversation {
    incoming: Incoming<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    encoder: Encoder,
    calls: JoinSet<Reply>,
    signs: mpsc::Sender<Sign>,
    plugin: Arc<dyn Plugin>,
}

struct Reply {
    method: String,
    seq: u64,
    result: Answer<(&'static Shape, Value)>,
}

impl Conversation {
    async fn run(mut self) -> Result<(), Broken> {
        let mut head = None;
        loop {
            let has_room = self.calls.len() < CALLS_MAX;
            // Every arm is cancel-safe: a reader that keeps what it has, and a JoinSet.
            tokio::select! {
                value = self.incoming.next(), if has_room => match (head.take(), value?) {
                    (None, first) => head = Some(first),
                    (Some(first), argument) => self.begin(&first, argument).await,
                },
                Some(reply) = self.calls.join_next() => match reply {
                    Ok(reply) => self.reply(reply).await?,
                    Err(error) => tracing::error!("a call ended: {error}"),
                },
            }
        }
    }

    async fn begin(&mut self, head: &Value, argument: Value) {
        let (method, seq) = wire::head(head);
        let sign = match method.rsplit('.').next() {
            Some("Heartbeat") => Some(Sign::Beat),
            Some("Close") => Some(Sign::Close),
            _ => None,
        };
        if let Some(sign) = sign {
            // Nobody listens any more: the end is near.
            let _ = self.signs.send(sign).await;
        }
        let plugin = Arc::clone(&self.plugin);
        self.calls.spawn(async move {
            let result = call(&*plugin, &method, argument).await;
            Reply { method, seq, result }
        });
    }

    /// The answer's head, and a body even where there is none.
    async fn reply(&mut self, Reply { method, seq, result }: Reply) -> Result<(), Broken> {
        let error = result.as_ref().err().map(|error| if error.is_empty() { "failed" } else { error.as_str() });
        let mut bytes = self.encoder.encode(&RESPONSE, &wire::response(&method, seq, error.unwrap_or_default()))?;
        let (shape, value) = result.unwrap_or_else(|_| (&EMPTY, wire::empty()));
        bytes.extend(self.encoder.encode(shape, &value)?);
        let slow = |_| Broken::Io(std::io::Error::other("the peer does not read its answers"));
        Ok(timeout(WRITE, self.writer.write_all(&bytes)).await.map_err(slow)??)
    }
}

/// Carries out a call, by the name of the service that there has been from the beginning or by the present one.
async fn call(plugin: &dyn Plugin, name: &str, argument: Value) -> Answer<(&'static Shape, Value)> {
    let Some((service, method)) = name.rsplit_once('.') else {
        return Err(format!("rpc: service/method request ill-formed: {name}"));
    };
    if service != wire::SERVICE && service != wire::OLD_SERVICE {
        return Err(format!("rpc: can't find service {name}"));
    }
    match method {
        "Heartbeat" | "Close" => Ok((&EMPTY, wire::empty())),
        "GetVersion" => Ok((&INT, Value::Int(wire::VERSION))),
        "GetCreateFlags" => Ok((&FLAGS, flags::answer(&plugin.create_flags()))),
        "SetConfigRaw" => match argument {
            Value::Bytes(json) => nothing(plugin.set_config(&json).await),
            _ => Err("SetConfigRaw: bytes are wanted".into()),
        },
        "GetConfigRaw" => plugin.config().await.map(|json| (&BYTES, Value::Bytes(json))),
        "SetConfigFromFlags" => match flags::received(&argument) {
            Some(settings) => nothing(plugin.set_flags(settings).await),
            None => Err("SetConfigFromFlags: flags are wanted".into()),
        },
        "GetState" => plugin.state().await.map(|state| (&INT, Value::Int(state.number()))),
        "GetSSHPort" => plugin.ssh_port().await.map(|port| (&INT, Value::Int(port.into()))),
        "PreCreateCheck" => nothing(plugin.pre_create_check().await),
        "Create" => nothing(plugin.create().await),
        "Remove" => nothing(plugin.remove().await),
        "Start" => nothing(plugin.start().await),
        "Stop" => nothing(plugin.stop().await),
        "Restart" => nothing(plugin.restart().await),
        "Kill" => nothing(plugin.kill().await),
        _ => text(plugin, name, method).await.map(|text| (&TEXT, Value::Text(text))),
    }
}

async fn text(plugin: &dyn Plugin, name: &str, method: &str) -> Answer<String> {
    match method {
        "DriverName" => Ok(plugin.driver_name()),
        "GetMachineName" => plugin.machine_name().await,
        "GetIP" => plugin.ip().await,
        "GetURL" => plugin.url().await,
        "GetSSHHostname" => plugin.ssh_hostname().await,
        "GetSSHKeyPath" => plugin.ssh_key_path().await,
        "GetSSHUsername" => plugin.ssh_username().await,
        _ => Err(format!("rpc: can't find method {name}")),
    }
}

fn nothing(result: Answer<()>) -> Answer<(&'static Shape, Value)> {
    result.map(|()| (&EMPTY, wire::empty()))
}

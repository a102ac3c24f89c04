//! The way to the guest agent: the driver's own, or a channel of the shared ssh session, opened again when it ends. Tells
//! what listens in the guest and lends itself to tunnels. What the agent says is bounded and checked.

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use limafs_guestagent::client::{self, Client};
use limafs_guestagent::proto::{Event, IpPort};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::clock;
use super::drained::drained;
use super::own::Own;
use super::rules::{Listener, Proto};
use crate::hostagent::guest::Scene;
use crate::hostagent::line::Line;
use crate::hostagent::mounts::changes::{self, Share};
use crate::hostagent::state;

/// Where Lima's agent listens, and ours.
pub const SOCKET: &str = "/run/lima-guestagent.sock";
/// As long as Lima gives a guest that has booted, and less for one that had an agent.
pub const PATIENCE: Patience = Patience { first: Duration::from_secs(60), later: Duration::from_secs(20) };
/// Between two attempts, growing.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);
/// More listeners than these are not looked at.
const LISTENERS: usize = 4096;
/// Between two events: an agent that floods us waits, and nobody else does.
const BREATH: Duration = Duration::from_millis(5);
/// As much of what an agent complains of is logged.
const COMPLAINTS: usize = 4;

/// What is known of the guest.
#[derive(Clone, Default)]
pub struct Heard {
    pub listeners: Arc<BTreeSet<Listener>>,
    /// `None` while there is no agent.
    pub client: Option<Client>,
}

/// How long a guest may be without an agent before that is a trouble.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub first: Duration,
    pub later: Duration,
}

pub struct Agent {
    pub patience: Patience,
    pub line: Arc<Line>,
    /// Tried first, and in turns with ssh while there is no answer: an agent serves at one of the two.
    pub own: Option<Own>,
    /// Of whose changes the guest is told.
    pub shares: Arc<[Share]>,
    pub scene: watch::Receiver<Scene>,
    pub heard: watch::Sender<Heard>,
    pub tell: mpsc::Sender<state::Event>,
}

impl Agent {
    /// Keeps the connection for as long as it is polled.
    pub async fn keep(&self) {
        tokio::join!(self.stay_connected(), self.worry());
    }

    async fn stay_connected(&self) {
        let (mut pause, mut by_ssh) = (PAUSE, self.own.is_none());
        loop {
            let Err(why) = self.attempt(by_ssh).await;
            if self.heard.borrow().client.is_some() {
                tracing::info!("the guest agent is gone: {why}");
                pause = PAUSE;
                self.heard.send_modify(|heard| heard.client = None);
            } else {
                tracing::debug!("no guest agent: {why}");
                by_ssh = self.own.is_none() || !by_ssh;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tells when a guest that has booted has no agent for too long, and when it has one again.
    async fn worry(&self) {
        let (mut heard, mut scene) = (self.heard.subscribe(), self.scene.clone());
        let mut patience = self.patience.first;
        // An error means that the other side is gone, and that this future is dropped next.
        while scene.wait_for(|scene| scene.settled && !scene.paused).await.is_ok() {
            let there = |heard: &Heard| heard.client.is_some();
            if timeout(patience, heard.wait_for(there)).await.is_err() {
                self.trouble(vec!["the guest agent does not answer; port forwards will not work".into()]).await;
                let _ = heard.wait_for(there).await;
                self.trouble(vec![]).await;
            }
            let _ = heard.wait_for(|heard| !there(heard)).await;
            patience = self.patience.later;
        }
    }

    async fn trouble(&self, what: Vec<String>) {
        // Nobody listens any more: the VM is gone.
        let _ = self.tell.send(state::Event::Trouble("guest agent", what)).await;
    }

    /// One connection, from the dialling to its end.
    async fn attempt(&self, by_ssh: bool) -> Result<Infallible, String> {
        let session = self.line.session().await;
        let own = match &self.own {
            Some(own) if !by_ssh => own.dial(ANSWER).await?,
            _ => None,
        };
        match own {
            Some(stream) => tokio::select! {        // each arm ends the connection
                ended = self.speak(stream) => ended,
                // Whoever restarts the guest ends its agent, which that way does not tell.
                () = session.closed() => Err("the guest's ssh is gone".into()),
            },
            None => {
                let stream = session.dial_socket(SOCKET, ANSWER).await.map_err(|fault| fault.to_string())?;
                self.over(stream).await
            }
        }
    }

    /// The same over a stream that must not hold up those beside it.
    pub async fn over<S>(&self, stream: S) -> Result<Infallible, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, reading) = drained(stream);
        tokio::select! {        // each arm ends the connection
            ended = self.speak(stream) => ended,
            () = reading => Err("it hung up".into()),
        }
    }

    async fn speak<S>(&self, stream: S) -> Result<Infallible, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let connecting = timeout(ANSWER, client::connect(stream)).await.map_err(|_| "no answer")?;
        let (client, connection) = connecting.map_err(|error| error.to_string())?;
        tokio::select! {        // as above
            ended = connection => Err(ended.err().map_or_else(|| "it hung up".into(), |error| error.to_string())),
            ended = self.talk(client) => ended,
        }
    }

    async fn talk(&self, client: Client) -> Result<Infallible, String> {
        let mut events = events(client.clone());
        // Asked for before the snapshot is, so that nothing falls between the two; the agent tells of changes only.
        let early = events.next().now_or_never();
        let info = timeout(ANSWER, client.clone().info()).await.map_err(|_| "no answer")?.map_err(sentence)?;
        let listeners = info.local_ports.iter().filter_map(listener).take(LISTENERS).collect();
        tracing::info!("the guest agent answers");
        self.heard.send_replace(Heard { listeners: Arc::new(listeners), client: Some(client.clone()) });
        if let Some(event) = early {
            self.apply(event)?;
        }
        tokio::select! {
            ended = self.follow(events) => ended,
            ended = clock::keep(client.clone(), self.scene.clone()) => ended,
            never = changes::tell(client, Arc::clone(&self.shares)) => match never {},
        }
    }

    async fn follow(&self, mut events: BoxStream<'static, Result<Event, Status>>) -> Result<Infallible, String> {
        loop {
            self.apply(events.next().await)?;
            sleep(BREATH).await;
        }
    }

    fn apply(&self, event: Option<Result<Event, Status>>) -> Result<(), String> {
        let event = event.ok_or("its events ended")?.map_err(sentence)?;
        for error in event.errors.iter().take(COMPLAINTS) {
            tracing::warn!("guest agent: {:.200?}", error);
        }
        let added: Vec<_> = event.added_local_ports.iter().filter_map(listener).collect();
        let removed: HashSet<_> = event.removed_local_ports.iter().filter_map(listener).collect();
        self.heard.send_if_modified(|heard| {
            let mut listeners = BTreeSet::clone(&heard.listeners);
            listeners.extend(added);
            listeners.retain(|listener| !removed.contains(listener));
            while listeners.len() > LISTENERS {
                listeners.pop_last();
            }
            let changed = listeners != *heard.listeners;
            heard.listeners = Arc::new(listeners);
            changed
        });
        Ok(())
    }
}

/// The agent's events. It answers with the first of them, which may be long in coming.
fn events(mut client: Client) -> BoxStream<'static, Result<Event, Status>> {
    let opening = async move { client.events().await };
    stream::once(opening).try_flatten().boxed()
}

/// `None` for what is no listener at all.
fn listener(said: &IpPort) -> Option<Listener> {
    let ip: IpAddr = said.ip.parse().ok()?;
    let port = u16::try_from(said.port).ok().filter(|port| *port != 0)?;
    Some(Listener { proto: Proto::parse(&said.protocol)?, address: SocketAddr::new(ip.to_canonical(), port) })
}

/// An agent's words, no more of them than fit a line.
fn sentence(status: Status) -> String {
    let words: String = status.message().chars().filter(|c| !c.is_control()).take(200).collect();
    format!("{:?} {words}", status.code())
}

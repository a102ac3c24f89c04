//! A guest, its agent, and forwards between it and this host.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use limafs_driver::PortForward;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::agent::Patience;
use super::super::datagrams::{LIMITS, Limits};
use super::super::{Company, Own, Rules, Wishes, run};
use super::agent::FakeAgent;
use crate::hostagent::guest::Scene;
use crate::hostagent::line::Line;
use crate::hostagent::ssh::tests::guest::{Guest, Manners};
use crate::hostagent::state::Event;
use crate::status::Forward;

/// No test waits longer.
pub const LONG: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Setting {
    /// `portForwards`, filled by hand.
    pub rules: Vec<PortForward>,
    pub plain: bool,
    pub by_ssh: bool,
    pub patience: Option<Duration>,
    pub udp: Option<Limits>,
    /// The driver's way to the agent.
    pub own: Option<Own>,
}

pub struct World {
    pub dir: TempDir,
    pub scene: watch::Sender<Scene>,
    pub forwards: watch::Receiver<Arc<[Forward]>>,
    pub told: mpsc::Receiver<Event>,
    pub tasks: JoinSet<()>,
    pub guest: Guest,
}

/// All ports of the guest's 127.0.0.2 on the host's 127.0.0.1.
pub fn any() -> PortForward {
    PortForward {
        proto: Some("any".into()),
        guest_ip: Some("127.0.0.2".into()),
        guest_ip_must_be_zero: Some(false),
        guest_port_range: Some([1, 65535]),
        host_ip: Some("127.0.0.1".into()),
        host_port_range: Some([1, 65535]),
        ..PortForward::default()
    }
}

impl World {
    pub async fn new(setting: Setting) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let guest = Guest::start(Manners { sockets: dir.path().to_owned(), ..Manners::default() }).await;
        let line = Arc::new(Line::new(guest.login().await));
        let (tell, told) = mpsc::channel(64);
        let (scene, look) = watch::channel(Scene { settled: true, paused: false });
        let (forwards_to, forwards) = watch::channel(Arc::from([]));
        let mut tasks = JoinSet::new();
        let (kept, telling) = (Arc::clone(&line), tell.clone());
        line.begin();
        tasks.spawn(async move { kept.keep(&telling).await });
        let patience = setting.patience.unwrap_or(LONG);
        let wishes = Wishes {
            rules: Rules::new(&setting.rules, 60022, setting.plain),
            plain: setting.plain,
            by_ssh: setting.by_ssh,
            patience: Patience { first: patience, later: patience },
            shares: Arc::from([]),
            udp: setting.udp.unwrap_or(Limits { idle: LONG, ..LIMITS }),
        };
        tasks.spawn(run(wishes, Company { line, own: setting.own, scene: look, forwards: forwards_to, tell }));
        Self { dir, scene, forwards, told, tasks, guest }
    }

    pub async fn with_any() -> Self {
        Self::new(Setting { rules: vec![any()], ..Setting::default() }).await
    }

    pub fn agent_socket(&self) -> PathBuf {
        self.dir.path().join("lima-guestagent.sock")
    }

    pub fn agent(&self, ports: Vec<limafs_guestagent::proto::IpPort>) -> FakeAgent {
        FakeAgent::start(&self.agent_socket(), ports)
    }

    /// The table as it is when it is as it should be.
    pub async fn until(&mut self, is_so: impl Fn(&[Forward]) -> bool) -> Arc<[Forward]> {
        let found = timeout(LONG, self.forwards.wait_for(|forwards| is_so(forwards))).await;
        if let Ok(forwards) = found {
            return forwards.unwrap().clone();
        }
        drop(found);
        panic!("{:.2000}", format!("{:?}", self.forwards.borrow()))
    }

    /// Waits until the host forwards this address.
    pub async fn forwarding(&mut self, host: SocketAddr) {
        let host = host.to_string();
        self.until(|all| all.iter().any(|one| one.host == host && one.state == "forwarding")).await;
    }

    /// The states of all host ends.
    pub fn states(&self) -> BTreeMap<String, String> {
        self.forwards.borrow().iter().map(|one| (one.host.clone(), one.state.clone())).collect()
    }
}

/// A listener in the guest, and the address that the host has for it.
pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let host = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    (listener, host)
}

/// Answers each connection with what it sent, once it has sent all.
pub async fn echo(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let mut all = Vec::new();
            if stream.read_to_end(&mut all).await.is_ok() {
                let _ = stream.write_all(&all).await;
            }
        });
    }
}

/// Sends all, says that it was all, and returns what came back until the end.
pub async fn ask(host: SocketAddr, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let asking = async {
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(data).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    timeout(LONG, asking).await.expect("an answer in time")
}

//! Those who work beside a running guest, and what they share: its configuration and the line to it. Each is a task
//! that ends with the VM; what goes wrong with one is told to the actor and hurts no other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use limafs_driver::HostResolver;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::dns::{Hosts, Names, Ports, Server};
use super::forward;
use super::jobs;
use super::line::Line;
use super::mounts;
use super::state::Event;
use super::steps::Prepared;
use crate::cidata::{ADDRESS, GATEWAY};
use crate::names::Home;
use crate::status::Forward;

/// How often a port that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What those beside a guest are told of its VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scene {
    /// The guest has booted.
    pub settled: bool,
    pub paused: bool,
}

pub enum News {
    Event(Event),
    /// All of the ports and sockets, without the guest's ssh.
    Forwards(Arc<[Forward]>),
}

/// The tasks beside one VM; dropping it ends them.
pub struct Company {
    news: mpsc::Receiver<Event>,
    forwards: watch::Receiver<Arc<[Forward]>>,
    scene: watch::Sender<Scene>,
    _tasks: JoinSet<()>,
}

impl Company {
    /// Begins the work. `None` for a VM without a guest that can be reached.
    pub fn begin(home: &Home, dir: &Path, prepared: &Arc<Prepared>) -> Option<Self> {
        let line = Arc::clone(prepared.line.as_ref()?);
        let (tell, news) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let (scene, look) = watch::channel(Scene::default());
        let (forwards_to, forwards) = watch::channel(Arc::from([]));
        if let Some(ports) = prepared.facts.dns {
            tasks.spawn(serve_names(ports, names(home, prepared, &line), tell.clone()));
        }
        if !prepared.mounts.is_empty() {
            tasks.spawn(mounts::keep(Arc::clone(&prepared.mounts), Arc::clone(&line), tell.clone()));
        }
        tasks.spawn(jobs::keep(Arc::clone(&line), dir.to_owned()));
        tasks.spawn(keep(Arc::clone(&line), tell.clone()));
        let wishes = forward::Wishes::of(prepared);
        let own = Some(forward::Own::new(Arc::clone(&prepared.driver), dir));
        tasks.spawn(forward::run(wishes, forward::Company { line, own, scene: look, forwards: forwards_to, tell }));
        Some(Self { news, forwards, scene, _tasks: tasks })
    }

    /// What they have to say. Cancel-safe.
    pub async fn next(&mut self) -> Option<News> {
        tokio::select! {        // cancel-safe: channels
            biased;
            event = self.news.recv() => event.map(News::Event),
            Ok(()) = self.forwards.changed() => Some(News::Forwards(self.forwards.borrow_and_update().clone())),
        }
    }

    /// Tells them how the VM is.
    pub fn show(&self, scene: Scene) {
        self.scene.send_if_modified(|known| std::mem::replace(known, scene) != scene);
    }
}

async fn keep(line: Arc<Line>, tell: mpsc::Sender<Event>) {
    line.keep(&tell).await;
}

/// The host, the guest itself, and then what lima.yaml says, which may say otherwise.
fn names(home: &Home, prepared: &Prepared, line: &Line) -> Names {
    let HostResolver { ipv6, hosts, .. } = prepared.config.host_resolver.clone().unwrap_or_default();
    let login = line.login();
    let own = [("host.lima.internal", GATEWAY), (login.alias.as_str(), ADDRESS)];
    let given = hosts.iter().flatten().map(|(name, target)| (name.as_str(), target.as_str()));
    let hosts = Hosts::new(own.into_iter().chain(given));
    Names::new(hosts, home.clone(), ipv6 == Some(true))
}

/// Serves for as long as it is polled. The ports may be taken for a moment by the hostagent before this one.
async fn serve_names(ports: Ports, names: Names, tell: mpsc::Sender<Event>) {
    let names = Arc::new(names);
    let mut told = false;
    let server = loop {
        match Server::bind(ports, Arc::clone(&names)).await {
            Ok(server) => break server,
            Err(error) if !told => {
                told = true;
                let why = format!(
                    "the guest's name server cannot listen on port {} (udp) and {} (tcp): {error}",
                    ports.udp, ports.tcp
                );
                // Nobody listens any more: the VM is gone. The same below.
                let _ = tell.send(Event::Trouble("dns", vec![why])).await;
            }
            Err(_) => {}
        }
        sleep(AGAIN).await;
    };
    if told {
        let _ = tell.send(Event::Trouble("dns", vec![])).await;
    }
    server.serve().await;
}

//! Those who work beside a running guest, and what they share: its configuration and the line to it. Each is a task
//! that ends with the VM; what goes wrong with one is told to the actor and hurts no other.

use std::sync::Arc;
use std::time::Duration;

use limafs_driver::HostResolver;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::dns::{Hosts, Names, Ports, Server};
use super::line::Line;
use super::mounts;
use super::state::Event;
use super::steps::Prepared;
use crate::cidata::{ADDRESS, GATEWAY};
use crate::names::Home;

/// How often a port that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// The tasks beside one VM; dropping it ends them.
pub struct Company {
    pub news: mpsc::Receiver<Event>,
    _tasks: JoinSet<()>,
}

impl Company {
    /// Begins the work. `None` for a VM without a guest that can be reached.
    pub fn begin(home: &Home, prepared: &Arc<Prepared>) -> Option<Self> {
        let line = Arc::clone(prepared.line.as_ref()?);
        let (tell, news) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        if let Some(ports) = prepared.facts.dns {
            tasks.spawn(serve_names(ports, names(home, prepared, &line), tell.clone()));
        }
        if !prepared.mounts.is_empty() {
            tasks.spawn(mounts::keep(Arc::clone(&prepared.mounts), Arc::clone(&line), tell.clone()));
        }
        tasks.spawn(keep(line, tell));
        Some(Self { news, _tasks: tasks })
    }
}

async fn keep(line: Arc<Line>, tell: mpsc::Sender<Event>) {
    line.keep(&tell).await;
}

/// The host, the guest itself, and then what lima.yaml says, which may say otherwise.
fn names(home: &Home, prepared: &Prepared, line: &Line) -> Names {
    let HostResolver { ipv6, hosts, .. } = prepared.config.host_resolver.clone().unwrap_or_default();
    let own = [("host.lima.internal", GATEWAY), (line.login().alias.as_str(), ADDRESS)];
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

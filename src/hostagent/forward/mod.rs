//! Port forwards: the host's ends of what listens in the guest. The rules decide, the agent says what there is, one task
//! keeps the table; each forward is a task, each connection another that outlives it. Dials nobody for the guest.
//!
//! ```text
//!  agent --Heard--> table (rules) --> Post: bind, accept --> tunnel (agent) | datagrams (agent) | carriers (ssh)
//! ```

mod agent;
mod carriers;
mod clock;
mod datagrams;
mod drained;
mod holder;
mod own;
mod place;
mod post;
mod rules;
mod table;
mod tunnel;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use limafs_driver::{Config, Features, PortForward};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::either::Either;

use super::guest::Scene;
use super::line::Line;
use super::mounts::changes::{Share, shares};
use super::ssh::Login;
use super::state::Event;
use super::steps::Prepared;
use crate::status::Forward;
use agent::{Agent, Heard, PATIENCE, Patience};
use carriers::Carriers;
pub use own::Own;
use post::Means;
use rules::Rules;
use table::Table;

/// A connection of the host.
type Socket = Either<TcpStream, UnixStream>;
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Lima's switch: TCP through ssh, and nothing through the agent.
const BY_SSH: &str = "LIMA_SSH_PORT_FORWARDER";
/// Between two looks at the table from outside: a guest that flaps costs no more than that.
const PUBLISH: Duration = Duration::from_millis(40);

/// What is asked for.
pub struct Wishes {
    rules: Rules,
    /// There is no agent, and nothing but what is static.
    plain: bool,
    by_ssh: bool,
    patience: Patience,
    /// Of whose changes the guest is told.
    shares: Arc<[Share]>,
    udp: datagrams::Limits,
}

impl Wishes {
    pub fn of(prepared: &Prepared) -> Self {
        let configured = asked(&prepared.config, &prepared.driver.info().features);
        let plain = prepared.is_plain();
        let by_ssh = std::env::var_os(BY_SSH).is_some_and(|value| value == "true" || value == "1");
        let rules = Rules::new(&configured, prepared.facts.ssh_local_port, plain);
        Self { rules, plain, by_ssh, patience: PATIENCE, shares: shares(&prepared.config), udp: datagrams::LIMITS }
    }
}

/// What of `portForwards` is for such a driver.
fn asked(config: &Config, features: &Features) -> Vec<PortForward> {
    let all = config.port_forwards.iter().flatten();
    all.filter(|forward| !features.skip_socket_forwarding || !rules::has_guest_socket(forward)).cloned().collect()
}

/// Whom forwarding works with.
pub struct Company {
    pub line: Arc<Line>,
    /// The driver's way to the guest agent, which it may have.
    pub own: Option<Own>,
    pub scene: watch::Receiver<Scene>,
    pub forwards: watch::Sender<Arc<[Forward]>>,
    pub tell: mpsc::Sender<Event>,
}

/// Forwards for as long as it is polled, once the guest was reached.
pub async fn run(wishes: Wishes, company: Company) {
    let Company { line, own, scene, forwards, tell } = company;
    line.session().await;
    let heard = watch::Sender::new(Heard::default());
    let (plain, patience, shares) = (wishes.plain, wishes.patience, Arc::clone(&wishes.shares));
    let forwarding = forward(wishes, Login::clone(&line.login()), heard.subscribe(), forwards);
    match plain {
        true => forwarding.await,
        false => {
            let agent = Agent { patience, line, own, shares, scene, heard, tell };
            tokio::join!(agent.keep(), forwarding);
        }
    }
}

/// The loop of the one task that has the table.
async fn forward(
    wishes: Wishes,
    login: Login,
    mut heard: watch::Receiver<Heard>,
    forwards: watch::Sender<Arc<[Forward]>>,
) {
    let (work_to, mut work) = mpsc::channel::<Work>(64);
    let (reports_to, mut reports) = mpsc::channel(64);
    let carriers = Arc::new(Carriers::new(login, work_to.clone()));
    let means = Means { heard: heard.clone(), carriers, work: work_to, reports: reports_to, udp: wishes.udp };
    let mut table = Table::new(wishes.rules, wishes.by_ssh, means);
    let mut connections = JoinSet::new();
    let mut published = Instant::now();
    let mut due = None;
    table.update(&heard.borrow_and_update().listeners);
    loop {
        // Every arm is cancel-safe: channels, a JoinSet and a clock.
        tokio::select! {
            Ok(()) = heard.changed() => {
                let listeners = Arc::clone(&heard.borrow_and_update().listeners);
                table.update(&listeners);
            }
            Some((id, state)) = reports.recv() => table.report(id, state),
            Some(work) = work.recv() => {
                connections.spawn(work);
                continue;
            }
            Some(_) = connections.join_next() => continue,
            () = sleep_until(due.unwrap_or(published)), if due.is_some() => {
                due = None;
                published = Instant::now();
                forwards.send_replace(table.forwards());
                continue;
            }
        }
        due = due.or(Some(Instant::now().max(published + PUBLISH)));
    }
}

//! ssh sessions that carry connections, beside the one that all share: a reader that stops holds up the session that it
//! reads from (see `ssh::tunnel`), so each connection has a session to itself as long as there are few, and never the
//! shared one. One idle session is kept ready; others stay for a while, because to open one costs the guest more than a
//! few MiB through it do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use super::{Socket, Work};
use crate::hostagent::ssh::{self, Fault, Login, Session};

/// sshd of the guest has a process for each.
const SESSIONS: usize = 8;
const LIMIT: Duration = Duration::from_secs(10);
/// For so long an idle session is kept beside another idle one.
const KEPT: Duration = Duration::from_secs(60);
const BUFFER: usize = 32 << 10;

/// Where a connection goes in the guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Goal {
    Tcp(SocketAddr),
    Socket(String),
}

pub struct Carriers {
    login: Login,
    sessions: Mutex<Vec<Arc<Carrier>>>,
    /// Whoever opens one has it.
    opening: Semaphore,
    /// Who does what nobody waits for.
    work: mpsc::Sender<Work>,
    /// Somebody sees to it that idle sessions go.
    parting: AtomicBool,
}

struct Carrier {
    session: Session,
    load: AtomicUsize,
    /// When it last began or ended a connection.
    used: Mutex<Instant>,
}

impl Carrier {
    fn is_idle(&self) -> bool {
        self.load.load(Ordering::Relaxed) == 0
    }
}

/// A place in a session, given back when dropped.
struct Ride<'a> {
    carriers: &'a Arc<Carriers>,
    carrier: Arc<Carrier>,
}

impl Carriers {
    pub fn new(login: Login, work: mpsc::Sender<Work>) -> Self {
        Self { login, sessions: Mutex::default(), opening: Semaphore::new(1), work, parting: AtomicBool::new(false) }
    }

    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Carries one connection until both sides are done, or one is gone.
    pub async fn carry(self: Arc<Self>, goal: Goal, mut socket: Socket) {
        let carrying = async {
            let ride = self.ride().await?;
            let session = &ride.carrier.session;
            let mut stream = match &goal {
                Goal::Tcp(address) => session.dial_tcp(*address, LIMIT).await?,
                Goal::Socket(path) => session.dial_socket(path, LIMIT).await?,
            };
            tokio::select! {        // either end ends the connection
                // How it ended matters to nobody.
                _ = copy_bidirectional_with_sizes(&mut socket, &mut stream, BUFFER, BUFFER) => {}
                () = session.closed() => {}
            }
            Ok::<_, Fault>(())
        };
        if let Err(fault) = carrying.await {
            tracing::debug!("{goal:?}: {fault}");
        }
    }

    async fn ride(self: &Arc<Self>) -> Result<Ride<'_>, Fault> {
        if let Some(ride) = self.least_loaded() {
            self.prepare_another();
            return Ok(ride);
        }
        // Never closed.
        let _opening = self.opening.acquire().await;
        if let Some(ride) = self.least_loaded() {
            return Ok(ride);
        }
        self.open().await?;
        self.least_loaded().ok_or_else(|| Fault::Unreachable("the session ended".into()))
    }

    fn least_loaded(self: &Arc<Self>) -> Option<Ride<'_>> {
        let mut sessions = self.sessions.lock();
        sessions.retain(|carrier| carrier.session.is_open());
        let carrier = Arc::clone(sessions.iter().min_by_key(|carrier| carrier.load.load(Ordering::Relaxed))?);
        carrier.load.fetch_add(1, Ordering::Relaxed);
        *carrier.used.lock() = Instant::now();
        Some(Ride { carriers: self, carrier })
    }

    /// Sees to it that the next connection has a session to itself.
    fn prepare_another(self: &Arc<Self>) {
        let enough = {
            let sessions = self.sessions.lock();
            sessions.len() >= SESSIONS || sessions.iter().any(|carrier| carrier.is_idle())
        };
        if enough || self.opening.available_permits() == 0 {
            return;
        }
        let carriers = Arc::clone(self);
        // Full: the next connection asks again.
        let _ = self.work.try_send(Box::pin(async move {
            let Ok(_opening) = carriers.opening.try_acquire() else { return };
            if let Err(fault) = carriers.open().await {
                tracing::info!("another session for forwards: {fault}");
            }
        }));
    }

    /// Lets go of idle sessions, all but one, when they have been idle for long.
    fn part_later(self: &Arc<Self>) {
        if self.parting.swap(true, Ordering::Relaxed) {
            return;
        }
        let carriers = Arc::downgrade(self);
        let parting = async move {
            loop {
                sleep(KEPT).await;
                let Some(carriers) = carriers.upgrade() else { return };
                if !carriers.part() {
                    return carriers.parting.store(false, Ordering::Relaxed);
                }
            }
        };
        if self.work.try_send(Box::pin(parting)).is_err() {
            // The next connection's end asks again.
            self.parting.store(false, Ordering::Relaxed);
        }
    }

    /// Whether there may be more to let go of later.
    fn part(&self) -> bool {
        let mut sessions = self.sessions.lock();
        let mut idle = sessions.iter().filter(|carrier| carrier.is_idle()).count();
        sessions.retain(|carrier| {
            let goes = idle > 1 && carrier.is_idle() && carrier.used.lock().elapsed() >= KEPT;
            idle -= usize::from(goes);
            !goes
        });
        idle > 1
    }

    async fn open(&self) -> Result<(), Fault> {
        let answered = ssh::dial(&self.login, LIMIT).await?;
        let session = ssh::enter(&self.login, answered, LIMIT).await?;
        self.sessions.lock().push(Arc::new(Carrier {
            session,
            load: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
        }));
        Ok(())
    }
}

impl Drop for Ride<'_> {
    fn drop(&mut self) {
        *self.carrier.used.lock() = Instant::now();
        if self.carrier.load.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.carriers.part_later();
        }
    }
}

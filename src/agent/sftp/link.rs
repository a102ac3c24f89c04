//! The way to the files of one instance's guest: connected when it is first needed, given up when the guest hangs, and
//! then tried again beside the callers, who are told at once that the host is down.
//!
//! ```text
//!  Idle --call--> Connecting --> Up --silent--> Hung --probe--> Up, or Idle when there is nobody to ask
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Attempt, Client, Fault, METADATA};
use crate::agent::wire::Line;
use crate::error::{Error, Result};

/// Between two attempts to reach a guest that hangs.
const PROBE: Duration = Duration::from_secs(1);
/// For so long a failed attempt answers those who come.
const REST: Duration = Duration::from_millis(200);

#[derive(Clone)]
enum State {
    Idle,
    Connecting,
    Up(Arc<Client>),
    Failed { errno: i32, why: String, at: Instant },
    Hung,
}

/// The way to one guest's files. Dropping it closes the connection.
pub struct Link {
    dir: PathBuf,
    state: watch::Sender<State>,
    /// The attempt that is under way.
    tasks: Mutex<JoinSet<()>>,
}

impl Link {
    /// Of the instance in `dir`. Connects nothing yet.
    pub fn new(dir: &Path) -> Arc<Self> {
        Arc::new(Self { dir: dir.to_owned(), state: watch::Sender::new(State::Idle), tasks: Mutex::default() })
    }

    /// The instance's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The connection; connects when there is none. At once EHOSTDOWN while the guest is known to hang.
    pub async fn client(self: &Arc<Self>) -> Result<Arc<Client>> {
        let mut states = self.state.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                State::Up(client) if client.is_open() => return Ok(client),
                State::Hung => return Err(self.down()),
                State::Failed { errno, why, at } if at.elapsed() < REST => {
                    return Err(Error::Refused { message: why, errno });
                }
                State::Connecting => {
                    // The sender is in `self`.
                    let _ = states.changed().await;
                }
                State::Idle | State::Up(_) | State::Failed { .. } => self.connect(),
            }
        }
    }

    /// The error of a failed call. A guest from which nothing at all was heard since the call began is given up.
    pub async fn explain(
        self: &Arc<Self>,
        client: &Arc<Client>,
        begun: Instant,
        what: Attempt<'_>,
        fault: Fault,
    ) -> Error {
        let hangs = fault == Fault::Late && client.is_silent_since(begun);
        if hangs {
            self.give_up(client);
        }
        let errno = client.errno(what, fault).await;
        Error::Refused { message: format!("{}: {fault}", self.name()), errno }
    }

    fn connect(self: &Arc<Self>) {
        let mut begins = false;
        self.state.send_if_modified(|state| {
            begins = match state {
                State::Connecting | State::Hung => false,
                State::Up(client) => !client.is_open(),
                State::Failed { at, .. } => at.elapsed() >= REST,
                State::Idle => true,
            };
            if begins {
                *state = State::Connecting;
            }
            begins
        });
        if begins {
            self.spawn(self.attempt());
        }
    }

    /// What is done beside the callers ends with the link: it holds what it needs, not the link itself.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    fn attempt(&self) -> impl Future<Output = ()> + Send + 'static {
        let (dir, state) = (self.dir.clone(), self.state.clone());
        async move {
            let next = reach(&dir).await;
            let hung = matches!(next, State::Hung);
            state.send_replace(next);
            if hung {
                probe(&dir, &state).await;
            }
        }
    }

    /// Whoever waits for an answer of it gets none.
    fn give_up(&self, silent: &Arc<Client>) {
        let given_up = self.state.send_if_modified(|state| {
            let is_it = matches!(state, State::Up(client) if Arc::ptr_eq(client, silent));
            if is_it {
                *state = State::Hung;
            }
            is_it
        });
        if given_up {
            tracing::info!("{}: the guest's files do not answer", self.name());
            silent.abandon();
            let (dir, state) = (self.dir.clone(), self.state.clone());
            self.spawn(async move { probe(&dir, &state).await });
        }
    }

    fn down(&self) -> Error {
        Error::HostDown { what: format!("{}: its guest does not answer", self.name()) }
    }

    fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Tries again until the guest answers, or there is nobody to ask.
async fn probe(dir: &Path, state: &watch::Sender<State>) {
    loop {
        sleep(PROBE).await;
        match reach(dir).await {
            State::Hung => {}
            State::Failed { .. } => break drop(state.send_replace(State::Idle)),
            next => break drop(state.send_replace(next)),
        }
    }
}

async fn reach(dir: &Path) -> State {
    let reaching = async {
        let stream = Line::open(dir).await?.upgrade("/v1/sftp", "sftp").await?;
        Client::begin(stream).await.map_err(|fault| match fault {
            Fault::Late => Error::Timeout { what: "the guest's sftp".into(), seconds: METADATA.as_secs() },
            fault => Error::Refused { message: fault.to_string(), errno: libc::EHOSTDOWN },
        })
    };
    match timeout(METADATA, reaching).await {
        Ok(Ok(client)) => State::Up(Arc::new(client)),
        Err(_) => State::Hung,
        Ok(Err(error)) if error.errno() == libc::ETIMEDOUT => State::Hung,
        Ok(Err(error)) => State::Failed { errno: error.errno(), why: error.to_string(), at: Instant::now() },
    }
}

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

use super::wire::Line;
use crate::error::{Error, Result};
use crate::sftp::{Attempt, Client, Fault, METADATA};

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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;
    use crate::names::HA_SOCK;
    use crate::sftp::tests::{FSTAT, Script, serve, status};

    /// A hostagent that joins each connection with a scripted guest.
    fn hostagent(script: Script) -> (TempDir, PathBuf, JoinSet<()>) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("foo");
        std::fs::create_dir(&dir).unwrap();
        let listener = UnixListener::bind(dir.join(HA_SOCK)).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut guests = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                guests.spawn(upgrade(stream, script));
            }
        });
        (temp, dir, tasks)
    }

    async fn upgrade(mut stream: UnixStream, script: Script) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"GET /v1/sftp "));
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: sftp\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        serve(stream, script).await;
    }

    #[tokio::test]
    async fn a_guest_that_does_not_answer_is_given_up_and_found_again() {
        // Says nothing to FSTAT, and all is well with the rest.
        let (_temp, dir, _tasks) = hostagent(|kind, id| if kind == FSTAT { Some(vec![]) } else { Some(status(id, 0)) });
        let link = Link::new(&dir);
        let client = link.client().await.unwrap();
        let begun = Instant::now();
        let (silent, other) = tokio::join!(client.fstat(b"h"), client.fstat(b"i"));
        assert_eq!((silent, other), (Err(Fault::Late), Err(Fault::Late)));
        let error = link.explain(&client, begun, Attempt::Look, Fault::Late).await;
        assert_eq!(error.errno(), libc::ETIMEDOUT);
        // While it hangs nobody waits for it: the answer is there when it is asked for.
        assert_eq!(link.client().now_or_never().unwrap().err().unwrap().errno(), libc::EHOSTDOWN);
        assert!(!client.is_open());
        let again = async {
            while link.client().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), again).await.unwrap();
        assert_eq!(link.client().await.unwrap().rmdir(b"/a").await, Ok(()));
    }

    #[tokio::test]
    async fn a_busy_guest_is_not_given_up() {
        let (_temp, dir, _tasks) = hostagent(|_, id| Some(status(id, 0)));
        let link = Link::new(&dir);
        let client = link.client().await.unwrap();
        let begun = Instant::now();
        client.rmdir(b"/a").await.unwrap();
        link.explain(&client, begun, Attempt::Look, Fault::Late).await;
        assert!(client.is_open());
        assert!(Arc::ptr_eq(&client, &link.client().await.unwrap()));
    }

    #[tokio::test]
    async fn without_a_hostagent_the_host_is_down() {
        let temp = tempfile::tempdir().unwrap();
        let link = Link::new(temp.path());
        // Not for the deadline of one that is there and does not answer.
        let asked = Instant::now();
        assert_eq!(link.client().await.err().unwrap().errno(), libc::EHOSTDOWN);
        assert!(asked.elapsed() < METADATA);
    }
}

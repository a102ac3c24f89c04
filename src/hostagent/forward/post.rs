//! One forward: binds its place, hands connections on, says how it is, and tries again for as long as it cannot.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::agent::Heard;
use super::carriers::{Carriers, Goal};
use super::place::{Bound, Failure, Place, Seen, bind};
use super::{Socket, Work, datagrams, tunnel};
use crate::hostagent::ssh::{self, tunnel::Stream};

const LIMIT: Duration = Duration::from_secs(10);
/// How long nothing is accepted when descriptors are out.
const BREATH: Duration = Duration::from_millis(100);

/// How connections get to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    Agent(SocketAddr),
    Ssh(Goal),
    /// They come from there.
    Reverse,
}

/// How a forward is: forwarding, or why not.
pub type State = Result<(), String>;

/// What all forwards share.
#[derive(Clone)]
pub struct Means {
    pub heard: watch::Receiver<Heard>,
    pub carriers: Arc<Carriers>,
    /// Takes connections, which outlive their forward.
    pub work: mpsc::Sender<Work>,
    pub reports: mpsc::Sender<(u64, State)>,
    pub udp: datagrams::Limits,
}

pub struct Post {
    pub id: u64,
    pub place: Place,
    pub way: watch::Receiver<Way>,
    pub asked: bool,
    pub means: Means,
}

impl Post {
    /// Runs for as long as it is polled.
    pub async fn keep(self) {
        let mut seen = Seen::default();
        loop {
            let failure = match &self.place {
                Place::Host(proto, host) => match bind(*proto, host, self.asked, &mut seen).await {
                    Ok(bound) => {
                        self.report(Ok(())).await;
                        Failure::new(self.serve(bound).await)
                    }
                    Err(failure) => failure,
                },
                Place::Guest { socket, host } => self.reverse(socket, host).await,
            };
            self.report(Err(failure.why)).await;
            sleep(failure.again).await;
        }
    }

    async fn report(&self, state: State) {
        // Whoever listened is gone; this is dropped next.
        let _ = self.means.reports.send((self.id, state)).await;
    }

    async fn serve(&self, bound: Bound) -> io::Error {
        if let Bound::Udp(socket) = bound {
            return datagrams::serve(socket, self.way.clone(), self.means.heard.clone(), self.means.udp).await;
        }
        loop {
            match bound.accept().await {
                Ok(socket) => self.hand_on(socket).await,
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::warn!("{:?}: {error}", self.place);
                    sleep(BREATH).await;
                }
            }
        }
    }

    /// Without a way to the guest the connection is closed.
    async fn hand_on(&self, socket: Socket) {
        let way = self.way.borrow().clone();
        let work: Work = match way {
            Way::Agent(guest) => {
                let Some(client) = self.means.heard.borrow().client.clone() else { return };
                Box::pin(tunnel::carry(client, guest, socket))
            }
            Way::Ssh(goal) => Box::pin(Arc::clone(&self.means.carriers).carry(goal, socket)),
            Way::Reverse => return,
        };
        // As above.
        let _ = self.means.work.send(work).await;
    }

    /// Listens in the guest, through a session of its own; returns when that ends.
    async fn reverse(&self, socket: &str, host: &Path) -> Failure {
        let listening = async {
            let login = self.means.carriers.login();
            let session = ssh::enter(login, ssh::dial(login, LIMIT).await?, LIMIT).await?;
            // sshd does not replace what an earlier session left.
            session.exec(&format!("rm -f -- {}", shell_word(socket)), LIMIT).await?;
            let streams = session.listen(socket, LIMIT).await?;
            Ok::<_, ssh::Fault>((session, streams))
        };
        let (session, mut streams) = match listening.await {
            Ok(listening) => listening,
            Err(fault) => return Failure::new(fault),
        };
        self.report(Ok(())).await;
        loop {
            tokio::select! {        // cancel-safe: a channel and a look
                Some(stream) = streams.recv() => {
                    // As above.
                    let _ = self.means.work.send(Box::pin(dial_host(host.to_owned(), stream))).await;
                }
                () = session.closed() => return Failure::new("the ssh session ended"),
            }
        }
    }
}

async fn dial_host(path: PathBuf, mut stream: Stream) {
    match timeout(LIMIT, UnixStream::connect(&path)).await {
        // How it ended matters to nobody.
        Ok(Ok(mut socket)) => drop(copy_bidirectional(&mut socket, &mut stream).await),
        Ok(Err(error)) => tracing::debug!("{}: {error}", path.display()),
        Err(_) => tracing::debug!("{}: no answer", path.display()),
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s24_a_path_is_one_word_for_a_shell() {
        for path in ["/run/a.sock", "/run/$(touch /tmp/p)", "/run/it's; rm -rf /", "/run/a b\n`c`"] {
            let script = format!("printf %s {}", shell_word(path));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), path);
        }
    }
}

//! The line to a guest: the one ssh session that all who work beside a running VM share, opened again when it is lost.
//! Dials nobody before the guest was reached once, or is known to be up: a guest that boots pays for each attempt.

use std::sync::Arc;
use std::time::Duration;

use limafs_driver::SshLogin;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::ready::probe::Probe;
use super::ssh::{Fault, Login, Session};
use super::state::Event;

/// How long a line may be lost before that is a trouble: longer than sshd takes to restart.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Line {
    /// Another one when the VM turns out to be elsewhere.
    login: Mutex<Arc<Login>>,
    /// Shared by callers; each makes its own channels in it.
    session: watch::Sender<Option<Arc<Session>>>,
    begun: watch::Sender<bool>,
    /// The mount has something for the jobs.
    pub nudged: Notify,
}

impl Line {
    pub fn new(login: Login) -> Self {
        let login = Mutex::new(Arc::new(login));
        Self { login, session: watch::Sender::new(None), begun: watch::Sender::new(false), nudged: Notify::new() }
    }

    pub fn login(&self) -> Arc<Login> {
        Arc::clone(&self.login.lock())
    }

    /// From now on the guest is where its driver says.
    pub fn lead_to(&self, place: &SshLogin) {
        let SshLogin { address, port, user } = place.clone();
        let mut login = self.login.lock();
        *login = Arc::new(Login { address, port, user, ..Login::clone(&login) });
    }

    /// From now on there is to be a session.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Makes a session the one that all share.
    pub fn offer(&self, session: Session) -> Arc<Session> {
        let session = Arc::new(session);
        self.session.send_replace(Some(Arc::clone(&session)));
        self.begin();
        session
    }

    /// The session, waiting for one as long as it takes: callers set their own limits. Cancel-safe.
    pub async fn session(&self) -> Arc<Session> {
        let mut sessions = self.session.subscribe();
        // The sender is in `self`: this cannot fail.
        let found = sessions.wait_for(|session| session.as_ref().is_some_and(|session| session.is_open())).await;
        match found.ok().and_then(|session| session.clone()) {
            Some(session) => session,
            None => std::future::pending().await,
        }
    }

    /// The session, if there is one now.
    pub fn current(&self) -> Option<Arc<Session>> {
        self.session.borrow().clone().filter(|session| session.is_open())
    }

    /// Gives up a session in which something hangs, so that another is opened.
    pub fn lose(&self, session: &Arc<Session>) {
        session.shut();
        self.withdraw(session);
    }

    /// Keeps a session open for as long as it is polled; tells of the trouble when it cannot, and of its end.
    pub async fn keep(&self, tell: &mpsc::Sender<Event>) {
        let mut begun = self.begun.subscribe();
        // As above.
        let _ = begun.wait_for(|begun| *begun).await;
        loop {
            let current = self.session.borrow().clone();
            match current {
                Some(session) => {
                    self.outlasted(&session).await;
                    self.withdraw(&session);
                }
                None => self.open(tell).await,
            }
        }
    }

    /// Returns when the session has ended, or another has taken its place. Cancel-safe.
    pub async fn outlasted(&self, session: &Arc<Session>) {
        let mut sessions = self.session.subscribe();
        let is_other = |other: &Option<Arc<Session>>| !other.as_ref().is_some_and(|other| Arc::ptr_eq(other, session));
        tokio::select! {        // cancel-safe: both only look
            () = session.closed() => {}
            _ = sessions.wait_for(is_other) => {}
        }
    }

    fn withdraw(&self, session: &Arc<Session>) {
        self.session.send_if_modified(|current| {
            let is_this = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session));
            if is_this {
                *current = None;
            }
            is_this
        });
    }

    async fn open(&self, tell: &mpsc::Sender<Event>) {
        let late = Instant::now() + PATIENCE;
        let mut sessions = self.session.subscribe();
        let mut probe = Probe::new(Login::clone(&self.login()));
        let mut told = false;
        let mut last = Fault::Unreachable("no answer".into());
        loop {
            // Cancel-safe: a JoinSet, a look at a channel and a clock.
            tokio::select! {
                result = probe.next() => match result {
                    Ok(session) => {
                        self.offer(session);
                        break;
                    }
                    Err(fault) => last = fault,
                },
                // Whoever waits for a boot was faster.
                () = is_there(&mut sessions) => break,
                () = sleep_until(late), if !told => {
                    told = true;
                    trouble(tell, vec![last.to_string()]).await;
                    probe.slow_down();
                }
            }
        }
        if told {
            trouble(tell, vec![]).await;
        }
    }
}

async fn is_there(sessions: &mut watch::Receiver<Option<Arc<Session>>>) {
    // The sender outlives whoever asks.
    let _ = sessions.wait_for(Option::is_some).await;
}

async fn trouble(tell: &mpsc::Sender<Event>, what: Vec<String>) {
    // Nobody listens any more: the VM is gone.
    let _ = tell.send(Event::Trouble("ssh", what)).await;
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;
    use crate::hostagent::ssh::tests::connect;
    use crate::hostagent::ssh::tests::guest::{Guest, Manners};

    const LONG: Duration = Duration::from_secs(60);

    fn kept(line: &Arc<Line>) -> (JoinSet<()>, mpsc::Receiver<Event>) {
        let (tell, told) = mpsc::channel(8);
        let line = Arc::clone(line);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { line.keep(&tell).await });
        (tasks, told)
    }

    #[tokio::test]
    async fn nobody_is_dialled_before_the_line_has_begun() {
        let guest = Guest::start(Manners::default()).await;
        let line = Arc::new(Line::new(guest.login().await));
        let (_tasks, _told) = kept(&line);
        assert!(timeout(Duration::from_millis(300), line.session()).await.is_err());
        assert_eq!(guest.connections(), 0);
        line.begin();
        timeout(LONG, line.session()).await.unwrap();
    }

    #[tokio::test]
    async fn a_session_that_is_lost_is_opened_again() {
        let guest = Guest::start(Manners::default()).await;
        let login = guest.login().await;
        let line = Arc::new(Line::new(login.clone()));
        let (_tasks, _told) = kept(&line);
        let first = line.offer(connect(&login, LONG).await.unwrap());
        first.shut();
        timeout(LONG, first.closed()).await.unwrap();
        let second = timeout(LONG, line.session()).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(second.exec("hello 0", LONG).await.unwrap().exit, Some(0));
    }

    #[tokio::test]
    async fn a_session_that_is_offered_is_the_one_from_then_on() {
        let guest = Guest::start(Manners::default()).await;
        let login = guest.login().await;
        let line = Arc::new(Line::new(login.clone()));
        let (_tasks, _told) = kept(&line);
        line.offer(connect(&login, LONG).await.unwrap());
        let second = line.offer(connect(&login, LONG).await.unwrap());
        assert!(Arc::ptr_eq(&second, &timeout(LONG, line.session()).await.unwrap()));
    }
}

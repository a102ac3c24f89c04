//! Trying a guest's ssh. Until it says a word: fresh connections, the next begun before the last has failed, with limits
//! that grow. From its first word on: one, and patience, because a busy guest has forked for it.

use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::hostagent::ssh::{self, Answered, Fault, Login, Session};

const GAP: Duration = Duration::from_millis(500);
const GAP_TOLD: Duration = Duration::from_secs(1);
const GAP_MAX: Duration = Duration::from_secs(3);
const GAP_SLOW: Duration = Duration::from_secs(10);
/// A guest that refuses the key is not asked more often.
const GAP_REFUSED: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_millis(400);
const LIMIT_TOLD: Duration = Duration::from_secs(3);
const LIMIT_MAX: Duration = Duration::from_secs(10);
/// From the first word to a session, on a busy host.
const ENTER: Duration = Duration::from_secs(20);
const COMMAND: Duration = Duration::from_secs(10);
const IN_FLIGHT: usize = 4;

/// Attempts at one guest; dropping it ends them.
pub struct Probe {
    login: Login,
    calls: JoinSet<Result<Answered, Fault>>,
    /// At most one; nobody else is called meanwhile.
    entering: JoinSet<Result<Session, Fault>>,
    begin: Instant,
    gap: Duration,
    gap_max: Duration,
    limit: Duration,
}

impl Probe {
    pub fn new(login: Login) -> Self {
        let (calls, entering) = (JoinSet::new(), JoinSet::new());
        Self { login, calls, entering, begin: Instant::now(), gap: GAP, gap_max: GAP_MAX, limit: LIMIT }
    }

    /// Tries at once: the guest says that its sshd listens. It is worth while to wait for it then; a call beside the
    /// first is needed only where the guest's network is later than its sshd.
    pub fn now(&mut self) {
        self.begin = Instant::now();
        self.limit = self.limit.max(LIMIT_TOLD);
        self.gap = self.gap.max(GAP_TOLD);
    }

    /// Goes on trying, seldom.
    pub fn slow_down(&mut self) {
        self.gap = GAP_SLOW;
        self.gap_max = GAP_SLOW;
        self.limit = LIMIT_MAX;
    }

    /// How the next attempt ended. Cancel-safe.
    pub async fn next(&mut self) -> Result<Session, Fault> {
        loop {
            let is_free = self.entering.is_empty() && self.calls.len() < IN_FLIGHT;
            tokio::select! {
                biased;
                Some(entered) = self.entering.join_next() => return self.entered(ended(entered)),
                Some(answered) = self.calls.join_next() => {
                    let answered = ended(answered)?;
                    self.calls = JoinSet::new();
                    if self.entering.is_empty() {
                        self.entering.spawn(enter(self.login.clone(), answered));
                    }
                }
                () = sleep_until(self.begin), if is_free => self.call(),
            }
        }
    }

    fn entered(&mut self, result: Result<Session, Fault>) -> Result<Session, Fault> {
        if let Err(Fault::Refused(_)) = result {
            self.gap = self.gap.max(GAP_REFUSED);
            self.begin = self.begin.max(Instant::now() + GAP_REFUSED);
        }
        result
    }

    fn call(&mut self) {
        let (login, limit) = (self.login.clone(), self.limit);
        self.calls.spawn(async move { ssh::dial(&login, limit).await });
        self.begin = Instant::now() + self.gap;
        self.gap = self.gap.mul_f64(1.3).min(self.gap_max);
        self.limit = self.limit.mul_f64(1.5).min(LIMIT_MAX);
    }
}

fn ended<T>(joined: Result<Result<T, Fault>, JoinError>) -> Result<T, Fault> {
    joined.unwrap_or_else(|error| Err(Fault::Unreachable(error.to_string())))
}

/// A session counts only when a command ran in it: sshd accepts keys before sessions work.
async fn enter(login: Login, answered: Answered) -> Result<Session, Fault> {
    let session = ssh::enter(&login, answered, ENTER).await?;
    match session.exec("true", COMMAND).await?.exit {
        Some(0) => Ok(session),
        Some(code) => Err(Fault::Unreachable(format!("`true` exited with {code}"))),
        None => Err(Fault::Unreachable("`true` was ended by a signal".into())),
    }
}

/// A command that ends with 0 and the failed scripts when the boot scripts of `iid` have ended, with 75 after `limit`.
pub fn marker_command(iid: &str, limit: Duration) -> String {
    let iid: String = iid.chars().filter(|char| char.is_ascii_alphanumeric() || *char == '-').collect();
    let turns = limit.as_secs() * 2;
    format!(
        "sh -c 'i=0; while [ $i -lt {turns} ]; do case \"$(cat /run/lima-boot-done 2>/dev/null)\" in *{iid}*) \
         cat /run/limafs-failed 2>/dev/null; exit 0;; esac; i=$((i+1)); sleep 0.5; done; exit 75'"
    )
}

//! Trying a guest's ssh: fresh connections, the next begun before the last has failed, with limits that grow.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::hostagent::ssh::{self, Fault, Login, Session};

const GAP: Duration = Duration::from_millis(500);
const GAP_MAX: Duration = Duration::from_secs(3);
const GAP_SLOW: Duration = Duration::from_secs(10);
/// A guest that refuses the key is not asked more often.
const GAP_REFUSED: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_millis(400);
const LIMIT_MAX: Duration = Duration::from_secs(10);
/// A command in a session that stands may take longer than the session took.
const COMMAND: Duration = Duration::from_secs(10);
const IN_FLIGHT: usize = 4;

/// Attempts at one guest; dropping it ends them.
pub struct Probe {
    login: Login,
    attempts: JoinSet<Result<Session, Fault>>,
    begin: Instant,
    gap: Duration,
    gap_max: Duration,
    limit: Duration,
}

impl Probe {
    pub fn new(login: Login) -> Self {
        let attempts = JoinSet::new();
        Self { login, attempts, begin: Instant::now(), gap: GAP, gap_max: GAP_MAX, limit: LIMIT }
    }

    /// Tries at once: there is reason to think that sshd listens.
    pub fn now(&mut self) {
        self.begin = Instant::now();
    }

    /// Goes on trying, seldom.
    pub fn slow_down(&mut self) {
        self.gap = GAP_SLOW;
        self.gap_max = GAP_SLOW;
        self.limit = LIMIT_MAX;
    }

    /// How the next attempt to end ended; of several at once one that succeeded. Cancel-safe.
    pub async fn next(&mut self) -> Result<Session, Fault> {
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.attempts.join_next() => {
                    let result = ended.unwrap_or_else(|error| Err(Fault::Unreachable(error.to_string())));
                    match &result {
                        Ok(_) => self.attempts.abort_all(),
                        Err(Fault::Refused(_)) => self.gap = self.gap.max(GAP_REFUSED),
                        Err(_) => {}
                    }
                    return result;
                }
                () = sleep_until(self.begin), if self.attempts.len() < IN_FLIGHT => self.start(),
            }
        }
    }

    fn start(&mut self) {
        self.attempts.spawn(attempt(self.login.clone(), self.limit));
        self.begin = Instant::now() + self.gap;
        self.gap = self.gap.mul_f64(1.3).min(self.gap_max);
        self.limit = self.limit.mul_f64(1.5).min(LIMIT_MAX);
    }
}

/// A session counts only when a command ran in it: sshd accepts keys before sessions work.
async fn attempt(login: Login, limit: Duration) -> Result<Session, Fault> {
    let session = ssh::connect(&login, limit).await?;
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

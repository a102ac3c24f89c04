//! A running VM: the tasks around its process, and the last event.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use limafs_driver::{Error, Result, VmEvent};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::front::Front;
use crate::kind::Kind;
use crate::names;
use crate::network::{self, last_line};
use crate::process::{Ending, Process};
use crate::rest::{Rest, State, Wish};

/// Events that wait for a reader.
const EVENTS: usize = 64;
/// How often the program is asked how its VM is.
const LOOK: Duration = Duration::from_secs(3);
/// The same, until the VM runs.
const STARTING: Duration = Duration::from_millis(50);
/// Answers that may stay out before that is told.
const PATIENCE: u32 = 2;
const KILL_DEADLINE: Duration = Duration::from_secs(20);
const PAUSE_DEADLINE: Duration = Duration::from_secs(8);
/// What vfkit logs when its VM was not ended by force.
const STOPPED: &str = "VM is stopped";

/// A VM that is watched. Dropping it ends the watching, not the VM.
#[derive(Debug)]
pub(crate) struct Running {
    pub process: Arc<Process>,
    pub rest: Rest,
    kind: &'static Kind,
    dir: PathBuf,
    /// Whether a `stop` asked for the end.
    stopping: Arc<watch::Sender<bool>>,
    state: watch::Receiver<Option<State>>,
    look: Arc<Notify>,
    gone: watch::Receiver<bool>,
    _tasks: JoinSet<()>,
}

impl Running {
    /// Watches a process, new or found. `front` leads to its ssh; `network` is its gvproxy, if that is our child.
    pub(crate) fn watch(
        kind: &'static Kind,
        process: Process,
        dir: &Path,
        front: Option<Front>,
        network: Option<Process>,
    ) -> (Self, mpsc::Receiver<VmEvent>) {
        let process = Arc::new(process);
        let (events, receiver) = mpsc::channel(EVENTS);
        let (state_sender, state) = watch::channel(None);
        let (gone_sender, gone) = watch::channel(false);
        let stopping = Arc::new(watch::Sender::new(false));
        let rest = Rest::new(kind.program, &dir.join(kind.socket));
        let look = Arc::new(Notify::new());

        let mut beside = JoinSet::new();
        beside.spawn(follow(rest.clone(), state_sender, look.clone(), events.clone()));
        if let Some(front) = front {
            beside.spawn(front.serve());
        }
        let (dir, watched, asked) = (dir.to_owned(), process.clone(), stopping.clone());
        let place = dir.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let ending = watched.ended().await;
            beside.shutdown().await;
            let last = last_event(kind, ending, *asked.borrow(), last_line(&place.join(kind.log)));
            clean(kind, &place);
            if let Some(network) = network {
                // Killed by `clean`; now it is reaped.
                network.ended().await;
            }
            gone_sender.send_replace(true);
            // Nobody may be listening any more.
            let _ = events.send(last).await;
        });
        (Self { process, rest, kind, dir, stopping, state, look, gone, _tasks: tasks }, receiver)
    }

    /// Returns when the VM runs; fails with the program's words when it ends instead.
    pub(crate) async fn runs(&self) -> Result<()> {
        let (mut state, mut gone) = (self.state.clone(), self.gone.clone());
        // Cancel-safe: both are watches. An error of either means that the watching ended, with the process.
        tokio::select! {
            Ok(_) = state.wait_for(|state| matches!(state, Some(State::Running))) => Ok(()),
            _ = gone.wait_for(|gone| *gone) => {
                let why = last_line(&self.dir.join(self.kind.log)).unwrap_or("ended without a word".into());
                Err(Error::failed(self.kind.program, why))
            }
        }
    }

    /// Wishes for a state and waits for it.
    pub(crate) async fn change(&self, wish: Wish, wanted: State) -> Result<()> {
        self.rest.wish(wish).await?;
        let deadline = Instant::now() + PAUSE_DEADLINE;
        while self.rest.state().await? != wanted {
            if Instant::now() >= deadline {
                return Err(Error::Timeout { what: format!("{wish:?}"), seconds: PAUSE_DEADLINE.as_secs() });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.look.notify_one();
        Ok(())
    }

    pub(crate) fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    pub(crate) async fn gone(&self) {
        // An error means that the watching has ended; that is only ever after the process.
        let _ = self.gone.clone().wait_for(|gone| *gone).await;
    }

    pub(crate) fn expect_end(&self) {
        self.stopping.send_replace(true);
    }

    /// Kills and waits. Needs no answer of the program.
    pub(crate) async fn kill(&self) -> Result<()> {
        let pid = self.process.pid();
        self.process.kill().map_err(|error| Error::failed(format!("killing process {pid}"), error))?;
        let late = |_| Error::Timeout { what: format!("the end of process {pid}"), seconds: KILL_DEADLINE.as_secs() };
        timeout(KILL_DEADLINE, self.gone()).await.map_err(late)
    }
}

/// Asks for the state again and again, and tells what changed.
async fn follow(rest: Rest, state: watch::Sender<Option<State>>, look: Arc<Notify>, events: mpsc::Sender<VmEvent>) {
    let mut missed = 0;
    loop {
        let found = rest.state().await;
        let event = match &found {
            Ok(_) if missed >= PATIENCE => Some(VmEvent::Responsive),
            // One that never answered is being started.
            Err(_) if missed + 1 == PATIENCE && state.borrow().is_some() => Some(VmEvent::Unresponsive),
            _ => None,
        };
        missed = if found.is_ok() || state.borrow().is_none() { 0 } else { missed + 1 };
        let event = [event, found.ok().and_then(|found| change(state.send_replace(Some(found)), found))];
        for event in event.into_iter().flatten() {
            // Nobody may be listening any more.
            let _ = events.send(event).await;
        }
        let wait = if matches!(*state.borrow(), None | Some(State::Starting)) { STARTING } else { LOOK };
        // Cancel-safe: what is lost is a wish to look, which is what is done next.
        tokio::select! {
            () = look.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn change(last: Option<State>, now: State) -> Option<VmEvent> {
    let was_paused = last == Some(State::Paused);
    match now {
        State::Paused if !was_paused => Some(VmEvent::Paused),
        State::Running if was_paused => Some(VmEvent::Resumed),
        State::Stopping if last != Some(State::Stopping) => Some(VmEvent::PoweringDown),
        _ => None,
    }
}

fn last_event(kind: &Kind, ending: Ending, asked: bool, words: Option<String>) -> VmEvent {
    let stopped = words.as_ref().is_some_and(|line| line.contains(STOPPED));
    let (clean, reason) = match ending {
        Ending::Exited(0) => (true, "shut down".into()),
        Ending::Exited(code) => {
            let words = words.map(|line| format!(": {line}")).unwrap_or_default();
            (false, format!("{} exited with status {code}{words}", kind.program))
        }
        Ending::Killed(signal) => (false, format!("killed by signal {signal}")),
        Ending::Unknown if stopped => (true, "shut down".into()),
        Ending::Unknown => (asked, "its exit status went to an earlier hostagent".into()),
    };
    VmEvent::Exited { clean, reason }
}

/// Removes what a dead VM leaves in its instance directory.
pub(crate) fn clean(kind: &Kind, dir: &Path) {
    network::clean(dir);
    for name in [kind.socket, kind.pid_file, names::GA_SOCK, names::SSH_VSOCK_SOCK] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{name} of the dead VM stays: {error}");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::VFKIT;

    #[test]
    fn the_end_of_somebody_elses_child_is_told_by_its_log() {
        let end = |ending, asked, words: &str| last_event(&VFKIT, ending, asked, Some(words.into()));
        let shut_down = VmEvent::Exited { clean: true, reason: "shut down".into() };
        assert_eq!(end(Ending::Unknown, false, "level=info msg=\"VM is stopped\""), shut_down);
        assert!(matches!(end(Ending::Unknown, false, "x"), VmEvent::Exited { clean: false, .. }));
        let reason = "vfkit exited with status 1: no disk".into();
        assert_eq!(end(Ending::Exited(1), true, "no disk"), VmEvent::Exited { clean: false, reason });
    }

    #[test]
    fn only_changes_are_events() {
        assert_eq!(change(None, State::Running), None);
        assert_eq!(change(None, State::Paused), Some(VmEvent::Paused));
        assert_eq!(change(Some(State::Paused), State::Running), Some(VmEvent::Resumed));
        assert_eq!(change(Some(State::Stopping), State::Stopping), None);
    }
}

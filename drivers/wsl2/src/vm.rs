//! A running distribution: the tasks around the process that keeps it, and the last event.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use limafs_driver::{Error, Result, VmEvent};
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::keeper::Keeper;
use crate::names;
use crate::wsl::Wsl;

/// Events that wait for a reader.
const EVENTS: usize = 16;
/// How often a keeper that was ended while its distribution ran is replaced.
const KEEPERS: usize = 3;
const END_DEADLINE: Duration = Duration::from_secs(30);

/// A VM that is watched. Dropping it ends the watching, not the VM.
#[derive(Debug)]
pub(crate) struct Running {
    pub pid: Option<u32>,
    events: mpsc::WeakSender<VmEvent>,
    /// Whether somebody asked for the end, and how.
    asked: Arc<watch::Sender<Option<End>>>,
    boot: mpsc::Sender<Child>,
    gone: watch::Receiver<bool>,
    _tasks: JoinSet<()>,
}

/// To the distribution both are the same; to who reads how it ended they are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Stop,
    Kill,
}

impl Running {
    pub(crate) fn watch(
        wsl: Wsl,
        distribution: String,
        keeper: Keeper,
        dir: PathBuf,
    ) -> (Self, mpsc::Receiver<VmEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (gone_sender, gone) = watch::channel(false);
        let (boot, mut boots) = mpsc::channel::<Child>(1);
        let asked = Arc::new(watch::Sender::new(None));
        let pid = keeper.pid();
        let mut tasks = JoinSet::new();
        let ending = asked.subscribe();
        tasks.spawn(async move {
            while let Some(boot) = boots.recv().await {
                await_boot(boot, ending.clone()).await;
            }
        });
        let weak = events.downgrade();
        let last = asked.clone();
        tasks.spawn(async move {
            keep(&wsl, &distribution, keeper, &last).await;
            clean(&dir);
            let (clean, reason) = match *last.borrow() {
                Some(End::Stop) => (true, "shut down"),
                Some(End::Kill) => (false, "killed"),
                None => (false, "the distribution was terminated"),
            };
            gone_sender.send_replace(true);
            // Nobody may be listening any more.
            let _ = events.send(VmEvent::Exited { clean, reason: reason.into() }).await;
        });
        (Self { pid, events: weak, asked, boot, gone, _tasks: tasks }, receiver)
    }

    /// Takes in the end of the boot's process, whenever that is.
    pub(crate) fn booting(&self, boot: Child) {
        // There is one for each value; it runs on by itself in any case.
        let _ = self.boot.try_send(boot);
    }

    pub(crate) fn tell(&self, event: VmEvent) {
        if let Some(events) = self.events.upgrade() {
            // Nobody may be listening any more.
            let _ = events.try_send(event);
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    pub(crate) fn expect(&self, end: End) {
        self.asked.send_replace(Some(end));
    }

    pub(crate) async fn gone(&self) -> Result<()> {
        let late = |_| Error::Timeout { what: "the end of the distribution".into(), seconds: END_DEADLINE.as_secs() };
        // An error of the watch means that the watching has ended; that is only ever after the VM.
        timeout(END_DEADLINE, self.gone.clone().wait_for(|gone| *gone)).await.map(drop).map_err(late)
    }
}

/// Takes in the end of a boot. One that has not begun when the VM is to end is not to begin: it would start it again.
async fn await_boot(mut boot: Child, mut ending: watch::Receiver<Option<End>>) {
    // Cancel-safe: a child that is waited for again, and a watch.
    let result = tokio::select! {
        result = boot.wait() => Some(result),
        Ok(_) = ending.wait_for(Option::is_some) => None,
    };
    let Some(result) = result else {
        // It may have ended meanwhile.
        let _ = boot.kill().await;
        return;
    };
    // The guest reports itself what failed.
    if let Ok(status) = result
        && !status.success()
    {
        tracing::warn!("the guest's boot script ended with {status}, see {}", names::SERIAL_LOG);
    }
}

/// Returns when the distribution has ended. A keeper that ends alone is replaced.
async fn keep(wsl: &Wsl, distribution: &str, mut keeper: Keeper, asked: &watch::Sender<Option<End>>) {
    for _ in 0..KEEPERS {
        keeper.ended().await;
        if asked.borrow().is_some() {
            return;
        }
        match wsl.is_running(distribution).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return tracing::warn!("{error}"),
        }
        match Keeper::start(wsl, distribution) {
            Ok(next) => keeper = next,
            Err(error) => return tracing::warn!("{error}"),
        }
    }
    keeper.ended().await;
}

fn clean(dir: &Path) {
    match fs::remove_file(dir.join(names::PID_FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("{} of the dead VM stays: {error}", names::PID_FILE);
        }
        _ => {}
    }
}

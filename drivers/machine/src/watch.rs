//! Watching a machine, which tells nothing by itself: its state is asked for, and what has changed is an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use limafs_driver::VmEvent;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::hosted::Hosted;
use crate::state::State;

const EVERY: Duration = Duration::from_secs(5);
/// Answers that may be missing before a machine counts as unresponsive.
const MISSING: u32 = 2;

/// A machine that is watched. Dropping it ends the watch and leaves the machine.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    gone: watch::Receiver<bool>,
    events: mpsc::WeakSender<VmEvent>,
    _task: Arc<JoinSet<()>>,
}

#[derive(Default)]
struct Shared {
    /// Its end was asked for.
    ends: AtomicBool,
    look: Notify,
}

impl Watch {
    pub fn begin(hosted: Arc<Hosted>, is_paused: bool) -> (Self, mpsc::Receiver<VmEvent>) {
        let (events, receiver) = mpsc::channel(16);
        let (gone_to, gone) = watch::channel(false);
        let shared = Arc::new(Shared::default());
        let mut task = JoinSet::new();
        let (watched, weak) = (Arc::clone(&shared), events.downgrade());
        task.spawn(async move {
            let last = follow(&hosted, &watched, &events, is_paused).await;
            // Nobody may be listening any more.
            let _ = events.send(last).await;
            gone_to.send_replace(true);
        });
        (Self { shared, gone, events: weak, _task: Arc::new(task) }, receiver)
    }

    pub fn is_over(&self) -> bool {
        *self.gone.borrow()
    }

    /// From now on an end is what was wanted.
    pub fn ends(&self) {
        self.shared.ends.store(true, Ordering::Relaxed);
    }

    /// Tells of what was done to the machine.
    pub async fn tell(&self, event: VmEvent) {
        if let Some(events) = self.events.upgrade() {
            tell(&events, event).await;
        }
    }

    /// Looks at once, and comes back when the end of the machine was told.
    pub async fn told(&self) {
        self.shared.look.notify_one();
        let mut gone = self.gone.clone();
        // An error is the end of the watch, too.
        let _ = gone.wait_for(|gone| *gone).await;
    }
}

/// Comes back with the last event.
async fn follow(hosted: &Hosted, shared: &Shared, events: &mpsc::Sender<VmEvent>, mut is_paused: bool) -> VmEvent {
    let mut missing = 0;
    if is_paused {
        tell(events, VmEvent::Paused).await;
    }
    loop {
        // Either is reason enough to look.
        let _ = timeout(EVERY, shared.look.notified()).await;
        match hosted.state().await {
            Ok(state) if state.is_down() => return ended(state, shared.ends.load(Ordering::Relaxed)),
            Ok(State::Error | State::Timeout) | Err(_) => {
                missing += 1;
                if missing == MISSING {
                    tell(events, VmEvent::Unresponsive).await;
                }
            }
            Ok(state) => {
                if missing >= MISSING {
                    tell(events, VmEvent::Responsive).await;
                }
                missing = 0;
                let pauses = state == State::Paused;
                if pauses != is_paused {
                    is_paused = pauses;
                    tell(events, if pauses { VmEvent::Paused } else { VmEvent::Resumed }).await;
                }
            }
        }
    }
}

async fn tell(events: &mpsc::Sender<VmEvent>, event: VmEvent) {
    // Nobody may be listening any more.
    let _ = events.send(event).await;
}

/// Who stopped a machine cannot be known; one that is no more was not stopped.
fn ended(state: State, was_wanted: bool) -> VmEvent {
    let clean = was_wanted || state != State::None;
    VmEvent::Exited { clean, reason: if clean { "stopped".into() } else { "the machine is no more".into() } }
}

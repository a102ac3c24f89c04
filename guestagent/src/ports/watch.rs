//! A thread that keeps the list of listening sockets up to date and otherwise sleeps.
//!
//! A list costs some 100 us, more with many sockets. Where the kernel tells of changes, ten lists a second are the most;
//! where it does not, as many as take 1/200 of a processor. Never more than 1/100 in the long run.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::perf::Events;
use super::{Ports, diag};

/// The kernel tells of a listener just before it can be listed.
const SETTLE: Duration = Duration::from_millis(5);
const GAP: Duration = Duration::from_millis(100);
const GAP_MAX: Duration = Duration::from_secs(1);
/// How often UDP is looked at where the kernel tells of TCP alone.
const UDP_TICK: Duration = Duration::from_secs(1);
const BLIND_TICK: Duration = Duration::from_millis(200);

/// What the sockets were when last looked at, or why they are not known.
pub type Listed = Arc<Result<Ports, String>>;

/// Starts the thread. It ends when all receivers are gone. `tick`: how long it sleeps at most.
pub fn start(tick: Duration) -> io::Result<watch::Receiver<Listed>> {
    let events = Events::open().map_err(|error| tracing::warn!("the kernel does not tell of listeners: {error}")).ok();
    let (sender, receiver) = watch::channel(list());
    let watcher = Watcher { events, tick, sender };
    thread::Builder::new().name("ports".into()).stack_size(256 << 10).spawn(move || watcher.run())?;
    Ok(receiver)
}

struct Watcher {
    events: Option<Events>,
    tick: Duration,
    sender: watch::Sender<Listed>,
}

impl Watcher {
    fn run(mut self) {
        let mut limit = Duration::ZERO;
        let mut was_told = false;
        while !self.sender.is_closed() {
            let is_told = self.sleep(limit);
            if is_told && !was_told {
                thread::sleep(SETTLE);
            }
            let cost = self.look();
            if is_told {
                // Others may follow, and one that was told of may have come too late to be seen: looked at once more.
                thread::sleep((cost * 100).clamp(GAP, GAP_MAX));
            }
            limit = if is_told { Duration::ZERO } else { self.limit(cost) };
            was_told = is_told;
        }
    }

    /// Says whether the kernel has told of something.
    fn sleep(&mut self, limit: Duration) -> bool {
        if self.events.as_ref().is_some_and(Events::is_outdated) {
            self.events = Events::open().map_err(|error| tracing::warn!("no events of new processors: {error}")).ok();
        }
        match self.events.as_ref().map(|events| events.wait(limit)) {
            Some(Ok(is_told)) => is_told,
            Some(Err(error)) => {
                tracing::warn!("events of listeners ended: {error}");
                self.events = None;
                false
            }
            None => {
                thread::sleep(limit);
                false
            }
        }
    }

    fn limit(&self, cost: Duration) -> Duration {
        match &self.events {
            Some(events) if events.sees_udp => self.tick,
            Some(_) => self.tick.min(UDP_TICK.max(cost * 200)),
            None => self.tick.min(BLIND_TICK.max(cost * 200)),
        }
    }

    /// Lists, tells if it differs, and says what it has cost this thread.
    fn look(&self) -> Duration {
        let before = cpu_time();
        let now = list();
        self.sender.send_if_modified(|last| {
            let differs = **last != *now;
            if differs {
                *last = now;
            }
            differs
        });
        cpu_time().saturating_sub(before)
    }
}

fn list() -> Listed {
    Arc::new(diag::listening().map_err(|error| format!("cannot list sockets: {error}")))
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

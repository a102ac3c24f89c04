//! A thread that keeps the list of listening sockets up to date and otherwise sleeps.
//!
//! A list costs some 100 us, more with many sockets, and far more where the processor is emulated. Where the kernel tells
//! of changes, twenty lists a second are the most, and fewer if they would take more than 1/150 of a processor in the long
//! run; where it does not, as many as take 1/200.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::perf::Events;
use super::{Ports, diag};

/// The kernel tells of a listener just before it can be listed.
const SETTLE: Duration = Duration::from_millis(5);
const GAP: Duration = Duration::from_millis(50);
const GAP_MAX: Duration = Duration::from_secs(1);
/// How long a list is waited for after one that cost so much, in the long run.
const SHARE: u32 = 150;
/// So much of that may be owed: three fifths of a second of a processor go into what comes after a quiet time. Only where
/// a list is slow does this count at all.
const CREDIT: Duration = Duration::from_secs(90);
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
        let (mut limit, mut debt, mut usual) = (Duration::ZERO, Debt::default(), Duration::MAX);
        let mut was_told = false;
        while !self.sender.is_closed() {
            let is_told = self.sleep(limit);
            if is_told && !was_told {
                thread::sleep(SETTLE);
            }
            let (cost, differs) = self.look();
            // What an overloaded host takes from an emulated processor counts as used: the least is the truth.
            usual = cost.min(usual.saturating_add(usual / 4));
            if is_told {
                // Others may follow.
                thread::sleep(debt.incur(usual * SHARE, Instant::now()).clamp(GAP, GAP_MAX));
            }
            // What was told of may have come too late to be seen: looked at once more.
            limit = if is_told && !differs { Duration::ZERO } else { self.limit(usual) };
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

    /// Lists, tells if it differs, and says what it has cost this thread and whether it did.
    fn look(&self) -> (Duration, bool) {
        let before = cpu_time();
        let now = list();
        let differs = self.sender.send_if_modified(|last| {
            let differs = **last != *now;
            if differs {
                *last = now;
            }
            differs
        });
        (cpu_time().saturating_sub(before), differs)
    }
}

/// Waiting that was put off.
#[derive(Default)]
struct Debt {
    owed: Duration,
    since: Option<Instant>,
}

impl Debt {
    /// Adds to it, and says how much of it is beyond the credit.
    fn incur(&mut self, more: Duration, now: Instant) -> Duration {
        let passed = self.since.replace(now).map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.owed = (self.owed.saturating_sub(passed) + more).min(CREDIT + GAP_MAX);
        self.owed.saturating_sub(CREDIT)
    }
}

fn list() -> Listed {
    Arc::new(diag::listening().map_err(|error| format!("cannot list sockets: {error}")))
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_after_a_quiet_time_is_looked_at_at_once_and_a_flood_is_not() {
        let (mut debt, mut now) = (Debt::default(), Instant::now());
        let cost = Duration::from_millis(5) * SHARE;
        let mut looks = 0;
        while debt.incur(cost, now).is_zero() {
            now += GAP;
            looks += 1;
        }
        assert!((120..140).contains(&looks), "{looks}");
        // As often as it may: one in as much time as it is to be waited for.
        let mut waited = Duration::ZERO;
        for _ in 0..100 {
            let gap = debt.incur(cost, now).clamp(GAP, GAP_MAX);
            now += gap;
            waited += gap;
        }
        assert!(waited > cost * 99, "{waited:?}");
        now += CREDIT * 2;
        assert!(debt.incur(cost, now).is_zero());
    }
}

//! Counts bytes on one side, reports them at a calm pace on the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Progress, Report};
use crate::error::{Error, Result};

const PERIOD: Duration = Duration::from_millis(200);
/// The rate is over the last three seconds.
const WINDOW: usize = 15;

/// Shared by who works, perhaps on a thread of its own, and who reports. All clones count together.
#[derive(Clone)]
pub struct Meter {
    step: &'static str,
    counters: Arc<Counters>,
}

struct Counters {
    /// Counted here.
    done: AtomicU64,
    /// What was there before, wrapping: a second attempt may begin at less than the first one counted.
    base: AtomicU64,
    /// `u64::MAX` when unknown.
    total: AtomicU64,
    is_cancelled: AtomicBool,
}

impl Meter {
    pub fn new(step: &'static str, total: Option<u64>) -> Self {
        let total = AtomicU64::new(total.unwrap_or(u64::MAX));
        let (done, base) = (AtomicU64::new(0), AtomicU64::new(0));
        let counters = Counters { done, base, total, is_cancelled: AtomicBool::new(false) };
        Self { step, counters: Arc::new(counters) }
    }

    pub fn expect(&self, total: Option<u64>) {
        self.counters.total.store(total.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Says that `at` of `total` are there; they do not count for the rate.
    pub fn begin(&self, at: u64, total: Option<u64>) {
        let counted = self.counters.done.load(Ordering::Relaxed);
        self.counters.base.store(at.wrapping_sub(counted), Ordering::Relaxed);
        self.expect(total);
    }

    /// Counts, and fails once nobody waits for the result any more.
    pub fn add(&self, bytes: u64) -> Result<()> {
        self.counters.done.fetch_add(bytes, Ordering::Relaxed);
        match self.counters.is_cancelled.load(Ordering::Relaxed) {
            true => Err(Error::failed(self.step, "cancelled")),
            false => Ok(()),
        }
    }

    /// Runs `work` and reports its progress until it ends. When dropped, `work` on another thread ends soon.
    pub async fn report<T>(&self, progress: &Report<'_>, work: impl Future<Output = Result<T>>) -> Result<T> {
        let _cancel = Cancel(self.clone());
        let mut samples = VecDeque::from([(Instant::now(), 0)]);
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                _ = ticks.tick() => progress(self.sample(&mut samples)), // cancel-safe: a tick may be lost
            }
        }
    }

    fn sample(&self, samples: &mut VecDeque<(Instant, u64)>) -> Progress {
        let (now, done) = (Instant::now(), self.counters.done.load(Ordering::Relaxed));
        let (then, before) = samples.front().copied().unwrap_or((now, done));
        samples.push_back((now, done));
        if samples.len() > WINDOW {
            samples.pop_front();
        }
        let seconds = now.duration_since(then).as_secs_f64();
        let rate = if seconds > 0.0 { done.saturating_sub(before) as f64 / seconds } else { 0.0 };
        let total = self.counters.total.load(Ordering::Relaxed);
        let done = done.wrapping_add(self.counters.base.load(Ordering::Relaxed));
        Progress { step: self.step, done, total: (total != u64::MAX).then_some(total), rate }
    }
}

struct Cancel(Meter);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.counters.is_cancelled.store(true, Ordering::Relaxed);
    }
}

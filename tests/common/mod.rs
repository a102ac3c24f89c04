//! What the tests share that work on a real mount: suites that know whether they can run, a fleet of their own in a
//! temporary directory, shell lines with a deadline.
//!
//! Nothing here sleeps for a fixed time: whoever waits, waits for a condition, up to a deadline.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod fleet;
pub mod procs;
pub mod shell;
pub mod suite;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use fleet::Fleet;
pub use libtest_mimic::Failed;
pub use suite::{Case, run};

pub type Outcome = Result<(), Failed>;

/// Fails the test with a formatted reason.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)*) => { return Err(libtest_mimic::Failed::from(format!($($arg)*))) };
}

/// Fails the test when the condition does not hold; the rest is the reason.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($arg:tt)*) => { if !$condition { $crate::fail!($($arg)*) } };
}

/// Fails the test when the two differ; shows both.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr $(,)?) => { $crate::same!($left, $right, "") };
    ($left:expr, $right:expr, $($arg:tt)*) => {
        // A `match`, so that what is borrowed from temporaries lives long enough.
        match (&$left, &$right) {
            (left, right) => {
                if *left != *right {
                    $crate::fail!("{} is {left:?}, not {right:?} {}", stringify!($left), format!($($arg)*))
                }
            }
        }
    };
}

/// How much longer than on a quiet machine everything may take here: `LIMAFS_TEST_PATIENCE`, 1 where it is not set.
fn patience() -> u32 {
    static PATIENCE: OnceLock<u32> = OnceLock::new();
    let told = || std::env::var("LIMAFS_TEST_PATIENCE").ok()?.parse().ok();
    *PATIENCE.get_or_init(|| told().filter(|times| *times > 0).unwrap_or(1))
}

/// Asks again and again until there is an answer; fails with `what` after `limit`, or longer where the machine is slow.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T, Failed> {
    let limit = limit * patience();
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = probe() {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            return Err(format!("not within {:.1} s: {what}", limit.as_secs_f32()).into());
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(50));
    }
}

/// Asks again and again until the condition holds; fails with `what` after `limit`.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Outcome {
    wait_for(what, limit, || holds().then_some(()))
}

/// Fails unless one of some attempts takes less than `limit`: whatever else this machine does makes them longer, never
/// shorter.
pub fn in_time(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<Duration, Failed>) -> Outcome {
    let mut best = Duration::MAX;
    for _ in 0..4 * patience() {
        best = best.min(attempt()?);
        if best < limit {
            return Ok(());
        }
    }
    Err(format!("{what} took {best:?} at best, not {limit:?}").into())
}

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

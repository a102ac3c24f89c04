//! Gives memory back, of the agent and of its host: the C library keeps what a burst of connections took, between what is
//! still in use.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// Worth a look after so many connections: each had some tens of KiB.
const MANY: usize = 32;
/// Those that end soon after are looked at with them.
const REST: Duration = Duration::from_secs(2);

static ENDED: AtomicUsize = AtomicUsize::new(0);

/// To be kept for as long as a connection is carried.
#[derive(Debug)]
pub struct Carried;

impl Drop for Carried {
    fn drop(&mut self) {
        let is_due = ENDED.fetch_add(1, Ordering::Relaxed) + 1 == MANY;
        // Without a runtime the program is about to end.
        if let (true, Ok(runtime)) = (is_due, tokio::runtime::Handle::try_current()) {
            runtime.spawn(async {
                sleep(REST).await;
                ENDED.store(0, Ordering::Relaxed);
                give_back();
            });
        }
    }
}

/// Gives what was used and freed back to the system; of use after work that comes rarely and takes much.
#[cfg(target_env = "gnu")]
pub fn give_back() {
    // SAFETY: it takes a number, touches only free memory of the allocator, and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries unmap what is free.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}

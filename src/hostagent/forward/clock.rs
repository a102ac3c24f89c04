//! The guest's clock, set by its agent to the host's: soon after the agent answers, after the VM or the host has slept,
//! when the host's own clock is set, and now and then, which also shows that the agent is alive.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use limafs_guestagent::client::Client;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::hostagent::guest::Scene;

/// As Lima does: a guest sets its clock itself while it boots.
const FIRST: Duration = Duration::from_secs(5);
/// Clocks of guests drift little; an agent that hangs is missed after this and `ANSWER`.
const NEXT: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(10);
/// A time that was under way for longer was told too late: it waits behind what else the guest is sent.
const LATE: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_secs(1);

/// Sets the guest's clock again and again; returns when the agent does not answer.
pub async fn keep(mut client: Client, mut scene: watch::Receiver<Scene>) -> Result<Infallible, String> {
    let steps = Steps::watch().inspect_err(|error| tracing::warn!("the host's clock: {error}")).ok();
    let mut next = FIRST;
    loop {
        tokio::select! {        // cancel-safe: a clock, a look, and a descriptor that stays readable
            () = sleep(next) => {}
            () = resumed(&mut scene) => {}
            () = stepped(&steps) => {}
        }
        // An error means that the VM is gone; this is dropped next.
        let _ = scene.wait_for(|scene| !scene.paused).await;
        let begun = Instant::now();
        sync(&mut client, &scene).await?;
        next = if begun.elapsed() > LATE { AGAIN } else { NEXT };
    }
}

async fn sync(client: &mut Client, scene: &watch::Receiver<Scene>) -> Result<(), String> {
    match timeout(ANSWER, client.sync_time(SystemTime::now())).await {
        Ok(Ok(answer)) => {
            if !answer.error.is_empty() {
                tracing::warn!("the guest's clock is off by {} ms: {:.200?}", answer.drift_ms, answer.error);
            } else if answer.adjusted {
                tracing::info!("the guest's clock was off by {} ms", answer.drift_ms);
            }
            Ok(())
        }
        // An agent without this can do the rest.
        Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(()),
        Ok(Err(status)) => Err(format!("{:?}", status.code())),
        Err(_) if scene.borrow().paused => Ok(()),
        Err(_) => Err(format!("it did not answer for {} s", ANSWER.as_secs())),
    }
}

/// Returns when the VM runs again after a pause.
async fn resumed(scene: &mut watch::Receiver<Scene>) {
    // As above.
    let _ = scene.wait_for(|scene| scene.paused).await;
    let _ = scene.wait_for(|scene| !scene.paused).await;
}

async fn stepped(steps: &Option<Steps>) {
    match steps {
        Some(steps) => steps.next().await,
        None => std::future::pending().await,
    }
}

/// Tells when the host's clock jumps; it does when the host wakes up, too.
struct Steps(AsyncFd<OwnedFd>);

impl Steps {
    fn watch() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: the descriptor is owned by the AsyncFd, which takes it out of epoll before it is closed.
        let steps = Self(unsafe { AsyncFd::register(timer)? });
        steps.arm()?;
        Ok(steps)
    }

    /// A timer that ends far from now, and before that only because the clock was set.
    fn arm(&self) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let never = Itimerspec { it_interval: zero, it_value: Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 } };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(self.0.get_ref(), flags, &never)?;
        Ok(())
    }

    async fn next(&self) {
        let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
        // Reading it says ECANCELED; armed anew it waits for the next step.
        let _ = rustix::io::read(self.0.get_ref(), &mut [0_u8; 8]);
        ready.clear_ready();
        if self.arm().is_err() {
            std::future::pending().await
        }
    }
}

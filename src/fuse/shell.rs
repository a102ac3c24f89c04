//! Where synchronous callbacks meet what takes time: one function, with a deadline for every answer.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::view::{Later, Outcome, is_being_killed};

/// No reply waits longer: its caller could not even be killed meanwhile.
const DEADLINE: Duration = Duration::from_secs(10);

/// The same for what a guest has to do: longer than any call to one may take.
const GUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How often a caller that waits for a guest is looked at.
const SWEEP: Duration = Duration::from_millis(250);

#[derive(Clone)]
pub struct Shell {
    runtime: Handle,
}

impl Shell {
    pub fn new(runtime: Handle) -> Self {
        Self { runtime }
    }

    /// Gives the answer now, or when the view has it, or an error when that takes too long.
    pub fn answer<T: Send + 'static>(&self, outcome: Outcome<T>, reply: impl FnOnce(Result<T>) + Send + 'static) {
        match outcome {
            Outcome::Now(result) => reply(result),
            Outcome::Later(future) => {
                self.runtime.spawn(async move {
                    let done = tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| {
                        Err(Error::Timeout { what: "the answer".into(), seconds: DEADLINE.as_secs() })
                    });
                    reply(done);
                });
            }
        }
    }

    /// The same for an answer that a guest gives: a caller that is being killed is not held up by it. What was asked for
    /// is done all the same, and what nobody takes is dropped.
    pub fn answer_for<T: Send + 'static>(
        &self,
        pid: u32,
        outcome: Outcome<T>,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let mut future = match outcome {
            Outcome::Now(result) => return reply(result),
            Outcome::Later(future) => future,
        };
        // Begun here: what waits for nobody is answered without another thread, and what is sent is sent sooner.
        let begun = {
            let _here = self.runtime.enter();
            future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        match begun {
            Poll::Ready(result) => reply(result),
            Poll::Pending => drop(self.runtime.spawn(async move { reply(unless_killed(pid, future).await) })),
        }
    }
}

async fn unless_killed<T: Send + 'static>(pid: u32, mut asking: Later<T>) -> Result<T> {
    let late = tokio::time::sleep(GUEST_DEADLINE);
    let mut late = std::pin::pin!(late);
    let mut sweep = tokio::time::interval_at(Instant::now() + SWEEP, SWEEP);
    loop {
        tokio::select! {                        // what is asked for is asked on below
            done = &mut asking => return done,
            () = &mut late => break,
            _ = sweep.tick(), if pid != 0 => {
                if is_being_killed(pid) {
                    tokio::spawn(tokio::time::timeout(GUEST_DEADLINE, asking));
                    let interrupted = std::io::Error::from_raw_os_error(libc::EINTR);
                    return Err(Error::Io { path: "guest".into(), source: interrupted });
                }
            }
        }
    }
    Err(Error::Timeout { what: "the guest".into(), seconds: GUEST_DEADLINE.as_secs() })
}

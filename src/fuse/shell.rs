//! Where synchronous callbacks meet what takes time: one function, with a deadline for every answer.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::view::Outcome;

/// No reply waits longer: its caller could not even be killed meanwhile.
const DEADLINE: Duration = Duration::from_secs(10);

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
}

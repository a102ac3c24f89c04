//! Taking up a VM that an earlier hostagent left.

use std::sync::Arc;
use std::time::Duration;

use limafs_driver::VmEvent;
use tokio::time::timeout;

use super::actor::Actor;
use super::facts::Facts;
use super::tasks::{Done, Slot, place};
use super::wishes;
use crate::error::Result;
use crate::status::State;
use crate::store::Record;

/// How long a VM that was paused may take to say that it still is.
const FIRST_WORD: Duration = Duration::from_millis(500);

/// The VM that an earlier hostagent left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    Nothing,
    Running,
    Paused,
}

impl Actor {
    /// Looks for a VM that an earlier hostagent left, and takes it up.
    pub async fn attach(&mut self, record: Option<&Record>) -> Result<Attached> {
        let prepared = self.steps.recover(record).await?;
        let Some(mut vm) = prepared.driver.attach().await? else {
            self.machine.suspended = prepared.driver.is_suspended().await?;
            return Ok(Attached::Nothing);
        };
        let (driver, dir) = (Arc::clone(&prepared.driver), self.dir.clone());
        self.tasks.spawn(Slot::List, async move {
            wishes::list(&*driver, &dir).await;
            Ok(Done::Ready)
        });
        let attached = match record.is_some_and(|record| record.state == State::Paused) {
            // The driver says so first; without its word it was resumed meanwhile.
            true => match timeout(FIRST_WORD, vm.events.recv()).await {
                Ok(Some(VmEvent::Paused)) => Attached::Paused,
                _ => Attached::Running,
            },
            false => Attached::Running,
        };
        self.facts = Facts { driver_pid: vm.pid, accelerator: vm.accelerator, ..prepared.facts.clone() };
        if let Some(place) = place(&prepared).await? {
            self.locate(&prepared, &place);
        }
        self.vm = Some(vm.events);
        self.prepared = Some(Arc::new(prepared));
        Ok(attached)
    }
}

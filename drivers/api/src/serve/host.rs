//! The driver behind both services: calls one after the other but for `kill`, and the instance as its hosts know it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{MutexGuard, watch};
use tonic::Status;

use super::once;
use crate::wire::{status, tree};
use crate::{Driver, Instance, Vm};

#[derive(Clone)]
pub(super) struct Host(Arc<Inner>);

struct Inner {
    driver: Arc<dyn Driver>,
    /// Held over awaits, which is what it is for: hosts call at once, drivers are called one call after the other.
    turn: tokio::sync::Mutex<()>,
    /// As it was configured last.
    instance: Mutex<Option<Instance>>,
    /// Calls and VMs that are looked after.
    busy: watch::Sender<usize>,
}

/// While it is there the server does not end.
pub(super) struct Busy(Arc<Inner>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|count| *count -= 1);
    }
}

impl Host {
    pub(super) fn new(driver: Arc<dyn Driver>) -> Self {
        let (turn, instance) = (tokio::sync::Mutex::new(()), Mutex::new(None));
        Self(Arc::new(Inner { driver, turn, instance, busy: watch::Sender::new(0) }))
    }

    pub(super) fn busy(&self) -> Busy {
        self.0.busy.send_modify(|count| *count += 1);
        Busy(self.0.clone())
    }

    pub(super) fn watch_busy(&self) -> watch::Receiver<usize> {
        self.0.busy.subscribe()
    }

    /// The driver, for what may be called at any time: `info`, `about`, `kill`.
    pub(super) fn driver(&self) -> &dyn Driver {
        &*self.0.driver
    }

    /// The driver, when its turn has come.
    pub(super) async fn turn(&self) -> Turn<'_> {
        Turn { driver: &*self.0.driver, _turn: self.0.turn.lock().await }
    }

    /// Configures from JSON; the answer is the whole instance, with what of it we do not know.
    pub(super) async fn configure(&self, text: &[u8]) -> Result<Vec<u8>, Status> {
        let (theirs, mut instance) = once::instance(text).map_err(status::of)?;
        let known = once::to_value(&instance).map_err(status::of)?;
        if instance.ssh_local_port == 0 {
            // Lima's host knows the port only while it looks after the VM; others configure the same server.
            instance.ssh_local_port = self.instance().map_or(0, |last| last.ssh_local_port);
        }
        let configured = self.turn().await.driver.configure(instance).await.map_err(status::of)?;
        let mut answer = once::to_value(&configured).map_err(status::of)?;
        tree::keep_unknown(&mut answer, &theirs, &known);
        *self.0.instance.lock().unwrap_or_else(PoisonError::into_inner) = Some(configured);
        Ok(answer.to_string().into_bytes())
    }

    fn instance(&self) -> Option<Instance> {
        self.0.instance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn start(&self) -> Result<Vm, crate::Error> {
        self.turn().await.driver.start().await
    }

    pub(super) async fn attach(&self) -> Result<Option<Vm>, crate::Error> {
        self.turn().await.driver.attach().await
    }
}

pub(super) struct Turn<'a> {
    pub driver: &'a dyn Driver,
    _turn: MutexGuard<'a, ()>,
}

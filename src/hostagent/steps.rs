//! What the actor has done by others: the preparation of a boot and the wait for a guest. A trait, so that the actor
//! is tested without images, disks and guests.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use limafs_driver::{Config, Driver};
use tokio::sync::mpsc;

use super::facts::Facts;
use super::line::Line;
use super::mounts::{self, Mounts};
use super::ready::deliver::Parcel;
use super::ready::user_probes::UserProbe;
use super::ssh::Login;
use super::state::Event;
use crate::error::Result;
use crate::store::Record;

/// All that there is before the VM's process.
pub struct Prepared {
    pub driver: Arc<dyn Driver>,
    pub facts: Facts,
    /// As it was filled for this start; what could be read of it when a running VM is taken up.
    pub config: Arc<Config>,
    /// The way to the guest; `None` for a VM without one, which is ready at once.
    pub line: Option<Arc<Line>>,
    /// What is to be mounted in the guest over ssh.
    pub mounts: Arc<Mounts>,
    /// The guest had booted before, and goes on from then: taken back when it is reached.
    pub returned: AtomicBool,
    /// The guest reports its boot by itself.
    pub push: bool,
    /// What lima.yaml itself asks the guest before it counts as ready.
    pub probes: Vec<UserProbe>,
    /// What a guest is to be given over ssh that gets no disk of ours.
    pub parcel: Option<Parcel>,
}

impl Prepared {
    /// Nothing of ours runs in the guest: ssh is all there is to wait for.
    pub fn is_plain(&self) -> bool {
        self.config.plain == Some(true)
    }

    /// The same for a guest that is put back to where it was: with a line of its own.
    pub fn renewed(&self) -> Self {
        Self {
            driver: Arc::clone(&self.driver),
            facts: self.facts.clone(),
            config: Arc::clone(&self.config),
            line: self.line.as_ref().map(|line| Arc::new(Line::new(Login::clone(&line.login())))),
            mounts: Arc::clone(&self.mounts),
            returned: AtomicBool::new(true),
            push: false,
            probes: self.probes.clone(),
            // It was given it before.
            parcel: None,
        }
    }

    /// What is to be done in the guest before its VM is stopped; takes a few seconds at most.
    pub async fn take_leave(&self) {
        if let Some(line) = &self.line {
            mounts::take_leave(&self.mounts, line).await;
        }
    }
}

#[async_trait]
pub trait Steps: Send + Sync {
    /// Does everything up to the VM's process, from lima.yaml as it is now; tells of each [`Event::Step`].
    async fn prepare(&self, tell: &mpsc::Sender<Event>) -> Result<Prepared>;

    /// Finds what is needed to take up a VM that an earlier hostagent left; changes nothing.
    async fn recover(&self, record: Option<&Record>) -> Result<Prepared>;

    /// Lets go of what `prepare` took: the VM is gone, and this hostagent is about to go.
    async fn rest(&self) {}

    /// Tells of `Ssh`, `Done` and `Late`, and returns when there is nothing more to tell. `lines` are the guest's.
    async fn await_ready(&self, prepared: &Prepared, lines: mpsc::Receiver<String>, tell: &mpsc::Sender<Event>);
}

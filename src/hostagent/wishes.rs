//! Driver calls that somebody asks for over ha.sock and whose end is told to whoever asked: snapshots and a new size.
//! What is asked for is kept here; whether it may be done now, the state machine says.

use std::sync::Arc;
use std::time::Duration;

use limafs_driver::{Config, Driver};
use tokio::sync::oneshot;

use super::actor::{Actor, Answer};
use super::line::Line;
use super::ssh;
use super::state::{self, Action, Call, Event};
use super::tasks::{Done, Slot};
use crate::config;
use crate::error::Error;
use crate::status::{Refusal, Resize, SnapshotOrder, SnapshotVerb};
use crate::store;

/// How long a guest may take to see what was plugged in, and to take it up.
const ONLINE: Duration = Duration::from_secs(30);
/// Takes up processors and memory; most guests do so by themselves, some leave it to a rule that they do not have.
const TAKE_UP: &str = "sudo -n sh -c 'i=0; while [ $i -lt 50 ]; do \
    for file in /sys/devices/system/cpu/cpu[0-9]*/online; do grep -q 0 $file && echo 1 > $file; done; \
    for file in /sys/devices/system/memory/memory[0-9]*/state; do \
    grep -q offline $file && echo online > $file; done; \
    [ \"$(nproc)\" -ge \"$0\" ] && [ $i -ge 5 ] && exit 0; i=$((i+1)); sleep 0.1; done' ";

#[derive(Debug, Clone)]
pub enum Wish {
    Snapshot(SnapshotOrder),
    Resize(Resize),
}

impl Wish {
    fn call(&self) -> Call {
        match self {
            Self::Snapshot(order) if order.what == SnapshotVerb::Apply => Call::Restore,
            Self::Snapshot(_) => Call::Snapshot,
            Self::Resize(_) => Call::Resize,
        }
    }
}

impl Actor {
    /// Whoever asks is answered at once when it is refused, or a verb; else when it is done.
    pub(super) fn wish(&mut self, wish: Wish, answer: oneshot::Sender<Answer>) {
        let call = wish.call();
        let (_, actions) = state::step(&self.machine, Event::Wish(call));
        let is_refused = !actions.contains(&Action::Accept);
        if is_refused {
            return self.advance(Event::Wish(call), Some(answer));
        }
        self.wished = Some(wish);
        match call {
            Call::Restore => self.advance(Event::Wish(call), Some(answer)),
            _ => {
                self.asker = Some(answer);
                self.advance(Event::Wish(call), None);
            }
        }
    }

    /// Takes note of the end of a call, and tells whoever asked for it.
    pub(super) fn wish_ended(&mut self, call: Call, result: &Result<(), Refusal>) {
        if !matches!(call, Call::Snapshot | Call::Resize | Call::Restore) {
            return;
        }
        if let (Some(Wish::Resize(size)), Ok(())) = (self.wished.take(), result) {
            self.resized(size);
        }
        let Some(asker) = self.asker.take() else { return };
        match result {
            Ok(()) => self.accept(asker),
            // Whoever asked may have hung up.
            Err(refusal) => drop(asker.send(Err(refusal.clone()))),
        }
    }

    /// What the VM was started with counts as this from now on.
    fn resized(&mut self, size: Resize) {
        let cpus = size.cpus;
        if let Some(started) = &mut self.facts.started {
            let new = Config { cpus: Some(i64::from(size.cpus)), memory: Some(size.memory), ..Config::default() };
            started.resize(&new);
        }
        if let Some(line) = self.prepared.as_ref().and_then(|prepared| prepared.line.clone()) {
            self.tasks.spawn(Slot::Online, async move {
                take_up(&line, cpus).await;
                Ok(Done::Ready)
            });
        }
    }
}

async fn take_up(line: &Arc<Line>, cpus: u32) {
    let Some(session) = line.current() else { return };
    match session.exec(&format!("{TAKE_UP}{cpus}"), ONLINE).await {
        Ok(output) if output.exit == Some(0) => {}
        Ok(output) => tracing::warn!("the guest has not taken up what was added: exit {:?}", output.exit),
        Err(fault) => tracing::warn!("the guest has not taken up what was added: {fault}"),
    }
}

/// Carries out a wish.
pub async fn carry_out(driver: &dyn Driver, wish: Wish, dir: &std::path::Path) -> crate::error::Result<()> {
    match wish {
        Wish::Resize(Resize { cpus, memory }) => {
            let bytes = config::size(&memory).ok_or_else(|| Error::invalid("memory", "is no size"))?;
            Ok(driver.resize(cpus, bytes).await?)
        }
        Wish::Snapshot(order) => snapshot(driver, &order, dir).await,
    }
}

/// Carries out an order, and writes down which snapshots there are then.
pub async fn snapshot(driver: &dyn Driver, order: &SnapshotOrder, dir: &std::path::Path) -> crate::error::Result<()> {
    let done = match order.what {
        SnapshotVerb::Create => driver.create_snapshot(&order.tag).await,
        SnapshotVerb::Apply => driver.apply_snapshot(&order.tag).await,
        SnapshotVerb::Delete => driver.delete_snapshot(&order.tag).await,
    };
    list(driver, dir).await;
    if order.what == SnapshotVerb::Apply && done.is_ok() {
        ssh::config::hang_up(dir).await;
    }
    Ok(done?)
}

/// Writes down which snapshots there are. Nothing depends on it but what is shown.
pub async fn list(driver: &dyn Driver, dir: &std::path::Path) {
    let written = match driver.snapshots().await {
        Ok(snapshots) => store::set_snapshots(dir, &snapshots),
        Err(limafs_driver::Error::Unsupported { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = written {
        tracing::warn!("snapshots: {error}");
    }
}

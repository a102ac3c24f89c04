//! The trait, call by call.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;

use super::life::{self, KILL};
use super::line::Line;
use super::{Remote, once};
use crate::wire::proto::driver::{
    ApplySnapshotRequest, ChangeDisplayPasswordRequest, CreateSnapshotRequest, DeleteSnapshotRequest,
};
use crate::wire::proto::extra::extra_client::ExtraClient;
use crate::wire::proto::extra::{Json, ResizeRequest, StopRequest};
use crate::wire::snapshots;
use crate::{About, Driver, Error, Health, Info, Instance, Memory, Result, Snapshot, SshLogin, Vm};

/// For copying and converting a disk.
const DISK: Duration = Duration::from_secs(30 * 60);
/// For what is done once, and may ask a service of the machine.
const CREATE: Duration = Duration::from_secs(5 * 60);
/// For writing or reading a guest's memory.
const MEMORY: Duration = Duration::from_secs(15 * 60);
/// For a restart by whoever has the machine; docker-machine gives one 180 s.
const RESET: Duration = Duration::from_secs(190);
/// On top of the time that a guest has to end.
const AFTER_GRACE: Duration = Duration::from_secs(10);

/// One of Lima's calls, which has to be answered soon.
macro_rules! short {
    ($self:ident, $operation:literal, $method:ident($request:expr)) => {{
        let line = $self.inner.line().await?;
        line.short($operation, line.lima.clone().$method($request)).await
    }};
}

/// One of Lima's calls, which may take so long.
macro_rules! long {
    ($self:ident, $deadline:expr, $operation:literal, $method:ident($request:expr)) => {{
        let line = $self.inner.line().await?;
        line.long($deadline, $operation, line.lima.clone().$method($request)).await
    }};
}

/// One of our calls.
macro_rules! extra {
    ($self:ident, $deadline:expr, $operation:literal, $method:ident($request:expr)) => {{
        let line = $self.inner.line().await?;
        line.long($deadline, $operation, extra(&line, $operation)?.$method($request)).await
    }};
}

fn extra(line: &Line, operation: &'static str) -> Result<ExtraClient<super::line::Sender>> {
    line.extra.clone().ok_or_else(|| Error::Unsupported { driver: line.name.to_string(), operation })
}

impl Remote {
    fn parse<T: DeserializeOwned>(&self, answer: &Json) -> Result<T> {
        serde_json::from_slice(&answer.json).map_err(|error| self.inner.failed(error))
    }
}

#[async_trait]
impl Driver for Remote {
    /// The name alone before the first call that needs the program, or `health`.
    fn info(&self) -> Info {
        self.inner.state(|state| state.info.clone())
    }

    /// Of a driver that speaks of itself, once `health` has asked.
    fn about(&self) -> About {
        self.inner.state(|state| state.about.clone())
    }

    async fn health(&self) -> Health {
        let report = once::report(&self.inner.name, &self.inner.program).await;
        let name = self.inner.name.to_string();
        // One that could not say what it is has said nothing new.
        if !report.info.name.is_empty() {
            self.inner.state(|state| (state.info, state.about) = (Info { name, ..report.info }, report.about));
        }
        report.health
    }

    async fn configure(&self, instance: Instance) -> Result<Instance> {
        self.inner.configure(instance).await
    }

    async fn validate(&self) -> Result<()> {
        short!(self, "validate", validate(()))
    }

    async fn create(&self) -> Result<()> {
        long!(self, CREATE, "create", create(()))
    }

    async fn create_disk(&self) -> Result<()> {
        long!(self, DISK, "create the disk", create_disk(()))
    }

    async fn start(&self) -> Result<Vm> {
        let line = self.inner.line().await?;
        life::start(self, line).await
    }

    async fn attach(&self) -> Result<Option<Vm>> {
        let line = self.inner.line().await?;
        let server = line.server.clone();
        let attached = life::attach(self, line).await?;
        if attached.is_none() {
            // Nothing runs there: an earlier host has left it.
            server.is_ours.store(true, Ordering::Relaxed);
        }
        Ok(attached)
    }

    async fn stop(&self, grace: Duration) -> Result<()> {
        let line = self.inner.line().await?;
        let grace_milliseconds = grace.as_millis().try_into().unwrap_or(u64::MAX);
        let deadline = grace + AFTER_GRACE;
        let stopped = match line.extra.clone() {
            Some(mut extra) => line.long(deadline, "stop", extra.stop(StopRequest { grace_milliseconds })).await,
            None => line.long(deadline, "stop", line.lima.clone().stop(())).await,
        };
        match stopped {
            Ok(()) => life::over(&self.inner, KILL).await,
            Err(Error::Timeout { .. }) => self.kill().await,
            Err(error) => Err(error),
        }
    }

    async fn kill(&self) -> Result<()> {
        life::kill(&self.inner).await
    }

    async fn pause(&self) -> Result<()> {
        extra!(self, super::line::SHORT, "pause", pause(()))
    }

    async fn resume(&self) -> Result<()> {
        extra!(self, super::line::SHORT, "resume", resume(()))
    }

    async fn reset(&self) -> Result<()> {
        extra!(self, RESET, "reset", reset(()))
    }

    async fn suspend(&self) -> Result<()> {
        extra!(self, MEMORY, "suspend", suspend(()))
    }

    /// Lima's drivers never are.
    async fn is_suspended(&self) -> Result<bool> {
        let line = self.inner.line().await?;
        match line.extra.is_some() {
            true => self.parse(&extra!(self, super::line::SHORT, "say whether it is suspended", is_suspended(()))?),
            false => Ok(false),
        }
    }

    async fn discard_suspended(&self) -> Result<()> {
        let line = self.inner.line().await?;
        match line.extra.is_some() {
            true => extra!(self, super::line::SHORT, "give up what is saved", discard_suspended(())),
            false => Ok(()),
        }
    }

    async fn ssh_login(&self) -> Result<Option<SshLogin>> {
        let line = self.inner.line().await?;
        if line.extra.is_none() {
            return Ok(None);
        }
        let login: Option<SshLogin> = self.parse(&extra!(self, CREATE, "say where ssh is", ssh_login(()))?)?;
        for word in login.iter().flat_map(|login| [&login.address, &login.user]) {
            self.inner.check_word(word)?;
        }
        Ok(login)
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let line = self.inner.line().await?;
        if line.extra.is_some() {
            return self.parse(&extra!(self, MEMORY, "list snapshots", snapshots(()))?);
        }
        Ok(snapshots::parse(&long!(self, MEMORY, "list snapshots", list_snapshots(()))?.snapshots))
    }

    async fn create_snapshot(&self, tag: &str) -> Result<()> {
        long!(self, MEMORY, "take a snapshot", create_snapshot(CreateSnapshotRequest { tag: tag.into() }))
    }

    async fn apply_snapshot(&self, tag: &str) -> Result<()> {
        long!(self, MEMORY, "apply a snapshot", apply_snapshot(ApplySnapshotRequest { tag: tag.into() }))
    }

    async fn delete_snapshot(&self, tag: &str) -> Result<()> {
        long!(self, MEMORY, "delete a snapshot", delete_snapshot(DeleteSnapshotRequest { tag: tag.into() }))
    }

    async fn screenshot(&self) -> Result<Vec<u8>> {
        Ok(extra!(self, super::line::SHORT, "screenshot", screenshot(()))?.bytes)
    }

    async fn memory(&self) -> Result<Memory> {
        self.parse(&extra!(self, super::line::SHORT, "memory statistics", memory(()))?)
    }

    async fn resize(&self, cpus: u32, memory: u64) -> Result<()> {
        extra!(self, CREATE, "resize", resize(ResizeRequest { cpus, memory }))
    }

    async fn forward_guest_agent(&self) -> Result<bool> {
        Ok(short!(self, "say how the guest agent is reached", forward_guest_agent(()))?.should_forward)
    }

    async fn guest_agent_conn(&self) -> Result<()> {
        short!(self, "reach the guest agent", guest_agent_conn(()))
    }

    async fn additional_setup_for_ssh(&self) -> Result<()> {
        long!(self, CREATE, "set ssh up", additional_setup_for_ssh(()))
    }

    async fn run_gui(&self) -> Result<()> {
        short!(self, "gui", run_gui(()))
    }

    async fn change_display_password(&self, password: &str) -> Result<()> {
        let request = ChangeDisplayPasswordRequest { password: password.into() };
        short!(self, "display password", change_display_password(request))
    }

    async fn display_connection(&self) -> Result<String> {
        let connection = short!(self, "display", get_display_connection(()))?.connection;
        self.inner.check_word(&connection).map(|()| connection)
    }

    async fn inspect_status(&self, instance: Instance) -> Result<Instance> {
        once::inspect_status(&self.inner.name, &self.inner.program, instance).await
    }

    async fn delete(&self) -> Result<()> {
        long!(self, CREATE, "delete", delete(()))
    }

    async fn boot_scripts(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        Ok(short!(self, "give its boot scripts", boot_scripts(()))?.scripts)
    }

    async fn ssh_address(&self) -> Result<String> {
        let address = short!(self, "give the address of ssh", ssh_address(()))?.address;
        self.inner.check_word(&address).map(|()| address)
    }
}

//! What is known of a VM beside its state, and the status that both make. Plain data.

use jiff::Timestamp;
use limafs_driver::Accelerator;

use super::state::{self, Machine};
use crate::names::Name;
use crate::started::Started;
use crate::status::{Forward, Goal, Status};
use crate::store::{Ports, Record};

/// What is known of the VM beside its state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub driver: String,
    pub accelerator: Option<Accelerator>,
    pub ssh_address: String,
    pub ssh_local_port: u16,
    pub iid: String,
    pub driver_pid: Option<u32>,
    /// Where the guest's name server listens, if it has one of ours.
    pub dns: Option<Ports>,
    /// `None` when somebody else has started the VM.
    pub started: Option<Started>,
}

impl Facts {
    /// What a suspended VM will be again.
    pub fn of_suspended(self, record: Option<&Record>) -> Self {
        match record.filter(|record| record.suspended || record.goal == Goal::Suspended) {
            Some(record) => Self { iid: record.iid.clone(), started: record.started.clone(), ..self },
            None => self,
        }
    }
}

/// The status without what those beside the guest say. `since` is that of the state and that of the step.
pub fn compose(name: &Name, machine: &Machine, facts: &Facts, [since, step_since]: [Timestamp; 2]) -> Status {
    let forwarded = machine.vm && facts.ssh_local_port != 0 && !facts.ssh_address.is_empty();
    let forward = Forward {
        proto: "tcp".into(),
        host: format!("{}:{}", facts.ssh_address, facts.ssh_local_port),
        guest: "127.0.0.1:22".into(),
        state: "forwarding".into(),
        reverse: false,
    };
    Status {
        name: name.to_string(),
        revision: 0,
        state: machine.state(),
        goal: machine.goal,
        since,
        step: machine.step.as_ref().map(state::Step::text),
        step_since: machine.step.as_ref().map(|_| step_since),
        ready: machine.ready && machine.vm,
        driver: facts.driver.clone(),
        accelerator: facts.accelerator.clone(),
        ssh_address: facts.ssh_address.clone(),
        ssh_local_port: facts.ssh_local_port,
        hostagent_pid: std::process::id(),
        driver_pid: facts.driver_pid.filter(|_| machine.vm),
        guest: false,
        forwards: if forwarded { vec![forward] } else { vec![] },
        errors: machine.errors(),
    }
}

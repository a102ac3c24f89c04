//! What the VM does by itself.

use limafs_driver::VmEvent;

use super::boot::settle;
use super::{Action, Call, Machine, Phase, Step, finish};
use crate::status::Goal;

/// Takes note of what the VM did, which may be its end.
pub fn apply(machine: &mut Machine, event: VmEvent) -> Vec<Action> {
    match event {
        VmEvent::Exited { clean, reason } => return on_exit(machine, clean, reason),
        VmEvent::Unresponsive => machine.unresponsive = machine.vm,
        VmEvent::Responsive => machine.unresponsive = false,
        _ if !machine.is_live() => {}
        VmEvent::Paused | VmEvent::Resumed | VmEvent::Reset if machine.call.is_some_and(Call::holds_the_vm) => {}
        VmEvent::Paused => return on_paused(machine),
        VmEvent::Resumed => return on_resumed(machine),
        VmEvent::Reset => return on_reset(machine),
        VmEvent::Panicked => {
            machine.panicked = true;
            if machine.phase == Phase::Waiting {
                return settle(machine, vec![]);
            }
        }
        VmEvent::PoweringDown if machine.phase == Phase::Waiting => {
            machine.step = Some(Step::named("the guest is powering down"));
        }
        VmEvent::PoweringDown | VmEvent::Boot(_) => {}
    }
    vec![]
}

fn on_exit(machine: &mut Machine, clean: bool, reason: String) -> Vec<Action> {
    // While a boot is under way its own end decides.
    if !machine.vm || matches!(machine.phase, Phase::Launching | Phase::Aborting) {
        return vec![];
    }
    machine.vm = false;
    // Its end decides, which may be what was wanted.
    if machine.is_live() && machine.call.is_some_and(Call::holds_the_vm) {
        machine.verdict = vec![format!("the VM ended: {reason}")];
        return vec![];
    }
    machine.call = None;
    if machine.is_live() && !machine.must_end() {
        match clean {
            true => machine.goal = Goal::Stopped,
            false => machine.verdict = vec![format!("the VM ended: {reason}")],
        }
    }
    finish(machine)
}

pub fn on_paused(machine: &mut Machine) -> Vec<Action> {
    if machine.phase == Phase::Paused {
        return vec![];
    }
    // Somebody paused it behind our back: that is what is wanted now.
    if machine.call != Some(Call::Pause) && machine.goal == Goal::Running && !machine.again {
        machine.goal = Goal::Paused;
    }
    machine.phase = Phase::Paused;
    machine.step = None;
    vec![Action::AbandonReady]
}

pub fn on_resumed(machine: &mut Machine) -> Vec<Action> {
    if machine.phase != Phase::Paused {
        return vec![];
    }
    if machine.call != Some(Call::Resume) && machine.goal == Goal::Paused {
        machine.goal = Goal::Running;
    }
    machine.phase = if machine.settled { Phase::Up } else { Phase::Waiting };
    match machine.settled && machine.ready || machine.must_end() {
        true => vec![],
        false => vec![Action::AwaitReady],
    }
}

/// The guest boots anew: what was known of it is void.
fn on_reset(machine: &mut Machine) -> Vec<Action> {
    machine.ready = false;
    machine.settled = false;
    machine.panicked = false;
    machine.failures.clear();
    machine.troubles.clear();
    if machine.phase == Phase::Paused {
        return vec![];
    }
    machine.phase = Phase::Waiting;
    vec![Action::AwaitReady]
}

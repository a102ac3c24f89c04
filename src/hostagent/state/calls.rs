//! What the ends of calls of the driver come to.

use super::{Action, Call, Machine, Phase, finish, stop, vm};
use crate::status::Goal;

/// Takes note of how a call went.
pub fn apply(machine: &mut Machine, call: Call, result: Result<(), String>) -> Vec<Action> {
    if machine.call != Some(call) {
        return vec![];
    }
    let actions = match (call, result) {
        (Call::Suspend, Ok(())) if machine.is_live() => on_suspended(machine),
        (_, result) if machine.is_live() && !machine.vm => on_lost(machine, result.err()),
        (Call::Pause, Ok(())) if machine.is_live() => vm::on_paused(machine),
        (Call::Resume, Ok(())) if machine.is_live() => vm::on_resumed(machine),
        (Call::Restore, Ok(())) if machine.is_live() => on_restored(machine),
        (_, Ok(())) => vec![],
        (call, Err(why)) => on_refused_call(machine, call, why),
    };
    machine.call = None;
    actions
}

/// The memory is saved and the VM is gone. Whoever wants it again by now gets it.
fn on_suspended(machine: &mut Machine) -> Vec<Action> {
    machine.vm = false;
    machine.suspended = true;
    machine.again = machine.goal == Goal::Running;
    machine.verdict.clear();
    finish(machine)
}

/// The VM ended in the middle of a call that was to keep it.
fn on_lost(machine: &mut Machine, why: Option<String>) -> Vec<Action> {
    match machine.must_end() {
        true => machine.verdict.clear(),
        false => machine.verdict.splice(..0, why).for_each(drop),
    }
    finish(machine)
}

/// The guest is the one of then: it has booted, and must be reached anew.
fn on_restored(machine: &mut Machine) -> Vec<Action> {
    machine.ready = false;
    machine.settled = false;
    machine.panicked = false;
    machine.failures.clear();
    machine.troubles.clear();
    machine.step = None;
    if machine.phase == Phase::Paused {
        return vec![Action::Renew];
    }
    machine.phase = Phase::Waiting;
    vec![Action::Renew, Action::AwaitReady]
}

/// Gives up a goal that the driver cannot reach, so that it is not tried for ever.
fn on_refused_call(machine: &mut Machine, call: Call, why: String) -> Vec<Action> {
    // Of these whoever asked is told.
    if matches!(call, Call::Snapshot | Call::Resize) {
        return vec![];
    }
    machine.complaint = Some(why);
    match call {
        Call::Suspend | Call::Restore => {
            machine.step = None;
            if machine.goal == Goal::Suspended {
                machine.goal = if machine.phase == Phase::Paused { Goal::Paused } else { Goal::Running };
            }
        }
        Call::Resume if machine.phase == Phase::Paused && machine.must_end() => return stop(machine),
        Call::Resume if machine.phase == Phase::Paused => machine.goal = Goal::Paused,
        Call::Pause if machine.goal == Goal::Paused && machine.phase != Phase::Paused => machine.goal = Goal::Running,
        _ => {}
    }
    vec![]
}

//! What a hostagent makes of what an earlier one left: a VM and a record, either of which may be missing.

use super::boot::begin;
use super::{Action, Found, Machine, Phase, finish};
use crate::status::{Goal, State};

/// Takes up the VM in the state it was left in, or says what became of it.
pub fn apply(machine: &mut Machine, found: Found) -> Vec<Action> {
    if !found.vm {
        return with_nothing(machine, found);
    }
    *machine = Machine { phase: Phase::Up, goal: found.goal, vm: true, settled: true, ..Machine::default() };
    match found.state {
        State::Running => machine.ready = true,
        State::Stopping => machine.again = !matches!(found.goal, Goal::Stopped | Goal::Suspended),
        State::Paused => {
            machine.phase = if found.paused { Phase::Paused } else { Phase::Up };
            machine.goal = if found.paused { Goal::Paused } else { Goal::Running };
            machine.ready = found.errors.is_empty();
            machine.failures = found.errors;
        }
        State::Degraded => {
            machine.goal = Goal::Running;
            machine.failures = found.errors;
            return vec![Action::AwaitReady];
        }
        _ => {
            machine.phase = Phase::Waiting;
            machine.goal = Goal::Running;
            machine.settled = false;
            return vec![Action::AwaitReady];
        }
    }
    vec![]
}

fn with_nothing(machine: &mut Machine, found: Found) -> Vec<Action> {
    let restarting = found.state == State::Stopping && found.goal == Goal::Running;
    let why = match found.state {
        State::Broken => found.errors,
        _ if machine.suspended && restarting => return begin(machine),
        _ if machine.suspended => vec![],
        state if !state.is_live() || !found.same_boot || found.goal == Goal::Stopped => vec![],
        _ if restarting => return begin(machine),
        State::Starting if !found.launched => {
            let step = found.step.unwrap_or_else(|| "starting".into());
            vec![format!("the hostagent was ended while {step}")]
        }
        _ => vec!["the VM ended while no hostagent was watching".into()],
    };
    machine.goal = found.goal;
    machine.verdict = why;
    finish(machine)
}

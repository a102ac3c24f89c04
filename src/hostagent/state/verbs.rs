//! What each verb means in each phase. A goal that is reached or being reached is success; a wrong state is refused.

use super::boot::begin;
use super::{Action, Call, Machine, Phase, kill};
use crate::status::{Goal, Verb};

/// Answers `verb` with exactly one of `Accept` and `Refuse`, first.
pub fn apply(machine: &mut Machine, verb: Verb) -> Vec<Action> {
    let done = match machine.phase {
        Phase::Stopped | Phase::Broken | Phase::Suspended => at_rest(machine, verb),
        Phase::Preparing | Phase::Launching => while_booting(machine, verb),
        Phase::Aborting | Phase::Stopping => while_ending(machine, verb),
        Phase::Waiting | Phase::Up | Phase::Paused => while_live(machine, verb),
    };
    match done {
        Ok(actions) => {
            machine.complaint = None;
            [vec![Action::Accept], actions].concat()
        }
        Err(why) => vec![Action::Refuse(format!("cannot {verb}: {why}"))],
    }
}

/// Answers the wish for a call with exactly one of `Accept` and `Refuse`, first.
pub fn wish(machine: &mut Machine, call: Call) -> Vec<Action> {
    let why = match machine.phase {
        Phase::Waiting | Phase::Preparing | Phase::Launching => "the instance is starting",
        _ if machine.is_live() && machine.is_leaving() => "the instance is being suspended",
        _ if machine.is_live() && machine.must_end() => "the instance is stopping",
        _ if machine.is_live() && machine.call.is_some() => "another verb is under way",
        _ if machine.is_live() => {
            machine.complaint = None;
            machine.call = Some(call);
            if call == Call::Restore {
                machine.step = Some(super::Step::named("going back to the snapshot"));
            }
            return vec![Action::Accept, Action::Call(call)];
        }
        Phase::Aborting | Phase::Stopping => "the instance is stopping",
        _ => "the instance is not running",
    };
    vec![Action::Refuse(why.into())]
}

type Outcome = Result<Vec<Action>, &'static str>;

fn at_rest(machine: &mut Machine, verb: Verb) -> Outcome {
    match verb {
        Verb::Start => Ok(begin(machine)),
        Verb::Resume if machine.suspended => Ok(begin(machine)),
        Verb::Suspend if machine.suspended => Ok(vec![]),
        Verb::Stop | Verb::Kill if machine.suspended => Err("the instance is suspended"),
        Verb::Stop | Verb::Kill => {
            machine.goal = Goal::Stopped;
            Ok(vec![])
        }
        Verb::Restart | Verb::Pause | Verb::Resume | Verb::Suspend | Verb::Reset => Err("the instance is not running"),
    }
}

fn while_booting(machine: &mut Machine, verb: Verb) -> Outcome {
    match verb {
        Verb::Start | Verb::Resume => return Ok(vec![]),
        Verb::Stop | Verb::Kill => machine.goal = Goal::Stopped,
        Verb::Restart => machine.again = true,
        Verb::Pause | Verb::Suspend | Verb::Reset => return Err("the instance is starting"),
    }
    machine.phase = Phase::Aborting;
    Ok(vec![Action::AbortBoot])
}

fn while_ending(machine: &mut Machine, verb: Verb) -> Outcome {
    match verb {
        Verb::Start | Verb::Restart => {
            machine.again = true;
            machine.goal = Goal::Running;
        }
        Verb::Stop | Verb::Kill => {
            machine.again = false;
            machine.goal = Goal::Stopped;
        }
        Verb::Pause | Verb::Resume | Verb::Suspend | Verb::Reset => return Err("the instance is stopping"),
    }
    match verb == Verb::Kill && machine.phase == Phase::Stopping && machine.vm {
        true => Ok(kill(machine)),
        false => Ok(vec![]),
    }
}

fn while_live(machine: &mut Machine, verb: Verb) -> Outcome {
    let is_late = machine.call == Some(Call::Suspend);
    if is_late && matches!(verb, Verb::Stop | Verb::Restart | Verb::Pause | Verb::Reset) {
        return Err("the instance is being suspended");
    }
    let (goal, again) = match verb {
        Verb::Start | Verb::Resume => (Goal::Running, false),
        Verb::Stop | Verb::Kill => (Goal::Stopped, false),
        Verb::Restart => (Goal::Running, true),
        Verb::Pause if machine.phase == Phase::Waiting => return Err("the instance is starting"),
        Verb::Pause => (Goal::Paused, false),
        Verb::Suspend if machine.phase == Phase::Waiting => return Err("the instance is starting"),
        Verb::Suspend => (Goal::Suspended, false),
        Verb::Reset => return reset(machine),
    };
    machine.goal = goal;
    machine.again = again;
    match verb {
        Verb::Kill => Ok(kill(machine)),
        _ => Ok(vec![]),
    }
}

fn reset(machine: &mut Machine) -> Outcome {
    match (machine.phase, machine.call) {
        (Phase::Paused, _) => Err("the instance is paused"),
        (_, Some(Call::Reset)) => Ok(vec![]),
        (_, Some(_)) => Err("another verb is under way"),
        (_, None) => {
            machine.call = Some(Call::Reset);
            Ok(vec![Action::Call(Call::Reset)])
        }
    }
}

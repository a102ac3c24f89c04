//! From nothing to a guest of which it is known how it is.

use super::{Action, Event, Machine, Phase, finish, kill};
use crate::status::Goal;

/// Begins a boot; the machine has no VM.
pub fn begin(machine: &mut Machine) -> Vec<Action> {
    let suspended = machine.suspended;
    *machine = Machine { phase: Phase::Preparing, goal: Goal::Running, suspended, ..Machine::default() };
    vec![Action::Prepare]
}

/// Takes note of what the boot, or the wait for the guest, came to.
pub fn apply(machine: &mut Machine, event: Event) -> Vec<Action> {
    match (machine.phase, event) {
        (Phase::Preparing | Phase::Launching | Phase::Waiting, Event::Step(step)) => {
            machine.step = Some(step);
            vec![]
        }
        (Phase::Preparing, Event::Prepared) => {
            machine.phase = Phase::Launching;
            machine.vm = true;
            vec![Action::Launch]
        }
        (Phase::Launching, Event::Launched) => {
            machine.phase = Phase::Waiting;
            machine.suspended = false;
            vec![Action::AwaitReady]
        }
        (Phase::Preparing | Phase::Launching, Event::BootFailed(why)) => end_boot(machine, why),
        (Phase::Preparing | Phase::Launching, Event::BootAborted) => {
            end_boot(machine, vec!["the boot was ended".into()])
        }
        (Phase::Aborting, Event::Prepared | Event::Launched | Event::BootFailed(_) | Event::BootAborted) => {
            end_boot(machine, vec![])
        }
        (Phase::Waiting | Phase::Up, Event::Ssh) => {
            machine.ready = true;
            vec![]
        }
        (Phase::Waiting | Phase::Up, Event::Done(failures)) => settle(machine, failures),
        (Phase::Waiting | Phase::Up, Event::Late(why)) => settle(machine, vec![why]),
        _ => vec![],
    }
}

/// A boot that did not lead to a running VM. Where the driver was told to start one, it is told to end it.
fn end_boot(machine: &mut Machine, verdict: Vec<String>) -> Vec<Action> {
    machine.verdict = verdict;
    if machine.vm { kill(machine) } else { finish(machine) }
}

/// The VM runs, and this is what is wrong with its guest.
pub fn settle(machine: &mut Machine, failures: Vec<String>) -> Vec<Action> {
    machine.phase = Phase::Up;
    machine.settled = true;
    machine.failures = failures;
    machine.step = None;
    vec![]
}

//! What an instance is in and what is to be done next: a pure state machine. Performs nothing, knows no clock.
//!
//! ```text
//!            start                launched            done
//!  Stopped ---------> Preparing -> Launching -> Waiting ---> Up <----> Paused
//!     ^                  |  stop      |            |  stop   |  stop     |
//!     |                  v            v            v         v           |
//!     +------------- Aborting ----> Stopping <-----------------<---------+
//!  Broken: as Stopped, but because something failed. Suspended: as Stopped, but the next start goes on.
//! ```
//! A verb only sets the goal; [`reconcile`] finds the next action when no call is under way. A restart is a stop
//! with `again` set, so that every end of a VM leads through [`finish`].

mod adopt;
mod boot;
mod calls;
mod verbs;
mod vm;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use limafs_driver::VmEvent;

use crate::status::{Goal, State, Verb};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Stopped,
    /// Everything before the VM's process: configuration, image, disk, cidata.
    Preparing,
    /// The driver was told to start a VM; there may be one.
    Launching,
    /// The boot was told to end and has not ended yet.
    Aborting,
    /// The VM runs, the guest is not ready.
    Waiting,
    /// The VM runs, and whether the guest is well is known.
    Up,
    Paused,
    Stopping,
    Broken,
    /// There is no VM, but its memory is saved.
    Suspended,
}

/// A driver call beside start, stop and kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Pause,
    Resume,
    Reset,
    /// Saves the memory and ends the VM.
    Suspend,
    /// Takes or removes a snapshot.
    Snapshot,
    /// Goes back to a snapshot.
    Restore,
    Resize,
}

impl Call {
    /// The VM stands still meanwhile, and may end: what it does is part of the call.
    pub fn holds_the_vm(self) -> bool {
        matches!(self, Self::Suspend | Self::Snapshot | Self::Restore)
    }
}

/// What a boot or stop is waiting for; only `name` is worth remembering.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    /// Progress: `34 % 12.3 MiB/s`; may be empty.
    pub detail: String,
}

impl Step {
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), detail: String::new() }
    }

    pub fn text(&self) -> String {
        if self.detail.is_empty() { self.name.clone() } else { format!("{} {}", self.name, self.detail) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub phase: Phase,
    pub goal: Goal,
    /// The VM ends only to be booted again.
    pub again: bool,
    /// A VM may exist: set before the driver is told to start one.
    pub vm: bool,
    pub call: Option<Call>,
    /// The memory of a VM that has ended is saved, and is used up by the next launch.
    pub suspended: bool,
    pub stopping: bool,
    pub killing: bool,
    /// ssh answers.
    pub ready: bool,
    /// Readiness was decided once for this boot: after a pause the VM is `Up`, not `Waiting`.
    pub settled: bool,
    /// The hypervisor's control channel does not answer.
    pub unresponsive: bool,
    pub panicked: bool,
    /// Why it is Degraded or Broken.
    pub failures: Vec<String>,
    /// Why the last verb could not be carried out; changes no state.
    pub complaint: Option<String>,
    /// Why this end of the VM is not a clean one.
    pub verdict: Vec<String>,
    pub step: Option<Step>,
    /// What those who work beside the guest cannot do now.
    pub troubles: BTreeMap<&'static str, Vec<String>>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            phase: Phase::Stopped,
            goal: Goal::Stopped,
            again: false,
            vm: false,
            call: None,
            suspended: false,
            stopping: false,
            killing: false,
            ready: false,
            settled: false,
            unresponsive: false,
            panicked: false,
            failures: Vec::new(),
            complaint: None,
            verdict: Vec::new(),
            step: None,
            troubles: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Verb(Verb),
    /// A call that somebody asks for, who is answered.
    Wish(Call),
    /// SIGINT: as the verb stop, answered to nobody.
    Interrupt,
    /// A hostagent begins beside what an earlier one left.
    Adopt(Found),
    Step(Step),
    /// The driver that the instance has from now on.
    Driver(String),
    /// All is ready for the VM's process.
    Prepared,
    /// The VM's process runs.
    Launched,
    BootFailed(Vec<String>),
    BootAborted,
    /// ssh answers.
    Ssh,
    /// The boot scripts ended; sentences for those that failed.
    Done(Vec<String>),
    /// The guest is not ready and may not become so; tried for further, slowly.
    Late(String),
    /// What somebody who works beside the guest cannot do now; nothing when all is well again.
    Trouble(&'static str, Vec<String>),
    Vm(VmEvent),
    Called(Call, Result<(), String>),
    Stopped(Result<(), String>),
    Killed(Result<(), String>),
    /// The driver has, or has not, the saved memory of a VM that ended otherwise.
    Saved(bool),
}

/// What is left of an earlier hostagent.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The driver found a VM of this instance.
    pub vm: bool,
    /// It is paused.
    pub paused: bool,
    pub state: State,
    pub goal: Goal,
    /// The record was written since this host booted.
    pub same_boot: bool,
    /// The VM's process was known.
    pub launched: bool,
    pub step: Option<String>,
    pub errors: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Answers the verb of this event; each has exactly one answer.
    Accept,
    Refuse(String),
    Prepare,
    Launch,
    AbortBoot,
    /// Begins to wait for the guest, anew if it is being waited for.
    AwaitReady,
    AbandonReady,
    Call(Call),
    /// The guest is another one than before: connections to it mean nothing any more.
    Renew,
    Stop,
    Kill,
    /// The VM is gone: its handle and all that waits for it can be dropped.
    Forget,
    /// Nothing more is wanted of this process.
    Leave,
}

/// The next machine and what must be done, in order, after it was written down.
pub fn step(machine: &Machine, event: Event) -> (Machine, Vec<Action>) {
    let mut next = machine.clone();
    let mut actions = match event {
        Event::Verb(verb) => verbs::apply(&mut next, verb),
        Event::Wish(call) => verbs::wish(&mut next, call),
        Event::Interrupt => unanswered(verbs::apply(&mut next, Verb::Stop)),
        Event::Adopt(found) => adopt::apply(&mut next, found),
        Event::Vm(event) => vm::apply(&mut next, event),
        Event::Called(call, result) => calls::apply(&mut next, call, result),
        Event::Trouble(who, what) => on_trouble(&mut next, who, what),
        Event::Stopped(result) => on_stopped(&mut next, result),
        Event::Killed(result) => on_killed(&mut next, result),
        Event::Saved(saved) => {
            next.suspended = saved;
            vec![]
        }
        event => boot::apply(&mut next, event),
    };
    actions.extend(reconcile(&mut next));
    (next, actions)
}

impl Machine {
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Stopped => State::Stopped,
            Phase::Broken => State::Broken,
            Phase::Suspended => State::Suspended,
            Phase::Preparing | Phase::Launching => State::Starting,
            Phase::Aborting | Phase::Stopping => State::Stopping,
            _ if self.must_end() || self.is_leaving() => State::Stopping,
            _ if self.call == Some(Call::Restore) => State::Starting,
            Phase::Waiting => State::Starting,
            Phase::Paused => State::Paused,
            Phase::Up if self.errors_of_guest().is_empty() => State::Running,
            Phase::Up => State::Degraded,
        }
    }

    /// Everything that is wrong, as sentences.
    pub fn errors(&self) -> Vec<String> {
        let mut errors = self.errors_of_guest();
        errors.extend(self.complaint.clone());
        errors
    }

    fn errors_of_guest(&self) -> Vec<String> {
        let mut errors = self.failures.clone();
        errors.extend(self.troubles.values().flatten().cloned());
        if self.panicked {
            errors.push("the guest's kernel panicked".into());
        }
        if self.unresponsive && !self.call.is_some_and(Call::holds_the_vm) {
            errors.push("the hypervisor does not answer".into());
        }
        errors
    }

    /// There is a VM that is not being ended.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Up | Phase::Paused)
    }

    fn must_end(&self) -> bool {
        self.again || self.goal == Goal::Stopped
    }

    /// It is being suspended, or is to be.
    fn is_leaving(&self) -> bool {
        self.goal == Goal::Suspended || self.call == Some(Call::Suspend)
    }
}

/// Issues the next call of the driver when the VM is not as the goal wants it and no call is under way.
fn reconcile(machine: &mut Machine) -> Vec<Action> {
    if !machine.is_live() || machine.call.is_some() {
        return vec![];
    }
    let call = match (machine.phase, machine.goal) {
        // A paused guest cannot power down.
        (Phase::Paused, _) if machine.must_end() => Call::Resume,
        _ if machine.must_end() => return stop(machine),
        (_, Goal::Suspended) => {
            machine.step = Some(Step::named("saving the memory"));
            Call::Suspend
        }
        (Phase::Paused, Goal::Running) => Call::Resume,
        (Phase::Up, Goal::Paused) => Call::Pause,
        _ => return vec![],
    };
    machine.call = Some(call);
    vec![Action::Call(call)]
}

fn stop(machine: &mut Machine) -> Vec<Action> {
    machine.phase = Phase::Stopping;
    machine.stopping = true;
    machine.step = Some(Step::named("waiting for the guest to power down"));
    vec![Action::AbandonReady, Action::Stop]
}

fn kill(machine: &mut Machine) -> Vec<Action> {
    machine.phase = Phase::Stopping;
    machine.step = Some(Step::named("ending the VM"));
    if std::mem::replace(&mut machine.killing, true) {
        return vec![];
    }
    vec![Action::AbandonReady, Action::Kill]
}

/// The VM is gone: boots again or comes to rest. Waits for calls that are still under way.
fn finish(machine: &mut Machine) -> Vec<Action> {
    if machine.vm || machine.stopping || machine.killing {
        machine.phase = Phase::Stopping;
        return vec![];
    }
    let verdict = std::mem::take(&mut machine.verdict);
    let goal = machine.goal;
    if machine.again {
        return [vec![Action::Forget], boot::begin(machine)].concat();
    }
    let suspended = machine.suspended;
    *machine = match verdict.is_empty() {
        true if suspended => {
            Machine { phase: Phase::Suspended, goal: Goal::Suspended, suspended, ..Machine::default() }
        }
        true => Machine::default(),
        false => Machine { phase: Phase::Broken, goal, failures: verdict, suspended, ..Machine::default() },
    };
    vec![Action::Forget, Action::Leave]
}

fn on_trouble(machine: &mut Machine, who: &'static str, what: Vec<String>) -> Vec<Action> {
    match what.is_empty() || !machine.vm {
        true => drop(machine.troubles.remove(who)),
        false => drop(machine.troubles.insert(who, what)),
    }
    vec![]
}

fn on_stopped(machine: &mut Machine, result: Result<(), String>) -> Vec<Action> {
    machine.stopping = false;
    match result {
        Ok(()) => machine.vm = false,
        Err(why) if machine.vm => {
            machine.complaint = Some(why);
            return kill(machine);
        }
        Err(_) => {}
    }
    finish(machine)
}

fn on_killed(machine: &mut Machine, result: Result<(), String>) -> Vec<Action> {
    machine.killing = false;
    match result {
        Ok(()) => machine.vm = false,
        // It cannot be ended. It runs; say so, and let another verb try again.
        Err(why) if machine.vm && !machine.stopping => {
            machine.goal = Goal::Running;
            machine.again = false;
            let mut failures = std::mem::take(&mut machine.verdict);
            failures.push(format!("the VM could not be ended: {why}"));
            return boot::settle(machine, failures);
        }
        Err(_) => {}
    }
    finish(machine)
}

fn unanswered(mut actions: Vec<Action>) -> Vec<Action> {
    actions.retain(|action| !matches!(action, Action::Accept | Action::Refuse(_)));
    actions
}

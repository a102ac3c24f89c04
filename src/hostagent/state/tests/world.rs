//! A pretend world that carries out what the machine asks for, in any order and with any result.

use limafs_driver::VmEvent;
use proptest::prelude::*;

use super::super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Boot {
    Prepare,
    Launch,
}

/// What really is, whatever the machine believes.
#[derive(Debug, Default)]
struct World {
    machine: Machine,
    vm: bool,
    /// The VM's events reach the machine.
    watched: bool,
    boot: Option<Boot>,
    aborted: bool,
    ready: bool,
    call: Option<Call>,
    stop: bool,
    kill: bool,
    /// The memory of the last VM is saved.
    saved: bool,
    left: bool,
}

#[derive(Debug, Clone)]
enum Happening {
    Verb(Verb),
    Wish(Call),
    Interrupt,
    /// The boot task ends, well or not; a launch that does not end well may still leave a VM.
    BootEnds {
        well: bool,
        vm: bool,
    },
    GuestSays(u8),
    CallEnds(bool),
    /// Not well: the VM may have ended all the same.
    StopEnds {
        well: bool,
        vm: bool,
    },
    KillEnds {
        well: bool,
    },
    Vm(VmEvent),
    VmEnds {
        clean: bool,
    },
}

impl World {
    fn happen(&mut self, happening: Happening) {
        if self.left {
            return;
        }
        match happening {
            Happening::Verb(verb) => self.feed(Event::Verb(verb)),
            Happening::Wish(call) => self.feed(Event::Wish(call)),
            Happening::Interrupt => self.feed(Event::Interrupt),
            Happening::BootEnds { well, vm } => self.boot_ends(well, vm),
            Happening::GuestSays(word) if self.ready => self.feed(match word % 4 {
                0 => Event::Ssh,
                1 => Event::Done(vec![]),
                2 => Event::Done(vec!["failed".into()]),
                _ => Event::Late("late".into()),
            }),
            Happening::CallEnds(well) => self.call_ends(well),
            Happening::StopEnds { well, vm } if self.stop => {
                self.stop = false;
                self.vm &= !well && vm;
                self.feed(Event::Saved(self.saved));
                self.feed(Event::Stopped(outcome(well)));
            }
            Happening::KillEnds { well } if self.kill => {
                self.kill = false;
                self.vm &= !well;
                self.feed(Event::Saved(self.saved));
                self.feed(Event::Killed(outcome(well)));
            }
            Happening::Vm(event) if self.vm && self.watched => self.feed(Event::Vm(event)),
            Happening::VmEnds { clean } if self.vm && self.watched => {
                self.vm = false;
                self.feed(Event::Vm(VmEvent::Exited { clean, reason: "ended".into() }));
            }
            _ => {}
        }
    }

    fn boot_ends(&mut self, well: bool, vm: bool) {
        let Some(boot) = self.boot.take() else { return };
        let aborted = std::mem::take(&mut self.aborted);
        self.vm = boot == Boot::Launch && (well || vm);
        self.watched = boot == Boot::Launch && well;
        self.saved &= !self.watched;
        self.feed(match (boot, well) {
            (Boot::Prepare, true) => Event::Prepared,
            (Boot::Launch, true) => Event::Launched,
            (_, false) if aborted => Event::BootAborted,
            (_, false) => Event::BootFailed(vec!["boot failed".into()]),
        });
    }

    fn call_ends(&mut self, well: bool) {
        let Some(call) = self.call.take() else { return };
        if call == Call::Suspend && well && self.vm {
            self.vm = false;
            self.saved = true;
        }
        // A VM that ended meanwhile is neither suspended nor put back.
        let well = well && (self.vm || self.saved || !matches!(call, Call::Suspend | Call::Restore));
        self.feed(Event::Called(call, outcome(well)));
    }

    fn feed(&mut self, event: Event) {
        let is_verb = matches!(event, Event::Verb(_) | Event::Wish(_));
        let (machine, actions) = step(&self.machine, event);
        let is_answer = |action: &Action| matches!(action, Action::Accept | Action::Refuse(_));
        assert_eq!(actions.iter().filter(|action| is_answer(action)).count(), usize::from(is_verb), "one answer");
        self.machine = machine;
        for action in actions {
            self.perform(action);
        }
        self.check();
    }

    fn perform(&mut self, action: Action) {
        let is_free = self.boot.is_none() && self.call.is_none() && !self.stop;
        match action {
            Action::Accept | Action::Refuse(_) => {}
            Action::Prepare => {
                assert!(is_free && !self.vm && !self.kill, "a boot beside something else");
                self.boot = Some(Boot::Prepare);
            }
            Action::Launch => {
                assert!(is_free && !self.vm && !self.kill, "a second VM");
                assert!(self.machine.vm, "a launch without intent");
                self.boot = Some(Boot::Launch);
            }
            Action::AbortBoot => {
                assert!(self.boot.is_some(), "no boot to abort");
                self.aborted = true;
            }
            Action::AwaitReady => self.ready = true,
            Action::AbandonReady => self.ready = false,
            Action::Call(call) => {
                assert!(is_free, "two calls of the driver at once");
                self.call = Some(call);
            }
            Action::Renew => assert!(self.vm, "a guest that is not there"),
            Action::Stop => {
                assert!(is_free, "a stop beside another call");
                self.stop = true;
            }
            Action::Kill => {
                assert!(!self.kill && self.boot.is_none(), "a kill beside a kill or a boot");
                self.kill = true;
            }
            Action::Forget => {
                assert!(!self.vm, "a VM is forgotten");
                self.call = None;
                self.ready = false;
                self.watched = false;
            }
            Action::Leave => self.left = true,
        }
    }

    fn check(&self) {
        let machine = &self.machine;
        assert!(machine.vm || !self.vm, "a VM that the machine does not know of: {machine:?}");
        let at_rest = matches!(machine.phase, Phase::Stopped | Phase::Broken | Phase::Suspended);
        assert!(!at_rest || machine.suspended == self.saved, "saved memory is forgotten or made up: {machine:?}");
        assert_eq!(machine.state() == State::Suspended, machine.phase == Phase::Suspended);
        if at_rest {
            assert!(!self.vm && self.boot.is_none() && !self.stop && !self.kill && self.call.is_none());
            assert!(!machine.vm && machine.step.is_none());
        } else {
            assert!(!self.left, "left before the end: {machine:?}");
        }
        assert_eq!(machine.state() == State::Broken, machine.phase == Phase::Broken);
        if matches!(machine.state(), State::Broken | State::Degraded) {
            assert!(!machine.errors().is_empty(), "no reason: {machine:?}");
        }
    }

    /// Lets everything that is under way end well, until nothing is.
    fn come_to_rest(&mut self) {
        for _ in 0..20 {
            if self.boot.is_some() {
                self.boot_ends(!self.aborted, false);
            } else if self.call.is_some() {
                self.call_ends(true);
            } else if self.stop {
                self.happen(Happening::StopEnds { well: true, vm: false });
            } else if self.kill {
                self.happen(Happening::KillEnds { well: true });
            } else if self.ready && self.machine.phase == Phase::Waiting {
                self.happen(Happening::GuestSays(1));
            } else {
                return;
            }
        }
        panic!("does not come to rest: {:?}", self.machine);
    }
}

fn outcome(well: bool) -> Result<(), String> {
    if well { Ok(()) } else { Err("refused".into()) }
}

fn happening() -> impl Strategy<Value = Happening> {
    let vm_events = [
        VmEvent::Paused,
        VmEvent::Resumed,
        VmEvent::Reset,
        VmEvent::PoweringDown,
        VmEvent::Panicked,
        VmEvent::Unresponsive,
        VmEvent::Responsive,
    ];
    prop_oneof![
        6 => prop::sample::select(Verb::ALL).prop_map(Happening::Verb),
        1 => Just(Happening::Interrupt),
        2 => prop::sample::select(vec![Call::Snapshot, Call::Restore, Call::Resize]).prop_map(Happening::Wish),
        6 => (any::<bool>(), any::<bool>()).prop_map(|(well, vm)| Happening::BootEnds { well, vm }),
        3 => any::<u8>().prop_map(Happening::GuestSays),
        4 => any::<bool>().prop_map(Happening::CallEnds),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(well, vm)| Happening::StopEnds { well, vm }),
        3 => any::<bool>().prop_map(|well| Happening::KillEnds { well }),
        4 => prop::sample::select(vm_events.to_vec()).prop_map(Happening::Vm),
        1 => any::<bool>().prop_map(|clean| Happening::VmEnds { clean }),
    ]
}

/// A boot that goes well half of the time, so that running VMs are seen often.
fn story() -> impl Strategy<Value = Vec<Happening>> {
    let well = Happening::BootEnds { well: true, vm: true };
    let booted = vec![Happening::Verb(Verb::Start), well.clone(), well, Happening::GuestSays(1)];
    let beginning = prop_oneof![Just(vec![Happening::Verb(Verb::Start)]), Just(booted)];
    (beginning, prop::collection::vec(happening(), 0..40)).prop_map(|(mut story, more)| {
        story.extend(more);
        story
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_can_happen_breaks_an_instance(story in story()) {
        let mut world = World::default();
        for happening in story {
            world.happen(happening);
        }
        world.come_to_rest();
    }

    #[test]
    fn the_last_goal_is_reached_or_an_error_says_why_not(
        story in story(),
        verb in prop::sample::select(vec![Verb::Start, Verb::Stop, Verb::Kill, Verb::Restart, Verb::Pause, Verb::Suspend]),
    ) {
        let mut world = World::default();
        for happening in story {
            world.happen(happening);
        }
        if world.left {
            return Ok(());
        }
        let (_, actions) = step(&world.machine, Event::Verb(verb));
        let accepted = actions.contains(&Action::Accept);
        world.happen(Happening::Verb(verb));
        world.come_to_rest();
        let state = world.machine.state();
        let reached = match verb {
            Verb::Start | Verb::Restart => matches!(state, State::Running | State::Degraded),
            Verb::Pause => state == State::Paused,
            Verb::Suspend => state == State::Suspended,
            // What was saved is never given up by the way.
            _ => matches!(state, State::Stopped | State::Broken | State::Suspended),
        };
        // A VM that just could not be ended goes on running and says so.
        prop_assert!(!accepted || reached || !world.machine.errors().is_empty(), "{:?}", world.machine);
    }
}

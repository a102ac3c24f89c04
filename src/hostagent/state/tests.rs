//! Single rules first, then everything at random against a pretend world.

mod saved;
mod world;

use limafs_driver::VmEvent;

use super::*;

fn exited(clean: bool, reason: &str) -> Event {
    Event::Vm(VmEvent::Exited { clean, reason: reason.into() })
}

/// A machine after `events`, and the actions of the last one.
fn after(events: impl IntoIterator<Item = Event>) -> (Machine, Vec<Action>) {
    events.into_iter().fold((Machine::default(), vec![]), |(machine, _), event| step(&machine, event))
}

fn booted() -> Vec<Event> {
    vec![Event::Verb(Verb::Start), Event::Prepared, Event::Launched, Event::Ssh, Event::Done(vec![])]
}

fn with(mut events: Vec<Event>, more: impl IntoIterator<Item = Event>) -> Vec<Event> {
    events.extend(more);
    events
}

fn paused() -> Vec<Event> {
    with(booted(), [Event::Verb(Verb::Pause), Event::Called(Call::Pause, Ok(()))])
}

fn stopping() -> Vec<Event> {
    with(booted(), [Event::Verb(Verb::Stop)])
}

fn suspended() -> Vec<Event> {
    let ended = exited(true, "QEMU quit");
    with(booted(), [Event::Verb(Verb::Suspend), ended, Event::Called(Call::Suspend, Ok(()))])
}

fn found(state: State, goal: Goal) -> Found {
    Found { vm: true, paused: false, state, goal, same_boot: true, launched: true, step: None, errors: vec![] }
}

#[test]
fn a_start_leads_to_running() {
    let (machine, _) = after(booted());
    assert_eq!((machine.state(), machine.goal, machine.ready), (State::Running, Goal::Running, true));
}

#[test]
fn the_intent_comes_before_the_vm() {
    let (machine, actions) = after([Event::Verb(Verb::Start), Event::Prepared]);
    assert!(machine.vm);
    assert_eq!(actions, [Action::Launch]);
}

#[test]
fn a_failed_script_means_degraded() {
    let (machine, _) = after(with(booted(), [Event::Done(vec!["boot.sh failed".into()])]));
    assert_eq!((machine.state(), machine.errors()), (State::Degraded, vec!["boot.sh failed".to_owned()]));
}

#[test]
fn a_trouble_beside_the_guest_is_told_until_it_is_over() {
    let trouble = |what: &[&str]| Event::Trouble("ssh", what.iter().map(|what| (*what).to_owned()).collect());
    let (machine, _) = after(with(booted(), [trouble(&["it hung up"])]));
    assert_eq!((machine.state(), machine.errors()), (State::Degraded, vec!["it hung up".to_owned()]));
    let (machine, _) = step(&machine, trouble(&[]));
    assert_eq!((machine.state(), machine.errors()), (State::Running, vec![]));
}

#[test]
fn a_trouble_during_the_boot_is_not_forgotten_at_its_end() {
    let early = [Event::Verb(Verb::Start), Event::Prepared, Event::Launched, Event::Ssh];
    let (machine, _) = after(with(early.into(), [Event::Trouble("x", vec!["no".into()]), Event::Done(vec![])]));
    assert_eq!((machine.state(), machine.errors()), (State::Degraded, vec!["no".to_owned()]));
}

#[test]
fn troubles_end_with_the_vm() {
    let late = Event::Trouble("ssh", vec!["it hung up".into()]);
    let (machine, _) = after(with(booted(), [late.clone(), exited(true, ""), late]));
    assert_eq!((machine.state(), machine.errors()), (State::Stopped, vec![]));
}

#[test]
fn a_late_guest_is_degraded_and_heals() {
    let late = [Event::Verb(Verb::Start), Event::Prepared, Event::Launched, Event::Late("no ssh".into())];
    assert_eq!(after(late.clone()).0.state(), State::Degraded);
    let (machine, _) = after(with(late.into(), [Event::Ssh, Event::Done(vec![])]));
    assert_eq!((machine.state(), machine.errors().is_empty()), (State::Running, true));
}

#[test]
fn start_is_idempotent_while_starting_and_running() {
    for events in [vec![Event::Verb(Verb::Start)], booted()] {
        let (before, _) = after(events.clone());
        let (machine, actions) = after(with(events, [Event::Verb(Verb::Start)]));
        assert_eq!(actions, [Action::Accept]);
        assert_eq!(machine, before);
    }
}

#[test]
fn e11_stop_while_preparing_ends_the_boot_and_starts_no_vm() {
    let (machine, actions) = after([Event::Verb(Verb::Start), Event::Verb(Verb::Stop)]);
    assert_eq!((machine.state(), actions), (State::Stopping, vec![Action::Accept, Action::AbortBoot]));
    let (machine, actions) = step(&machine, Event::Prepared);
    assert_eq!((machine.state(), actions), (State::Stopped, vec![Action::Forget, Action::Leave]));
}

#[test]
fn e11_stop_while_launching_kills_what_may_have_come_to_be() {
    let (machine, actions) =
        after([Event::Verb(Verb::Start), Event::Prepared, Event::Verb(Verb::Stop), Event::BootAborted]);
    assert!(actions.contains(&Action::Kill));
    let (machine, actions) = step(&machine, Event::Killed(Ok(())));
    assert_eq!((machine.state(), actions), (State::Stopped, vec![Action::Forget, Action::Leave]));
}

#[test]
fn a_boot_that_fails_is_broken_with_its_reason() {
    let (machine, actions) = after([Event::Verb(Verb::Start), Event::BootFailed(vec!["images: none".into()])]);
    assert_eq!((machine.state(), machine.goal), (State::Broken, Goal::Running));
    assert_eq!(machine.errors(), ["images: none"]);
    assert!(actions.contains(&Action::Leave));
}

#[test]
fn e10_stop_then_start_boots_anew() {
    let (machine, actions) = after(with(stopping(), [Event::Verb(Verb::Start), Event::Stopped(Ok(()))]));
    assert_eq!(machine.phase, Phase::Preparing);
    assert_eq!(actions, [Action::Forget, Action::Prepare]);
}

#[test]
fn restart_stops_and_boots_again_in_this_process() {
    let (machine, actions) = after(with(booted(), [Event::Verb(Verb::Restart)]));
    assert_eq!((machine.state(), machine.goal), (State::Stopping, Goal::Running));
    assert!(actions.contains(&Action::Stop));
    let (machine, actions) = step(&machine, Event::Stopped(Ok(())));
    assert_eq!((machine.state(), actions), (State::Starting, vec![Action::Forget, Action::Prepare]));
}

#[test]
fn stop_takes_back_a_restart() {
    let events = [Event::Verb(Verb::Restart), Event::Verb(Verb::Stop), Event::Stopped(Ok(()))];
    assert_eq!(after(with(booted(), events)).0.state(), State::Stopped);
}

#[test]
fn kill_overlaps_stop_and_both_are_waited_for() {
    let (machine, actions) = after(with(stopping(), [Event::Verb(Verb::Kill)]));
    assert_eq!(actions, [Action::Accept, Action::AbandonReady, Action::Kill]);
    let (machine, actions) = step(&machine, Event::Killed(Ok(())));
    assert_eq!((machine.state(), actions), (State::Stopping, vec![]));
    assert_eq!(step(&machine, Event::Stopped(Ok(()))).0.state(), State::Stopped);
}

#[test]
fn a_stop_that_fails_becomes_a_kill() {
    let (_, actions) = after(with(stopping(), [Event::Stopped(Err("no answer".into()))]));
    assert!(actions.contains(&Action::Kill));
}

#[test]
fn a_vm_that_cannot_be_ended_is_shown_and_can_be_told_again() {
    let events = [Event::Verb(Verb::Kill), Event::Killed(Err("not permitted".into()))];
    let (machine, _) = after(with(booted(), events));
    assert_eq!(machine.state(), State::Degraded);
    assert!(step(&machine, Event::Verb(Verb::Kill)).1.contains(&Action::Kill));
}

#[test]
fn e17_poweroff_in_the_guest_is_stopped_not_broken() {
    let (machine, actions) = after(with(booted(), [exited(true, "guest shut down")]));
    assert_eq!((machine.state(), machine.goal, machine.errors().len()), (State::Stopped, Goal::Stopped, 0));
    assert!(actions.contains(&Action::Leave));
}

#[test]
fn x10_a_crash_is_broken_with_the_reason() {
    let (machine, _) = after(with(booted(), [exited(false, "killed by signal 9")]));
    assert_eq!(machine.state(), State::Broken);
    assert_eq!(machine.errors(), ["the VM ended: killed by signal 9"]);
}

#[test]
fn a_crash_while_stopping_is_a_stop() {
    let (machine, _) = after(with(stopping(), [exited(false, "signal 9"), Event::Stopped(Ok(()))]));
    assert_eq!(machine.state(), State::Stopped);
}

#[test]
fn e18_paused_by_others_and_start_resumes() {
    let (machine, _) = after(with(booted(), [Event::Vm(VmEvent::Paused)]));
    assert_eq!((machine.state(), machine.goal), (State::Paused, Goal::Paused));
    let (machine, actions) = step(&machine, Event::Verb(Verb::Start));
    assert_eq!(actions, [Action::Accept, Action::Call(Call::Resume)]);
    assert_eq!(step(&machine, Event::Called(Call::Resume, Ok(()))).0.state(), State::Running);
}

#[test]
fn a_guest_paused_while_it_boots_is_waited_for_again() {
    let events = [Event::Verb(Verb::Start), Event::Prepared, Event::Launched, Event::Vm(VmEvent::Paused)];
    let (machine, actions) = after(events);
    assert_eq!(actions, [Action::AbandonReady]);
    let (machine, actions) = step(&machine, Event::Vm(VmEvent::Resumed));
    assert_eq!((machine.state(), actions), (State::Starting, vec![Action::AwaitReady]));
}

#[test]
fn pause_then_resume_before_the_pause_is_done_ends_running() {
    let events = [Event::Verb(Verb::Pause), Event::Verb(Verb::Resume), Event::Called(Call::Pause, Ok(()))];
    let (machine, actions) = after(with(booted(), events));
    assert_eq!(actions.last(), Some(&Action::Call(Call::Resume)));
    assert_eq!(step(&machine, Event::Called(Call::Resume, Ok(()))).0.state(), State::Running);
}

#[test]
fn a_pause_that_the_driver_refuses_is_given_up_with_its_reason() {
    let events = [Event::Verb(Verb::Pause), Event::Called(Call::Pause, Err("driver x cannot pause".into()))];
    let (machine, actions) = after(with(booted(), events));
    assert_eq!((machine.state(), machine.goal, actions), (State::Running, Goal::Running, vec![]));
    assert_eq!(machine.errors(), ["driver x cannot pause"]);
}

#[test]
fn a_paused_vm_is_resumed_to_be_stopped() {
    let (machine, actions) = after(with(paused(), [Event::Verb(Verb::Stop)]));
    assert_eq!((machine.state(), actions), (State::Stopping, vec![Action::Accept, Action::Call(Call::Resume)]));
    let (_, actions) = step(&machine, Event::Called(Call::Resume, Ok(())));
    assert!(actions.contains(&Action::Stop));
}

#[test]
fn a_wrong_state_is_refused_with_a_sentence() {
    let starting = vec![Event::Verb(Verb::Start)];
    let table = [
        (vec![], Verb::Pause, "cannot pause: the instance is not running"),
        (vec![], Verb::Reset, "cannot reset: the instance is not running"),
        (starting, Verb::Pause, "cannot pause: the instance is starting"),
        (stopping(), Verb::Resume, "cannot resume: the instance is stopping"),
        (paused(), Verb::Reset, "cannot reset: the instance is paused"),
        (vec![], Verb::Suspend, "cannot suspend: the instance is not running"),
        (suspended(), Verb::Stop, "cannot stop: the instance is suspended"),
        (with(booted(), [Event::Verb(Verb::Suspend)]), Verb::Stop, "cannot stop: the instance is being suspended"),
    ];
    for (events, verb, sentence) in table {
        let (before, _) = after(events.clone());
        let (machine, actions) = after(with(events, [Event::Verb(verb)]));
        assert_eq!(actions, [Action::Refuse(sentence.into())]);
        assert_eq!(machine, before);
    }
}

#[test]
fn a_guest_that_restarts_itself_is_starting_again() {
    let (machine, actions) = after(with(booted(), [Event::Vm(VmEvent::Reset)]));
    assert_eq!((machine.state(), machine.ready, actions), (State::Starting, false, vec![Action::AwaitReady]));
}

#[test]
fn x11_a_hypervisor_that_does_not_answer_is_degraded_until_it_does() {
    let (machine, _) = after(with(booted(), [Event::Vm(VmEvent::Unresponsive)]));
    assert_eq!((machine.state(), machine.errors().len()), (State::Degraded, 1));
    assert_eq!(step(&machine, Event::Vm(VmEvent::Responsive)).0.state(), State::Running);
}

#[test]
fn x13_a_panic_is_degraded_also_while_starting() {
    let starting = vec![Event::Verb(Verb::Start), Event::Prepared, Event::Launched];
    for events in [starting, booted()] {
        assert_eq!(after(with(events, [Event::Vm(VmEvent::Panicked)])).0.state(), State::Degraded);
    }
}

#[test]
fn an_adopted_vm_keeps_its_state() {
    let table = [
        (found(State::Running, Goal::Running), State::Running, vec![]),
        (found(State::Starting, Goal::Running), State::Starting, vec![Action::AwaitReady]),
        (
            Found { errors: vec!["e".into()], ..found(State::Degraded, Goal::Running) },
            State::Degraded,
            vec![Action::AwaitReady],
        ),
        (Found { paused: true, ..found(State::Paused, Goal::Paused) }, State::Paused, vec![]),
        (found(State::Paused, Goal::Paused), State::Running, vec![]),
        (found(State::Stopping, Goal::Stopped), State::Stopping, vec![Action::AbandonReady, Action::Stop]),
        (found(State::Stopped, Goal::Stopped), State::Starting, vec![Action::AwaitReady]),
    ];
    for (found, state, wanted) in table {
        let (machine, actions) = after([Event::Adopt(found.clone())]);
        assert_eq!((machine.state(), actions), (state, wanted), "{found:?}");
    }
}

#[test]
fn x3_an_adopted_restart_goes_on() {
    let (machine, actions) = after([Event::Adopt(found(State::Stopping, Goal::Running))]);
    assert!(machine.again && actions.contains(&Action::Stop));
    let (_, actions) = after([Event::Adopt(Found { vm: false, ..found(State::Stopping, Goal::Running) })]);
    assert_eq!(actions, [Action::Prepare]);
}

#[test]
fn what_became_of_a_vm_that_is_gone() {
    let gone = |state, goal| Found { vm: false, ..found(state, goal) };
    let unwatched = vec!["the VM ended while no hostagent was watching".to_owned()];
    let killed =
        Found { launched: false, step: Some("making the disk".into()), ..gone(State::Starting, Goal::Running) };
    let table = [
        (gone(State::Running, Goal::Running), State::Broken, unwatched.clone()),
        (gone(State::Starting, Goal::Running), State::Broken, unwatched),
        (killed, State::Broken, vec!["the hostagent was ended while making the disk".to_owned()]),
        (gone(State::Stopping, Goal::Stopped), State::Stopped, vec![]),
        (Found { same_boot: false, ..gone(State::Running, Goal::Running) }, State::Stopped, vec![]),
        (gone(State::Stopped, Goal::Stopped), State::Stopped, vec![]),
        (Found { errors: vec!["e".into()], ..gone(State::Broken, Goal::Running) }, State::Broken, vec!["e".to_owned()]),
    ];
    for (found, state, errors) in table {
        let (machine, actions) = after([Event::Adopt(found.clone())]);
        assert_eq!((machine.state(), machine.errors()), (state, errors), "{found:?}");
        assert!(actions.contains(&Action::Leave));
    }
}

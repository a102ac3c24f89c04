//! Suspend, snapshots and restore.

use super::*;

#[test]
fn suspend_saves_and_start_goes_on() {
    let (machine, actions) = after(with(booted(), [Event::Verb(Verb::Suspend)]));
    assert_eq!((machine.state(), machine.goal), (State::Stopping, Goal::Suspended));
    assert_eq!(actions, [Action::Accept, Action::Call(Call::Suspend)]);
    let (machine, actions) = after(suspended());
    assert_eq!((machine.state(), machine.goal, machine.suspended), (State::Suspended, Goal::Suspended, true));
    assert_eq!(actions, [Action::Forget, Action::Leave]);
    let (machine, actions) = step(&machine, Event::Verb(Verb::Start));
    assert_eq!((machine.state(), actions), (State::Starting, vec![Action::Accept, Action::Prepare]));
    let (machine, _) = step(&step(&machine, Event::Prepared).0, Event::Launched);
    assert!(!machine.suspended);
}

#[test]
fn the_end_of_the_vm_may_be_told_after_the_call() {
    let (machine, _) = after(with(booted(), [Event::Verb(Verb::Suspend), Event::Called(Call::Suspend, Ok(()))]));
    assert_eq!(step(&machine, exited(true, "QEMU quit")).0.state(), State::Suspended);
}

#[test]
fn a_suspend_that_fails_leaves_the_vm_running_and_says_why() {
    let stands = Event::Vm(VmEvent::Paused);
    let failed = Event::Called(Call::Suspend, Err("the disk is full".into()));
    let (machine, _) = after(with(booted(), [Event::Verb(Verb::Suspend), stands, Event::Vm(VmEvent::Resumed), failed]));
    assert_eq!((machine.state(), machine.goal), (State::Running, Goal::Running));
    assert_eq!(machine.errors(), ["the disk is full"]);
}

#[test]
fn a_vm_that_dies_while_it_is_suspended_is_broken() {
    let failed = Event::Called(Call::Suspend, Err("the VM is not running".into()));
    let (machine, _) = after(with(booted(), [Event::Verb(Verb::Suspend), exited(false, "signal 9"), failed]));
    assert_eq!(machine.errors(), ["the VM is not running", "the VM ended: signal 9"]);
    assert_eq!((machine.state(), machine.suspended), (State::Broken, false));
}

#[test]
fn a_start_during_a_suspend_goes_on_at_once() {
    let events = [Event::Verb(Verb::Suspend), Event::Verb(Verb::Start), Event::Called(Call::Suspend, Ok(()))];
    let (machine, actions) = after(with(booted(), events));
    assert_eq!((machine.state(), machine.suspended), (State::Starting, true));
    assert_eq!(actions, [Action::Forget, Action::Prepare]);
}

#[test]
fn a_suspended_instance_that_cannot_go_on_keeps_what_was_saved() {
    let more = [Event::Verb(Verb::Start), Event::Prepared, Event::BootFailed(vec!["no".into()]), Event::Killed(Ok(()))];
    let (machine, _) = after(with(suspended(), more));
    assert_eq!((machine.state(), machine.suspended), (State::Broken, true));
}

#[test]
fn a_hostagent_that_dies_while_it_suspends_is_followed_by_one_that_does() {
    let (machine, actions) = after([Event::Adopt(found(State::Stopping, Goal::Suspended))]);
    assert_eq!((machine.goal, actions), (Goal::Suspended, vec![Action::Call(Call::Suspend)]));
    let gone = Found { vm: false, ..found(State::Stopping, Goal::Suspended) };
    let had_saved = Machine { suspended: true, ..Machine::default() };
    assert_eq!(step(&had_saved, Event::Adopt(gone.clone())).0.state(), State::Suspended);
    assert_eq!(step(&Machine::default(), Event::Adopt(gone)).0.state(), State::Broken);
}

#[test]
fn a_snapshot_does_not_make_the_instance_paused() {
    let (before, actions) = after(with(booted(), [Event::Wish(Call::Snapshot)]));
    assert_eq!(actions, [Action::Accept, Action::Call(Call::Snapshot)]);
    let (machine, actions) = step(&before, Event::Vm(VmEvent::Paused));
    assert_eq!((machine.state(), actions), (State::Running, vec![]));
    let (machine, actions) = step(&machine, Event::Wish(Call::Resize));
    assert_eq!(actions, [Action::Refuse("another verb is under way".into())]);
    assert_eq!(step(&machine, Event::Called(Call::Snapshot, Err("full".into()))).0.errors(), [""; 0]);
}

#[test]
fn after_a_restore_the_guest_is_reached_anew() {
    let (machine, _) = after(with(booted(), [Event::Wish(Call::Restore)]));
    assert_eq!(machine.state(), State::Starting);
    let (machine, actions) = step(&machine, Event::Called(Call::Restore, Ok(())));
    assert_eq!((machine.state(), actions), (State::Starting, vec![Action::Renew, Action::AwaitReady]));
    let (machine, _) = step(&step(&machine, Event::Ssh).0, Event::Done(vec![]));
    assert_eq!(machine.state(), State::Running);
}

#[test]
fn a_restore_that_fails_says_why_and_one_that_ends_the_vm_breaks() {
    let failed = Event::Called(Call::Restore, Err("another machine".into()));
    let (machine, _) = after(with(booted(), [Event::Wish(Call::Restore), failed.clone()]));
    assert_eq!((machine.state(), machine.errors()), (State::Running, vec!["another machine".to_owned()]));
    let (machine, _) = after(with(booted(), [Event::Wish(Call::Restore), exited(false, "signal 9"), failed]));
    assert_eq!(machine.state(), State::Broken);
}

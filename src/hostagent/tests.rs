//! A whole hostagent in this process: with a pretend driver, a real directory, a real socket.

mod pretend;

use std::os::unix::fs::PermissionsExt;

use tokio::net::UnixListener;

use limafs_driver::VmEvent;

use self::pretend::{Instance, Setting};
use crate::agent::{self, Heard};
use crate::names;
use crate::status::{Goal, State, Verb};
use crate::store::{self, Lock};

use super::actor::{End, Request};

#[tokio::test]
async fn from_start_to_stop() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    let status = agent.until(State::Running).await;
    assert!(status.ready && status.errors.is_empty());
    assert_eq!((status.driver.as_str(), status.driver_pid, status.ssh_local_port), ("pretend", Some(4711), 60022));
    assert_eq!(status.forwards.len(), 1);
    agent::command(&instance.dir, Verb::Stop).await.unwrap();
    let last = agent.until(State::Stopped).await;
    assert_eq!((last.goal, last.driver_pid), (Goal::Stopped, None));
    assert_eq!(agent.next().await, Heard::Gone);
    assert_eq!(agent.end().await.unwrap(), End::AtRest);
}

#[tokio::test]
async fn its_files_are_there_while_it_lives_and_gone_when_followers_hear_its_last_word() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    let path = |name: &str| instance.dir.join(name);
    let pid = std::fs::read_to_string(path(names::HA_PID)).unwrap();
    assert_eq!(pid, format!("{}\n", std::process::id()));
    let mode = std::fs::metadata(path(names::HA_SOCK)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(Lock::is_held(&instance.dir));
    agent::command(&instance.dir, Verb::Kill).await.unwrap();
    agent.until(State::Stopped).await;
    assert!(!path(names::HA_PID).exists() && !path(names::HA_SOCK).exists());
    assert!(!Lock::is_held(&instance.dir));
    assert_eq!(store::record(&instance.dir).unwrap().state, State::Stopped);
}

#[tokio::test]
async fn the_intent_is_on_disk_when_the_driver_is_told_to_start() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    let record = instance.driver.record_at_start().unwrap();
    assert_eq!((record.state, record.goal, record.iid.as_str()), (State::Starting, Goal::Running, "iid-1"));
    assert_eq!(record.boot_id, store::boot_id());
    assert_eq!(store::record(&instance.dir).unwrap().driver_pid, Some(4711));
}

#[tokio::test]
async fn e11_stop_while_a_boot_hangs_ends_it_and_no_vm_is_started() {
    let instance = Instance::new(Setting { hang_in_prepare: true, ..Setting::default() });
    let mut agent = instance.run(false);
    let status = agent.until(State::Starting).await;
    assert_eq!(status.goal, Goal::Running);
    agent::command(&instance.dir, Verb::Stop).await.unwrap();
    agent.until(State::Stopped).await;
    assert_eq!(instance.driver.starts(), 0);
}

#[tokio::test]
async fn e11_stop_while_the_driver_hangs_leaves_no_vm() {
    let instance = Instance::new(Setting { hang_in_start: true, ..Setting::default() });
    let mut agent = instance.run(false);
    agent.until(State::Starting).await;
    instance.driver.is_starting().await;
    agent::command(&instance.dir, Verb::Stop).await.unwrap();
    agent.until(State::Stopped).await;
    assert!(!instance.driver.has_vm());
}

#[tokio::test]
async fn a_boot_that_fails_is_broken_and_remembered() {
    let instance = Instance::new(Setting { fail_in_prepare: Some("images: none"), ..Setting::default() });
    assert_eq!(instance.run(false).end().await.unwrap(), End::AtRest);
    let record = store::record(&instance.dir).unwrap();
    assert_eq!((record.state, record.goal), (State::Broken, Goal::Running));
    assert_eq!(record.errors, ["images: none"]);
}

#[tokio::test]
async fn restart_boots_anew_in_the_same_process_and_never_beside_the_old_vm() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    agent::command(&instance.dir, Verb::Restart).await.unwrap();
    agent.until(State::Running).await;
    assert_eq!((instance.driver.starts(), instance.driver.most_vms()), (2, 1));
}

#[tokio::test]
async fn x10_a_crash_is_broken_with_the_reason() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    instance.driver.does(VmEvent::Exited { clean: false, reason: "killed by signal 9".into() }).await;
    let status = agent.until(State::Broken).await;
    assert_eq!(status.errors, ["the VM ended: killed by signal 9"]);
}

#[tokio::test]
async fn e17_poweroff_is_stopped() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    instance.driver.does(VmEvent::Exited { clean: true, reason: "guest shut down".into() }).await;
    assert!(agent.until(State::Stopped).await.errors.is_empty());
}

#[tokio::test]
async fn e18_pause_by_others_is_shown_and_start_resumes() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    instance.driver.does(VmEvent::Paused).await;
    agent.until(State::Paused).await;
    agent::command(&instance.dir, Verb::Start).await.unwrap();
    agent.until(State::Running).await;
}

#[tokio::test]
async fn a_wrong_verb_is_refused_with_errno_and_sentence() {
    let instance = Instance::new(Setting { hang_in_prepare: true, ..Setting::default() });
    let mut agent = instance.run(false);
    agent.until(State::Starting).await;
    let error = agent::command(&instance.dir, Verb::Pause).await.unwrap_err();
    assert_eq!(error.errno(), libc::EBUSY);
    assert_eq!(error.to_string(), "foo: cannot pause: the instance is starting");
}

#[tokio::test]
async fn a_detached_hostagent_leaves_the_vm_and_its_record_and_the_next_one_finds_both() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    agent.request(Request::Detach).await;
    assert_eq!(agent.end().await.unwrap(), End::Detached);
    assert!(instance.driver.has_vm());
    assert_eq!(store::record(&instance.dir).unwrap().state, State::Running);
    let mut next = instance.run(true);
    let status = next.until(State::Running).await;
    assert!(status.ready);
    assert_eq!((status.driver_pid, status.ssh_local_port), (Some(4711), 60022));
    assert_eq!(instance.driver.starts(), 1);
}

#[tokio::test]
async fn a_start_beside_a_vm_that_runs_adopts_it() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    agent.request(Request::Detach).await;
    agent.end().await.unwrap();
    instance.run(false).until(State::Running).await;
    assert_eq!((instance.driver.starts(), instance.driver.most_vms()), (1, 1));
}

#[tokio::test]
async fn an_adopted_pause_is_still_a_pause_and_a_resumed_one_is_not() {
    for still_paused in [true, false] {
        let instance = Instance::new(Setting { paused_at_attach: still_paused, ..Setting::default() });
        let mut agent = instance.run(false);
        agent.until(State::Running).await;
        agent::command(&instance.dir, Verb::Pause).await.unwrap();
        agent.until(State::Paused).await;
        agent.request(Request::Detach).await;
        agent.end().await.unwrap();
        let state = instance.run(true).first().await.state;
        assert_eq!(state, if still_paused { State::Paused } else { State::Running });
    }
}

#[tokio::test]
async fn x3_an_adopted_stop_goes_on() {
    let instance = Instance::new(Setting { ignore_powerdown: true, ..Setting::default() });
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    agent::command(&instance.dir, Verb::Stop).await.unwrap();
    agent.until(State::Stopping).await;
    agent.request(Request::Detach).await;
    agent.end().await.unwrap();
    assert!(instance.driver.has_vm());
    instance.driver.heed_powerdown();
    assert_eq!(instance.run(true).end().await.unwrap(), End::AtRest);
    assert_eq!(store::record(&instance.dir).unwrap().state, State::Stopped);
    assert!(!instance.driver.has_vm());
}

#[tokio::test]
async fn a_vm_that_ended_unwatched_is_broken_and_nothing_is_started() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    agent.request(Request::Detach).await;
    agent.end().await.unwrap();
    instance.driver.vanish();
    assert_eq!(instance.run(true).end().await.unwrap(), End::AtRest);
    let record = store::record(&instance.dir).unwrap();
    assert_eq!((record.state, record.errors.len()), (State::Broken, 1));
    assert_eq!(instance.driver.starts(), 1);
    assert!(!instance.dir.join(names::HA_SOCK).exists());
}

#[tokio::test]
async fn a_boot_that_was_told_to_go_says_so() {
    let instance = Instance::new(Setting { hang_in_prepare: true, ..Setting::default() });
    let mut agent = instance.run(false);
    while agent.until(State::Starting).await.step.is_none() {}
    agent.request(Request::Detach).await;
    agent.end().await.unwrap();
    let record = store::record(&instance.dir).unwrap();
    assert_eq!(record.state, State::Broken);
    assert_eq!(record.errors, ["the hostagent was told to exit while making pretence"]);
}

#[tokio::test]
async fn the_second_hostagent_of_an_instance_ends_with_the_firsts_pid() {
    let instance = Instance::new(Setting::default());
    let mut agent = instance.run(false);
    agent.until(State::Running).await;
    let error = instance.run(false).end().await.unwrap_err();
    assert_eq!(error.errno(), libc::EBUSY);
    assert_eq!(error.to_string(), format!("foo: the hostagent with pid {} has it", std::process::id()));
    assert_eq!(agent::status(&instance.dir).await.unwrap().state, State::Running);
}

#[tokio::test]
async fn limas_own_hostagent_is_not_displaced() {
    let instance = Instance::new(Setting::default());
    let _theirs = UnixListener::bind(instance.dir.join(names::HA_SOCK)).unwrap();
    assert_eq!(instance.run(false).end().await.unwrap_err().errno(), libc::EBUSY);
    assert!(instance.dir.join(names::HA_SOCK).exists());
}

#[tokio::test]
async fn x8_a_forged_pid_file_means_nothing() {
    let instance = Instance::new(Setting::default());
    std::fs::write(instance.dir.join(names::HA_PID), "1\n").unwrap();
    instance.run(false).until(State::Running).await;
}

//! The fake driver does what it is told, and nothing of it outlives its VM.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::time::Duration;

use limafs_driver::{Driver, Instance, Vm, VmEvent};
use limafs_driver_fake::Fake;

async fn fake(dir: &tempfile::TempDir, behaviour: &str) -> Fake {
    let config = serde_json::from_str(&format!(r#"{{"vmOpts": {{"fake": {behaviour}}}}}"#)).unwrap();
    let fake = Fake::new();
    fake.configure(Instance { dir: dir.path().into(), config, ..Instance::default() }).await.unwrap();
    fake
}

async fn all(mut vm: Vm) -> Vec<VmEvent> {
    let mut events = Vec::new();
    while let Some(event) = vm.events.recv().await {
        events.push(event);
    }
    events
}

fn exited(clean: bool, reason: &str) -> VmEvent {
    VmEvent::Exited { clean, reason: reason.into() }
}

#[tokio::test]
async fn it_starts_pauses_resumes_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let fake = fake(&dir, r#"{"boot": ["ready"]}"#).await;
    let vm = fake.start().await.unwrap();
    assert!(fake.start().await.is_err());
    fake.pause().await.unwrap();
    fake.resume().await.unwrap();
    fake.reset().await.unwrap();
    fake.stop(Duration::from_secs(30)).await.unwrap();
    let boot = VmEvent::Boot("ready".into());
    let down = VmEvent::PoweringDown;
    let wanted = [boot, VmEvent::Paused, VmEvent::Resumed, VmEvent::Reset, down, exited(true, "shut down")];
    assert_eq!(all(vm).await, wanted);
    assert!(!dir.path().join("fake.pid").exists());
    assert!(fake.attach().await.unwrap().is_none());
}

#[tokio::test]
async fn it_is_found_again_in_its_pause_and_killed() {
    let dir = tempfile::tempdir().unwrap();
    let first = fake(&dir, "{}").await;
    let pid = first.start().await.unwrap().pid;
    first.pause().await.unwrap();
    drop(first);
    fs::remove_file(dir.path().join("fake.pid")).unwrap();
    let second = fake(&dir, "{}").await;
    let vm = second.attach().await.unwrap().unwrap();
    assert_eq!(vm.pid, pid);
    second.kill().await.unwrap();
    assert_eq!(all(vm).await, [VmEvent::Paused, exited(false, "killed by signal 9")]);
}

#[tokio::test]
async fn it_ends_by_itself_as_told() {
    for (behaviour, last) in
        [(r#"{"dieAfterMs": 20}"#, exited(false, "told to")), (r#"{"powerOffAfterMs": 20}"#, exited(true, "shut down"))]
    {
        let dir = tempfile::tempdir().unwrap();
        let fake = fake(&dir, behaviour).await;
        assert_eq!(all(fake.start().await.unwrap()).await, [last]);
    }
}

#[tokio::test]
async fn it_fails_hangs_refuses_and_ignores_as_told() {
    let dir = tempfile::tempdir().unwrap();
    let fake = fake(&dir, r#"{"failStart": "no luck"}"#).await;
    assert_eq!(fake.start().await.unwrap_err().to_string(), "start: no luck");
    let tell = |text: &str| fs::write(dir.path().join("fake.json"), text).unwrap();
    tell(r#"{"hangStart": true}"#);
    assert!(tokio::time::timeout(Duration::from_millis(50), fake.start()).await.is_err());
    tell(r#"{"ignorePowerdown": true, "refusePause": true}"#);
    let vm = fake.start().await.unwrap();
    assert_eq!(fake.pause().await.unwrap_err().to_string(), "pause: refused");
    fake.stop(Duration::from_millis(20)).await.unwrap();
    assert_eq!(all(vm).await, [VmEvent::PoweringDown, exited(false, "killed by signal 9")]);
}

//! Plugins under our driver: a stand-in that behaves and misbehaves, and a real one of docker-machine's own library where
//! LIMAFS_TEST_MACHINE_PLUGIN names it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use limafs_driver::{Driver, Instance, Remote, VmEvent};
use limafs_driver_machine::Machine;
use tempfile::TempDir;

const GRACE: Duration = Duration::from_secs(60);
/// Within this whoever waits for a plugin that misbehaves is told: some 10 s, and more on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// The example, which `cargo test` builds beside the tests.
fn stand_in() -> PathBuf {
    let tests = env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("examples/stand_in")
}

/// A program that runs the stand-in with a variable set.
fn stand_in_with(dir: &Path, manner: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("docker-machine-driver-stand-in");
    let script =
        format!("#!/bin/sh\necho $$ >'{}/pid'\nSTAND_IN={manner} exec '{}'\n", dir.display(), stand_in().display());
    // By another process: one that other threads fork from meanwhile would keep it open for writing, and so busy.
    let written = Command::new("sh").args(["-c", "printf %s \"$1\" >\"$2\"", "sh", &script]).arg(&path).status();
    assert!(written.unwrap().success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn instance(dir: &Path, name: &str, options: &str) -> Instance {
    let config = serde_json::from_str(&format!(r#"{{"vmOpts": {{"{name}": {options}}}}}"#)).unwrap();
    let (hostname, name) = ("lima-foo".into(), "foo".into());
    Instance { name, hostname, dir: dir.into(), config, ..Instance::default() }
}

async fn machine(dir: &TempDir, options: &str) -> Machine {
    let program = stand_in_with(dir.path(), "well");
    let machine = Machine::new("stand-in", program);
    machine.configure(instance(dir.path(), "stand-in", options)).await.unwrap();
    machine
}

fn pid(dir: &TempDir) -> i32 {
    fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap()
}

/// Whether a process is neither there nor a zombie of ours.
fn is_reaped(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn exited(clean: bool) -> impl Fn(&VmEvent) -> bool {
    move |event| matches!(event, VmEvent::Exited { clean: was, .. } if *was == clean)
}

#[tokio::test]
async fn a_machine_is_made_stopped_started_taken_up_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let machine = machine(&dir, r#"{"stand-in-size": 7, "stand-in-label": ["x", "y"]}"#).await;
    machine.validate().await.unwrap();
    assert!(machine.attach().await.unwrap().is_none(), "there is a machine before it was made");
    machine.create().await.unwrap();
    let mut vm = machine.start().await.unwrap();
    let config = fs::read(dir.path().join("machine/machines/lima-foo/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!((&config["Driver"]["size"], &config["Driver"]["label"][1]), (&7.into(), &"y".into()));
    let login = machine.ssh_login().await.unwrap().unwrap();
    assert_eq!((login.address.as_str(), login.port, login.user.as_str()), ("127.0.0.1", 2222, "docker"));
    machine.stop(GRACE).await.unwrap();
    assert!(exited(true)(&vm.events.recv().await.unwrap()));

    machine.create().await.unwrap();
    let _vm = machine.start().await.unwrap();
    let first = pid(&dir);
    drop(machine);
    until("the plugin outlives its host", || is_reaped(first)).await;
    let next = self::machine(&dir, "{}").await;
    let mut vm = next.attach().await.unwrap().expect("the machine runs");
    next.reset().await.unwrap();
    assert_eq!(vm.events.recv().await, Some(VmEvent::Reset));
    next.kill().await.unwrap();
    assert!(exited(true)(&vm.events.recv().await.unwrap()));
    assert!(next.attach().await.unwrap().is_none(), "it was killed");
    next.kill().await.unwrap();
    next.delete().await.unwrap();
    assert!(!dir.path().join("machine").exists());
    assert!(fs::read_to_string(dir.path().join("driver.stderr.log")).unwrap().contains("making lima-foo"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_a_drivers_program_under_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    stand_in_with(dir.path(), "well");
    let program = dir.path().join("lima-driver-stand-in");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lima-driver-machine"), &program).unwrap();
    let remote = Remote::new("stand-in", program, Some(dir.path().into()));
    remote.configure(instance(dir.path(), "stand-in", "{}")).await.unwrap();
    assert!(remote.info().features.own_images);
    remote.create().await.unwrap();
    let mut vm = remote.start().await.unwrap();
    let login = remote.ssh_login().await.unwrap().unwrap();
    assert_eq!((login.address.as_str(), login.port, login.user.as_str()), ("127.0.0.1", 2222, "docker"));
    remote.stop(GRACE).await.unwrap();
    assert!(exited(true)(&vm.events.recv().await.unwrap()));
    remote.delete().await.unwrap();
    assert!(!dir.path().join("machine").exists());
}

#[tokio::test]
async fn s25_a_plugin_that_became_unsafe_is_not_started_again() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    machine(&dir, "{}").await.validate().await.unwrap();
    let first = pid(&dir);
    let program = dir.path().join("docker-machine-driver-stand-in");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
    let next = Machine::new("stand-in", program.clone());
    next.configure(instance(dir.path(), "stand-in", "{}")).await.unwrap();
    let error = next.validate().await.unwrap_err().to_string();
    assert!(error.ends_with(&format!("it is not run: {} can be written by others", program.display())), "{error}");
    assert_eq!(next.health().await.reason, "no-plugin");
    assert_eq!(pid(&dir), first, "it was run");
}

#[tokio::test]
async fn s25_a_plugin_is_started_with_little() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker-machine-driver-stand-in");
    let script =
        format!("#!/bin/sh\nenv >'{}/env'\nSTAND_IN=well exec '{}'\n", dir.path().display(), stand_in().display());
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let machine = Machine::new("stand-in", path);
    machine.configure(instance(dir.path(), "stand-in", "{}")).await.unwrap();
    machine.validate().await.unwrap();
    let told = fs::read_to_string(dir.path().join("env")).unwrap();
    assert!(told.contains("MACHINE_PLUGIN_TOKEN=42\n") && told.contains("PATH="), "{told}");
    // What cargo gives its tests is not for plugins.
    assert!(!told.contains("CARGO_MANIFEST_DIR"), "{told}");
}

#[tokio::test]
async fn options_that_are_no_flags_are_refused_with_those_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let error = machine(&dir, r#"{"size": 7}"#).await.validate().await.unwrap_err().to_string();
    assert!(error.starts_with("vmOpts.stand-in: there is no flag \"size\" (stand-in-fault, "), "{error}");
    let error = machine(&dir, r#"{"stand-in-size": "7"}"#).await.validate().await.unwrap_err().to_string();
    assert_eq!(error, "vmOpts.stand-in: stand-in-size must be a number");
}

#[tokio::test]
async fn x15_a_plugin_that_misbehaves_costs_its_own_instance_an_error() {
    let cases = [
        (r#"{"stand-in-fault": "PreCreateCheck"}"#, "PreCreateCheck: no PreCreateCheck today"),
        (r#"{"stand-in-fault": "Create"}"#, "Create: no Create today"),
        (r#"{"stand-in-fault": "Create", "stand-in-manner": "die"}"#, "the plugin is gone"),
        (r#"{"stand-in-fault": "Create", "stand-in-manner": "freeze"}"#, "it does not answer any more"),
    ];
    for (options, wanted) in cases {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(&dir, options).await;
        let begun = Instant::now();
        let error = machine.create().await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{options}: {error}");
        assert!(begun.elapsed() < SOON, "{options}: {:?}", begun.elapsed());
        let last = pid(&dir);
        drop(machine);
        until("a plugin that misbehaved is reaped", || is_reaped(last)).await;
        // What it left is no obstacle to the next.
        let next = self::machine(&dir, "{}").await;
        next.create().await.unwrap();
        next.delete().await.unwrap();
    }
}

#[tokio::test]
async fn a_stop_that_hangs_is_a_kill_over_the_same_connection() {
    let dir = tempfile::tempdir().unwrap();
    let machine = machine(&dir, r#"{"stand-in-fault": "Stop", "stand-in-manner": "hang"}"#).await;
    machine.create().await.unwrap();
    let mut vm = machine.start().await.unwrap();
    let plugin = pid(&dir);
    machine.stop(Duration::from_secs(1)).await.unwrap();
    assert!(exited(true)(&vm.events.recv().await.unwrap()));
    assert_eq!(pid(&dir), plugin, "another plugin was started");
    machine.delete().await.unwrap();
}

#[tokio::test]
async fn x15_a_plugin_with_a_bad_handshake_or_none_is_killed_and_reaped() {
    let cases = [
        ("silent", "did not say where it listens"),
        ("dead", "it ended with exit status: 3: no hypervisor here"),
        ("garbage", "its first line is no address: \"hello\""),
        ("elsewhere", "its first line is no address: \"10.0.0.1:22\""),
        ("mute", "no answer within 5 s"),
        ("babble", "the bytes are no gob"),
        ("future", "it speaks version 2 of the protocol, not 1"),
    ];
    for (manner, wanted) in cases {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::new("stand-in", stand_in_with(dir.path(), manner));
        machine.configure(instance(dir.path(), "stand-in", "{}")).await.unwrap();
        let begun = Instant::now();
        let health = machine.health().await;
        assert!(health.installed && !health.healthy && health.error.contains(wanted), "{manner}: {health:?}");
        assert!(begun.elapsed() < SOON, "{manner}: {:?}", begun.elapsed());
        let last = pid(&dir);
        until("a plugin with a bad handshake is reaped", || is_reaped(last)).await;
    }
}

#[tokio::test]
async fn h10_a_flood_on_standard_output_is_cut_and_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let machine = machine(&dir, r#"{"stand-in-fault": "Create", "stand-in-manner": "flood"}"#).await;
    machine.create().await.unwrap();
    machine.start().await.unwrap();
    let size = fs::metadata(dir.path().join("driver.stderr.log")).unwrap().len();
    assert!(size <= 1 << 20, "{size} bytes of log");
    machine.delete().await.unwrap();
}

#[tokio::test]
async fn a_machine_that_is_stopped_by_others_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let machine = machine(&dir, "{}").await;
    machine.create().await.unwrap();
    let mut vm = machine.start().await.unwrap();
    let state = dir.path().join("machine/machines/lima-foo/state");
    fs::write(&state, "2").unwrap();
    assert_eq!(vm.events.recv().await, Some(VmEvent::Paused));
    fs::write(&state, "1").unwrap();
    assert_eq!(vm.events.recv().await, Some(VmEvent::Resumed));
    fs::remove_file(&state).unwrap();
    assert!(exited(false)(&vm.events.recv().await.unwrap()));
    machine.delete().await.unwrap();
}

/// A plugin that was built with docker-machine's library: name, and where it is. Its flags begin with its name.
#[tokio::test]
async fn a_real_plugin_makes_a_machine() {
    let Some(program) = env::var_os("LIMAFS_TEST_MACHINE_PLUGIN").map(PathBuf::from) else {
        println!("SKIPPED: LIMAFS_TEST_MACHINE_PLUGIN names no docker-machine-driver-NAME");
        return;
    };
    let file = program.file_name().unwrap().to_str().unwrap();
    let name = file.strip_prefix("docker-machine-driver-").expect("a plugin's name").to_owned();
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new(&name, &program);
    assert!(machine.health().await.healthy);
    machine.configure(instance(dir.path(), &name, r#"{"colour": 1}"#)).await.unwrap();
    let error = machine.validate().await.unwrap_err().to_string();
    assert!(error.contains(&format!("there is no flag \"colour\" ({name}-")), "{error}");
    machine.configure(instance(dir.path(), &name, "{}")).await.unwrap();
    machine.create().await.unwrap();
    let mut vm = machine.start().await.unwrap();
    machine.ssh_login().await.unwrap().unwrap();
    if let Some(docker_machine) = env::var_os("LIMAFS_TEST_DOCKER_MACHINE") {
        // It reads what is kept, and finds the same machine.
        let dirs = format!("{}:{}", program.parent().unwrap().display(), env::var("PATH").unwrap());
        let store = dir.path().join("machine");
        let mut command = tokio::process::Command::new(docker_machine);
        command.arg("-s").arg(store).args(["status", "lima-foo"]).env("PATH", dirs);
        let output = command.output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "Running\n", "{output:?}");
    }
    machine.stop(GRACE).await.unwrap();
    assert!(exited(true)(&vm.events.recv().await.unwrap()));
    let _vm = machine.start().await.unwrap();
    machine.kill().await.unwrap();
    machine.delete().await.unwrap();
    assert!(!dir.path().join("machine").exists());
}

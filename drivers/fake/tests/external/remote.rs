//! A driver's server from its start to its end, with the fake driver's program behind it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::bench::{Bench, is_alive, processes_of, until};
use limafs_driver::{Driver, Error, Remote, Vm, VmEvent};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(90);

async fn next(vm: &mut Vm) -> VmEvent {
    timeout(DEADLINE, vm.events.recv()).await.unwrap().unwrap()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Processes that serve, besides those of VMs.
fn servers(bench: &Bench) -> Vec<i32> {
    let is_server = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("-inst-dir")
    };
    processes_of(bench.dir.path()).into_iter().filter(is_server).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_ends_with_the_vm() {
    let bench = Bench::fake();
    let remote = bench.configured().await;
    let mut vm = remote.start().await.unwrap();
    let server = bench.server().unwrap();
    assert!(is_alive(server));
    remote.stop(DEADLINE).await.unwrap();
    assert_eq!(next(&mut vm).await, VmEvent::PoweringDown);
    assert_eq!(next(&mut vm).await, VmEvent::Exited { clean: true, reason: "shut down".into() });
    assert!(!is_alive(server));
    assert!(!bench.has("fake.drv.sock") && !bench.has("fake.drv.pid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_vm_ends_with_its_host() {
    let bench = Bench::fake();
    let remote = bench.configured().await;
    let server = bench.server().unwrap();
    drop(remote);
    until(|| !is_alive(server), "the end of the server").await;
    assert!(!bench.has("fake.drv.sock") && !bench.has("fake.drv.pid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_an_earlier_host_left_without_a_vm_ends_with_the_next() {
    let bench = Bench::fake();
    let left = crate::lima::Server::start(&bench).await;
    let remote = bench.configured().await;
    assert!(remote.attach().await.unwrap().is_none());
    drop(remote);
    until(|| !is_alive(left.pid()), "the end of the server").await;
    assert!(!bench.has("fake.drv.sock"));
}

#[tokio::test(flavor = "multi_thread")]
async fn h7_a_server_that_runs_is_used_again() {
    let bench = Bench::fake();
    let first = bench.configured().await;
    let vm = first.start().await.unwrap();
    let server = servers(&bench);
    assert_eq!(server.len(), 1);
    drop(first);
    let second = bench.configured().await;
    let mut attached = second.attach().await.unwrap().unwrap();
    assert_eq!(attached.pid, vm.pid);
    assert_eq!(servers(&bench), server);
    second.pause().await.unwrap();
    assert_eq!(next(&mut attached).await, VmEvent::Paused);
    second.kill().await.unwrap();
    assert!(matches!(next(&mut attached).await, VmEvent::Exited { clean: false, .. }));
    assert_eq!(servers(&bench), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_suspended_is_known_to_the_next_host() {
    let bench = Bench::fake();
    let first = bench.configured().await;
    let mut vm = first.start().await.unwrap();
    assert!(!first.is_suspended().await.unwrap());
    first.suspend().await.unwrap();
    assert!(matches!(next(&mut vm).await, VmEvent::Exited { clean: true, .. }));
    drop(first);
    let second = bench.configured().await;
    assert!(second.attach().await.unwrap().is_none());
    assert!(second.is_suspended().await.unwrap());
    second.discard_suspended().await.unwrap();
    assert!(!second.is_suspended().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_driver_died_is_taken_up_again() {
    let bench = Bench::fake();
    let remote = bench.configured().await;
    let mut vm = remote.start().await.unwrap();
    let server = bench.server().unwrap();
    kill(server);
    assert_eq!(next(&mut vm).await, VmEvent::Unresponsive);
    assert_eq!(next(&mut vm).await, VmEvent::Responsive);
    assert!(bench.server().is_some_and(|new| new != server && is_alive(new)));
    assert!(is_alive(vm.pid.unwrap().cast_signed()));
    // The new server knows the instance.
    remote.stop(DEADLINE).await.unwrap();
    assert_eq!(next(&mut vm).await, VmEvent::PoweringDown);
    assert_eq!(next(&mut vm).await, VmEvent::Exited { clean: true, reason: "shut down".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn x15_a_vm_whose_driver_is_gone_for_good_is_not_said_to_have_ended_before_it_has() {
    let bench = Bench::fake();
    let remote = bench.configured().await;
    let mut vm = remote.start().await.unwrap();
    let pid = vm.pid.unwrap().cast_signed();
    fs::remove_file(&bench.program).unwrap();
    kill(bench.server().unwrap());
    assert_eq!(next(&mut vm).await, VmEvent::Unresponsive);
    assert!(timeout(Duration::from_secs(1), vm.events.recv()).await.is_err());
    assert!(is_alive(pid));
    // It can be killed nevertheless: it was seen to be the server's child.
    timeout(DEADLINE, remote.kill()).await.unwrap().unwrap();
    assert!(matches!(next(&mut vm).await, VmEvent::Exited { clean: false, .. }));
    assert!(!is_alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn s25_a_program_that_became_unsafe_is_not_started_again() {
    let bench = Bench::fake();
    let mark = bench.program.with_extension("unsafe");
    let remote = Remote::guarded(bench.name, bench.program.clone(), Some(bench.instance_dir()), |program| {
        program.with_extension("unsafe").exists().then(|| "anybody may write it".into())
    });
    remote.configure(bench.instance()).await.unwrap();
    let mut vm = remote.start().await.unwrap();
    fs::write(&mark, "").unwrap();
    kill(bench.server().unwrap());
    assert_eq!(next(&mut vm).await, VmEvent::Unresponsive);
    let refused = "driver fake: is not run: anybody may write it";
    assert_eq!(remote.validate().await.unwrap_err().to_string(), refused);
    assert_eq!(remote.inspect_status(bench.instance()).await.unwrap_err().to_string(), refused);
    assert_eq!(remote.health().await.error, refused);
    assert!(servers(&bench).is_empty());
    // It goes on once the program is what it should be.
    fs::remove_file(&mark).unwrap();
    assert_eq!(next(&mut vm).await, VmEvent::Responsive);
    remote.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn h11_another_program_is_used_by_the_next_start() {
    let bench = Bench::fake();
    let remote = bench.configured().await;
    let vm = remote.start().await.unwrap();
    bench.write_script("echo the new one >&2; exit 1");
    assert!(remote.validate().await.is_ok());
    let pid = vm.pid.unwrap().cast_signed();
    assert!(is_alive(pid));
    remote.kill().await.unwrap();
    let error = remote.start().await.unwrap_err();
    assert!(error.to_string().ends_with("the new one"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_of_lima_2_1_is_spoken_with() {
    let bench = Bench::fake();
    let real = env!("CARGO_BIN_EXE_lima-driver-fake");
    bench.write_script(&format!("[ $# = 0 ] || {{ echo 'flag provided but not defined' >&2; exit 2; }}\nexec {real}"));
    let remote = bench.configured().await;
    remote.validate().await.unwrap();
    let mut vm = remote.start().await.unwrap();
    assert!(!bench.has("fake.drv.sock"));
    remote.stop(DEADLINE).await.unwrap();
    assert_eq!(next(&mut vm).await, VmEvent::PoweringDown);
    assert_eq!(next(&mut vm).await, VmEvent::Exited { clean: true, reason: "shut down".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn s25_a_driver_is_started_with_little_and_leaves_private_files() {
    let bench = Bench::fake();
    let real = env!("CARGO_BIN_EXE_lima-driver-fake");
    bench.write_script(&format!("env > \"$2/env\"; pwd > \"$2/pwd\"\nexec {real} \"$@\""));
    let _remote = bench.configured().await;
    let environment = fs::read_to_string(bench.instance_dir().join("env")).unwrap();
    // A shell adds its own. What cargo gives its tests is not for drivers.
    let known =
        ["HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"];
    let more = ["XDG_", "LIMA", "QEMU_SYSTEM_", "DISPLAY", "WAYLAND_", "XAUTHORITY", "WSL_"];
    for name in environment.lines().filter_map(|line| Some(line.split_once('=')?.0)) {
        assert!(known.contains(&name) || more.iter().any(|prefix| name.starts_with(prefix)), "{name}");
    }
    assert!(environment.contains("PATH="));
    assert_eq!(fs::read_to_string(bench.instance_dir().join("pwd")).unwrap(), "/\n");
    for name in ["fake.drv.sock", "fake.drv.pid", "driver.stderr.log"] {
        let mode = fs::metadata(bench.instance_dir().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_keep_their_kind() {
    let bench = Bench::fake();
    let remote = bench.remote();
    let mut instance = bench.instance();
    instance.config = serde_json::from_str(r#"{"vmOpts": {"fake": {"failStart": "no luck"}}}"#).unwrap();
    remote.configure(instance.clone()).await.unwrap();
    assert!(matches!(remote.pause().await, Err(Error::NotRunning)));
    assert!(matches!(remote.screenshot().await, Err(Error::Unsupported { operation: "screenshot", .. })));
    assert_eq!(remote.start().await.unwrap_err().to_string(), "start: no luck");
    instance.config = serde_json::from_str(r#"{"vmOpts": {"fake": {"failStart": 1}}}"#).unwrap();
    let Err(Error::Invalid { field, .. }) = remote.configure(instance).await else { panic!("not refused so") };
    assert_eq!(field, "vmOpts.fake");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_driver_says_is_kept_after_its_host_has_gone() {
    let bench = Bench::fake();
    let first = bench.configured().await;
    drop(first.start().await.unwrap());
    drop(first);
    let log = bench.instance_dir().join("driver.stderr.log");
    let before = fs::read_to_string(&log).unwrap();
    assert!(before.contains("driver fake serves at"), "{before}");
    let second = bench.configured().await;
    second.attach().await.unwrap().unwrap();
    second.kill().await.unwrap();
    let after = fs::read_to_string(&log).unwrap();
    assert!(after.starts_with(&before) && after.contains("the server ends"), "{after}");
}

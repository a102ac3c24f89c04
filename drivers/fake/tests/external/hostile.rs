//! Drivers that hang, die, flood and talk garbage cost an error within 10 s, and leave nothing behind.

use std::fs;
use std::time::{Duration, Instant};

use crate::bench::{Bench, is_alive, processes_of, until};
use limafs_driver::{Driver, Error, Result, Vm, VmEvent};
use tokio::time::timeout;

/// What a bad driver may cost, and what a busy machine adds: it starts many at once here.
const COST: Duration = Duration::from_secs(10 + 50);

/// What a call made of a bad driver says. A deadline that has passed was one of 10 s at most.
async fn cost<T>(call: impl Future<Output = Result<T>>) -> Error {
    match timeout(COST, call).await.expect("an answer in time") {
        Ok(_) => panic!("succeeded"),
        Err(Error::Timeout { what, seconds }) if seconds > 10 => panic!("{what} may take {seconds} s"),
        Err(error) => error,
    }
}

/// Calls each of the trait's that Lima's protocol has.
async fn call(driver: &dyn Driver, name: &str) -> Result<()> {
    match name {
        "validate" => driver.validate().await,
        "create" => driver.create().await,
        "create_disk" => driver.create_disk().await,
        "start" => driver.start().await.map(drop),
        "stop" => driver.stop(Duration::from_secs(60)).await,
        "delete" => driver.delete().await,
        "boot_scripts" => driver.boot_scripts().await.map(drop),
        "run_gui" => driver.run_gui().await,
        "change_display_password" => driver.change_display_password("secret").await,
        "get_display_connection" => driver.display_connection().await.map(drop),
        "create_snapshot" => driver.create_snapshot("t").await,
        "apply_snapshot" => driver.apply_snapshot("t").await,
        "delete_snapshot" => driver.delete_snapshot("t").await,
        "list_snapshots" => driver.snapshots().await.map(drop),
        "forward_guest_agent" => driver.forward_guest_agent().await.map(drop),
        "guest_agent_conn" => driver.guest_agent_conn().await,
        "ssh_address" => driver.ssh_address().await.map(drop),
        "additional_setup_for_ssh" => driver.additional_setup_for_ssh().await,
        _ => panic!("no call {name}"),
    }
}

const QUICK: [&str; 8] = [
    "validate",
    "boot_scripts",
    "run_gui",
    "change_display_password",
    "get_display_connection",
    "forward_guest_agent",
    "guest_agent_conn",
    "ssh_address",
];
const LONG: [&str; 9] = [
    "create",
    "create_disk",
    "start",
    "delete",
    "create_snapshot",
    "apply_snapshot",
    "delete_snapshot",
    "list_snapshots",
    "additional_setup_for_ssh",
];

/// Each call of a driver that does so in it, all at once.
async fn each(calls: &[&'static str], how: &'static str, expected: fn(&str, &Error)) {
    let mut tasks = tokio::task::JoinSet::new();
    for &name in calls {
        tasks.spawn(async move {
            let bench = Bench::hostile(&format!(r#"{{"{name}": "{how}"}}"#));
            let remote = bench.configured().await;
            let error = cost(call(&remote, name)).await;
            expected(name, &error);
            let server = bench.server();
            drop(remote);
            if let Some(server) = server {
                until(|| !is_alive(server), "the end of the server").await;
            }
            // Whoever has killed it cleans up after it.
            until(|| !bench.has("hostile.drv.sock") && !bench.has("hostile.drv.pid"), "the end of its files").await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x15_a_call_that_hangs_is_an_error_in_time() {
    each(&QUICK, "hang", |name, error| assert!(matches!(error, Error::Timeout { .. }), "{name}: {error}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x15_work_of_a_driver_that_stops_answering_is_an_error_in_time() {
    each(&LONG, "freeze", |name, error| assert!(matches!(error, Error::Timeout { .. }), "{name}: {error}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x15_a_driver_that_dies_in_a_call_is_an_error_at_once() {
    let dead = |name: &str, error: &Error| assert!(error.to_string().contains("went away"), "{name}: {error}");
    each(&QUICK, "die", dead).await;
    each(&LONG, "die", dead).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_a_short_line() {
    each(&QUICK, "flood", |name, error| {
        let text = error.to_string();
        assert!(text.len() < 1100 && !text.contains('\n'), "{name}: {} bytes", text.len());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_configured_is_an_error_in_time() {
    let told = [
        r#"{"info": "hang"}"#,
        r#"{"info": "garbage"}"#,
        r#"{"info": "die"}"#,
        r#"{"configure": "hang"}"#,
        r#"{"configure": "die"}"#,
        r#"{"configure": "empty"}"#,
        r#"{"configure": "refuse"}"#,
        r#"{"connection": "garbage"}"#,
        r#"{"connection": "close"}"#,
    ];
    for told in told {
        let bench = Bench::hostile(told);
        let remote = bench.remote();
        cost(remote.configure(bench.instance())).await;
        drop(remote);
        until(|| processes_of(bench.dir.path()).is_empty(), "the end of its processes").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_says_nothing_is_a_failure() {
    for how in ["empty", "silent", "refuse"] {
        let bench = Bench::hostile(&format!(r#"{{"start": "{how}"}}"#));
        cost(bench.configured().await.start()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_success_is_the_end_of_the_vm() {
    let bench = Bench::hostile(r#"{"start": "over"}"#);
    let remote = bench.configured().await;
    let mut vm = remote.start().await.unwrap();
    assert_eq!(last(&mut vm, &bench).await, VmEvent::Exited { clean: true, reason: "shut down".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_of_limas_that_dies_takes_its_vm_along() {
    let bench = Bench::hostile(r#"{"boot_scripts": "die"}"#);
    let remote = bench.configured().await;
    let mut vm = remote.start().await.unwrap();
    cost(remote.boot_scripts()).await;
    assert_eq!(last(&mut vm, &bench).await, VmEvent::Exited { clean: false, reason: "its driver died".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_of_a_driver_that_has_frozen_is_killed_in_time() {
    let bench = Bench::hostile(r#"{"create": "freeze"}"#);
    let remote = bench.configured().await;
    let mut vm = remote.start().await.unwrap();
    cost(remote.create()).await;
    timeout(COST, remote.kill()).await.expect("an answer in time").unwrap();
    assert_eq!(last(&mut vm, &bench).await, VmEvent::Exited { clean: false, reason: "killed".into() });
}

/// The event after which there are no more, and no server.
async fn last(vm: &mut Vm, bench: &Bench) -> VmEvent {
    let last = timeout(COST, vm.events.recv()).await.expect("an event in time").unwrap();
    assert_eq!(vm.events.recv().await, None);
    assert!(!bench.has("hostile.drv.sock") && !bench.has("hostile.drv.pid"));
    assert_eq!(processes_of(bench.dir.path()), [0; 0]);
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn h5_a_program_without_a_socket_is_killed_after_10_s_and_reaped() {
    let bench = Bench::script("exec sleep 1000");
    let begin = Instant::now();
    let error = cost(bench.remote().configure(bench.instance())).await;
    assert_eq!(error.to_string(), "the start of driver script took longer than 10 s");
    assert!(begin.elapsed() >= Duration::from_secs(10));
    assert_eq!(processes_of(bench.dir.path()), [0; 0]);
    assert!(!bench.has("script.drv.pid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn h6_a_program_that_ends_without_a_socket_is_told_by_how_it_ended() {
    let say = async |script: &str| {
        let bench = Bench::script(script);
        cost(bench.remote().configure(bench.instance())).await.to_string()
    };
    assert_eq!(say("exit 0").await, "driver script: ended without serving");
    assert_eq!(say("echo no luck >&2; exit 1").await, "driver script: failed with code 1 before it served: no luck");
    assert!(say("kill -9 $$").await.starts_with("driver script: was killed before it served (signal: 9"));
    // A driver of Lima 2.1 says this of --inst-dir; without it this one has nothing to say either.
    assert_eq!(say("echo usage >&2; exit 2").await, "driver script: failed with code 2 before it served: usage");
}

#[tokio::test(flavor = "multi_thread")]
async fn h8_an_answer_that_is_no_instance_is_an_error_within_3_s() {
    let garbage = ["echo garbage", "echo '\"!!!\"'", "head -c 100000 /dev/zero", "exit 3", "sleep 1000", "true"];
    for script in garbage {
        let bench = Bench::script(script);
        match cost(bench.remote().inspect_status(bench.instance())).await {
            Error::Timeout { seconds, .. } => assert_eq!((script, seconds), ("sleep 1000", 3)),
            error => assert_ne!(script, "sleep 1000", "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h10_a_flood_of_1_gb_leaves_a_short_log_and_an_answer() {
    let real = env!("CARGO_BIN_EXE_lima-driver-fake");
    // Both streams, beside a server that works.
    let flood = "yes flood | head -c 500000000 >&2; yes flood | head -c 500000000; : > \"$2/flooded\"";
    let bench = Bench::script(&format!("({flood}) &\nexec {real} \"$@\""));
    let remote = Bench { name: "fake", program: bench.program.clone(), dir: bench.dir };
    let driver = remote.configured().await;
    let begin = Instant::now();
    for _ in 0..20 {
        // Under its own deadline.
        driver.validate().await.unwrap();
    }
    while !remote.has("flooded") {
        assert!(begin.elapsed() < Duration::from_secs(300), "the flood does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    driver.validate().await.unwrap();
    let log = fs::metadata(remote.instance_dir().join("driver.stderr.log")).unwrap().len();
    assert!(log <= 4 << 20, "{log} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_of_what_cannot_work_says_why() {
    let reason = async |bench: Bench| bench.remote().health().await.reason;
    assert_eq!(reason(Bench::script("exit 1")).await, "does-not-start");
    let gone = Bench::script("");
    fs::remove_file(&gone.program).unwrap();
    assert_eq!(reason(gone).await, "not-found");
    // A driver of Lima's says nothing of its health, but what it is.
    let limas = Bench::hostile("{}");
    let remote = limas.remote();
    let health = remote.health().await;
    assert!(health.installed && health.healthy && health.error.is_empty(), "{health:?}");
    assert_eq!(processes_of(limas.dir.path()), [0; 0]);
}

//! A driver's program as Lima's hosts use it: arguments, socket, the stream that is the VM's life.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::bench::{Bench, is_alive, until};
use crate::lima::{Server, connect, connect_until};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use limafs_driver::proto::driver::SetConfigRequest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// As Lima's host sends it, with what we know nothing of.
fn instance(bench: &Bench, port: u16) -> Value {
    json!({
        "name": "x", "hostname": "lima-x", "status": "Stopped", "dir": bench.instance_dir(), "vmType": "fake",
        "arch": "x86_64", "cpus": 2, "memory": 1 << 30, "disk": 1 << 30, "sshLocalPort": port, "errors": ["e"],
        "config": {
            "vmType": "fake", "newKey": {"a": [1, null]}, "mounts": [{"location": "/x", "newer": true}],
            "portForwards": [{"guestPortRange": [1, 2], "guestIP": "127.0.0.1"}],
        },
        "protected": false, "limaVersion": "2.2.0", "autoStartedIdentifier": "u",
    })
}

/// Runs the program once.
fn run(bench: &Bench, flag: &str, input: &str) -> String {
    let mut command = Command::new(&bench.program);
    let mut child = command.arg(flag).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn vm(bench: &Bench) -> Option<i32> {
    std::fs::read_to_string(bench.instance_dir().join("fake.pid")).ok()?.trim().parse().ok()
}

#[tokio::test]
async fn the_instance_comes_back_whole() {
    let bench = Bench::fake();
    let _server = Server::start(&bench).await;
    let mut lima = connect(&bench.instance_dir().join("fake.drv.sock")).await;
    let sent = instance(&bench, 60022);
    let request = SetConfigRequest { instance_config_json: sent.to_string().into_bytes() };
    let answer = lima.configure(request).await.unwrap().into_inner().instance_config_json;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer, sent);
    // Another process of Lima's does not know the port.
    let mut again = connect(&bench.instance_dir().join("fake.drv.sock")).await;
    let request = SetConfigRequest { instance_config_json: instance(&bench, 0).to_string().into_bytes() };
    let answer = again.configure(request).await.unwrap().into_inner().instance_config_json;
    assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap()["sshLocalPort"], 60022);
}

#[tokio::test]
async fn info_needs_no_instance_and_has_limas_names() {
    let bench = Bench::fake();
    let _server = Server::start(&bench).await;
    let mut lima = connect(&bench.instance_dir().join("fake.drv.sock")).await;
    let info: Value = serde_json::from_slice(&lima.info(()).await.unwrap().into_inner().info_json).unwrap();
    assert_eq!(info["name"], "fake");
    assert_eq!(info["features"]["dynamicSSHAddress"], false);
    assert_eq!(info["features"]["rosettaBinFmt"], false);
    assert_eq!(lima.validate(()).await.unwrap_err().message(), "fake driver: is not configured");
}

#[tokio::test]
async fn s25_the_socket_is_the_owners_alone() {
    let bench = Bench::fake();
    let _server = Server::start(&bench).await;
    let mode = std::fs::metadata(bench.instance_dir().join("fake.drv.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn the_vm_dies_with_the_stream_of_its_start() {
    let bench = Bench::fake();
    let mut server = Server::start(&bench).await;
    let mut lima = connect(&bench.instance_dir().join("fake.drv.sock")).await;
    let request = SetConfigRequest { instance_config_json: instance(&bench, 0).to_string().into_bytes() };
    lima.configure(request).await.unwrap();
    let mut started = lima.start(()).await.unwrap().into_inner();
    assert!(started.message().await.unwrap().unwrap().success);
    let pid = vm(&bench).unwrap();
    assert!(is_alive(pid));
    drop(started);
    until(|| !is_alive(pid), "the end of the VM").await;
    signal(server.pid(), Signal::TERM);
    assert!(server.0.wait().unwrap().success());
    let mut said = String::new();
    server.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "", "on standard output");
}

#[tokio::test]
async fn a_server_that_is_asked_to_end_looks_after_its_vm_first() {
    let bench = Bench::fake();
    let mut server = Server::start(&bench).await;
    let mut lima = connect(&bench.instance_dir().join("fake.drv.sock")).await;
    let request = SetConfigRequest { instance_config_json: instance(&bench, 0).to_string().into_bytes() };
    lima.configure(request).await.unwrap();
    let mut started = lima.start(()).await.unwrap().into_inner();
    assert!(started.message().await.unwrap().unwrap().success);
    signal(server.pid(), Signal::TERM);
    let pid = vm(&bench).unwrap();
    assert!(is_alive(pid) && is_alive(server.pid()));
    // Lima's host asks for the end of the VM when the server knows already that it is to end.
    let mut stopping = connect(&bench.instance_dir().join("fake.drv.sock")).await;
    stopping.stop(()).await.unwrap();
    assert!(!is_alive(pid));
    assert!(started.message().await.unwrap().unwrap().success);
    assert!(started.message().await.unwrap().is_none());
    assert!(server.0.wait().unwrap().success());
    assert!(!bench.has("fake.drv.sock"));
}

#[tokio::test]
async fn regression_a_server_that_ends_kills_the_vm_of_a_host_that_has_gone() {
    for stops in [false, true] {
        let bench = Bench::fake();
        let mut server = Server::start(&bench).await;
        let (mut lima, connection) = connect_until(&bench.instance_dir().join("fake.drv.sock")).await;
        let mut sent = instance(&bench, 0);
        sent["config"]["vmOpts"] = json!({"fake": {"ignorePowerdown": true}});
        lima.configure(SetConfigRequest { instance_config_json: sent.to_string().into_bytes() }).await.unwrap();
        let mut started = lima.start(()).await.unwrap().into_inner();
        assert!(started.message().await.unwrap().unwrap().success);
        let pid = vm(&bench).unwrap();
        let mut stopping = lima.clone();
        let stop = tokio::spawn(async move { if stops { stopping.stop(()).await.map(drop) } else { Ok(()) } });
        signal(server.pid(), Signal::TERM);
        lima.info(()).await.unwrap();
        assert!(is_alive(pid));
        connection.shutdown(std::net::Shutdown::Both).unwrap();
        until(|| !is_alive(pid), "the end of the VM").await;
        assert!(server.0.wait().unwrap().success());
        assert!(stops || stop.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn regression_a_server_that_its_host_has_lost_ends() {
    let bench = Bench::fake();
    let mut lost = Server::start(&bench).await;
    // Lima's host removes the socket even where it has lost the pid.
    std::fs::remove_file(bench.instance_dir().join("fake.drv.sock")).unwrap();
    let _new = Server::start(&bench).await;
    until(|| lost.0.try_wait().unwrap().is_some(), "the end of the server without a socket").await;
    assert!(bench.has("fake.drv.sock"));
    connect(&bench.instance_dir().join("fake.drv.sock")).await.info(()).await.unwrap();
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_ends_the_stream() {
    let bench = Bench::fake();
    let _server = Server::start(&bench).await;
    let mut lima = connect(&bench.instance_dir().join("fake.drv.sock")).await;
    let mut sent = instance(&bench, 0);
    sent["config"]["vmOpts"] = json!({"fake": {"failStart": "no luck"}});
    lima.configure(SetConfigRequest { instance_config_json: sent.to_string().into_bytes() }).await.unwrap();
    let mut started = lima.start(()).await.unwrap().into_inner();
    let first = started.message().await.unwrap().unwrap();
    assert_eq!((first.success, first.error.as_str()), (false, "start: no luck"));
    assert_eq!(started.message().await.unwrap_err().code(), tonic::Code::Internal);
}

#[test]
fn inspect_status_answers_in_limas_envelope() {
    let bench = Bench::fake();
    let sent = instance(&bench, 60022);
    let answer = run(&bench, "--inspect-status", &format!("{}\n", json!(BASE64_STANDARD.encode(sent.to_string()))));
    let text: String = serde_json::from_str(&answer).unwrap();
    let answer: Value = serde_json::from_slice(&BASE64_STANDARD.decode(text).unwrap()).unwrap();
    assert_eq!(answer, sent);
}

#[test]
fn health_is_one_document() {
    let report: Value = serde_json::from_str(&run(&Bench::fake(), "-health", "")).unwrap();
    assert_eq!((&report["info"]["name"], &report["health"]["healthy"]), (&json!("fake"), &json!(true)));
}

#[test]
fn a_configuration_is_filled_for_lima_2_1() {
    let sent = json!({"config": {"cpus": 2, "newKey": 1}, "filePath": "/x/lima.yaml"});
    let answer: Value = serde_json::from_str(&run(&Bench::fake(), "--pre-driver-action", &sent.to_string())).unwrap();
    assert_eq!(answer, json!({"vmType": "fake", "cpus": 2, "newKey": 1}));
}

#[tokio::test]
async fn without_a_flag_it_says_where_it_is_as_lima_2_1() {
    let bench = Bench::fake();
    let mut command = Command::new(&bench.program);
    let child = command.env("TMPDIR", bench.dir.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut server = Server(child);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let socket = bench.dir.path().join(format!("lima-driver-fake-{}.sock", server.pid()));
    assert_eq!(said, json!({"socketPath": socket}));
    assert!(connect(&socket).await.info(()).await.is_ok());
    signal(server.pid(), Signal::TERM);
    assert!(server.0.wait().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn what_is_not_understood_ends_it_as_a_program_of_gos() {
    let bench = Bench::fake();
    let output = Command::new(&bench.program).arg("--sing").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown flag -sing"));
}

//! A session with a guest that is a russh server in this process.

pub mod guest;

use std::time::Duration;

use super::*;
use guest::{Guest, Manners};

const LONG: Duration = Duration::from_secs(60);

pub async fn connect(login: &Login, limit: Duration) -> Result<Session, Fault> {
    enter(login, dial(login, limit).await?, limit).await
}

#[tokio::test]
async fn a_command_runs_and_its_output_and_exit_code_come_back() {
    let guest = Guest::start(Manners::default()).await;
    let login = guest.login().await;
    let session = connect(&login, LONG).await.unwrap();
    let output = session.exec("hello 3", LONG).await.unwrap();
    assert_eq!(output, Output { exit: Some(3), stdout: "hello 3".into(), complaint: String::new() });
    session.shut();
    timeout(LONG, session.closed()).await.unwrap();
    assert!(!session.is_open());
}

#[tokio::test]
async fn s7_the_first_key_is_pinned_and_ssh_config_trusts_it_alone() {
    let guest = Guest::start(Manners::default()).await;
    let login = guest.login().await;
    config::write(&login).unwrap();
    let config = || std::fs::read_to_string(login.known_hosts.with_file_name("ssh.config")).unwrap();
    assert!(config().contains("StrictHostKeyChecking no") && config().contains("/dev/null"));
    connect(&login, LONG).await.unwrap().trust(&login).unwrap();
    let pinned = std::fs::read_to_string(&login.known_hosts).unwrap();
    assert!(pinned.starts_with("lima-foo ssh-ed25519 AAAA"), "{pinned}");
    assert!(config().contains("StrictHostKeyChecking yes") && !config().contains("/dev/null"));
    assert_eq!(config::port(login.known_hosts.parent().unwrap()), Some(login.port));
    connect(&login, LONG).await.unwrap();
}

#[tokio::test]
async fn s7_another_host_key_is_refused_before_anything_is_sent_to_it() {
    let guest = Guest::start(Manners::default()).await;
    let impostor = Guest::start(Manners::default()).await;
    let login = guest.login().await;
    connect(&login, LONG).await.unwrap().trust(&login).unwrap();
    let stolen = Login { port: impostor.port, ..login };
    let fault = connect(&stolen, LONG).await.err().unwrap();
    assert!(matches!(fault, Fault::HostKey(_)), "{fault}");
    assert_eq!(impostor.attempts_to_log_in(), 0);
}

#[tokio::test]
async fn a_pin_that_cannot_be_read_is_not_no_pin() {
    let guest = Guest::start(Manners::default()).await;
    let login = guest.login().await;
    std::fs::write(&login.known_hosts, "lima-foo ssh-ed25519 rubbish\n").unwrap();
    assert!(connect(&login, LONG).await.is_err());
    assert_eq!(guest.attempts_to_log_in(), 0);
}

#[tokio::test]
async fn x22_a_refused_key_is_said_so() {
    let guest = Guest::start(Manners { refuse: usize::MAX, ..Manners::default() }).await;
    let fault = connect(&guest.login().await, LONG).await.err().unwrap();
    assert_eq!(fault, Fault::Refused("lima".into()));
}

#[tokio::test]
async fn a_guest_that_says_nothing_costs_the_limit_and_leaves_no_connection() {
    let guest = Guest::start(Manners { mute: 1, ..Manners::default() }).await;
    let limit = Duration::from_millis(50);
    assert_eq!(connect(&guest.login().await, limit).await.err(), Some(Fault::Slow(limit)));
    guest.first_is_closed().await;
}

#[tokio::test]
async fn the_file_is_understood_by_openssh() {
    let guest = Guest::start(Manners::default()).await;
    let login = guest.login().await;
    config::write(&login).unwrap();
    let path = login.known_hosts.with_file_name("ssh.config");
    let ssh = std::process::Command::new("ssh").args(["-G", "-F"]).arg(&path).arg("lima-foo").output();
    let Ok(output) = ssh else {
        eprintln!("skipped: there is no ssh on this machine");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in ["hostname 127.0.0.1", "user lima", "batchmode yes", "identitiesonly yes", "controlmaster auto"] {
        assert!(text.lines().any(|option| option == line), "{line}: {text}");
    }
}

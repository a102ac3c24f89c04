//! Guests that are slow, mute, odd or well, and what is told of them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use limafs_driver::{Config, Driver, Info, Instance, Vm};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::hostagent::facts::Facts;
use crate::hostagent::line::Line;
use crate::hostagent::mounts::Mounts;
use crate::hostagent::ssh::tests::connect;
use crate::hostagent::ssh::tests::guest::{Guest, Manners};

const IID: &str = "iid-1";

/// Never asked for anything here.
struct Nothing;

#[async_trait]
impl Driver for Nothing {
    fn info(&self) -> Info {
        Info::default()
    }
    async fn configure(&self, instance: Instance) -> limafs_driver::Result<Instance> {
        Ok(instance)
    }
    async fn validate(&self) -> limafs_driver::Result<()> {
        Ok(())
    }
    async fn create_disk(&self) -> limafs_driver::Result<()> {
        Ok(())
    }
    async fn start(&self) -> limafs_driver::Result<Vm> {
        Err(limafs_driver::Error::NotRunning)
    }
    async fn stop(&self, _grace: Duration) -> limafs_driver::Result<()> {
        Ok(())
    }
    async fn kill(&self) -> limafs_driver::Result<()> {
        Ok(())
    }
}

/// A wait that has begun: what it tells, and how the guest speaks to it.
struct Wait {
    told: mpsc::Receiver<Event>,
    lines: mpsc::Sender<String>,
    _tasks: JoinSet<()>,
}

impl Wait {
    fn begin(login: Option<Login>, push: bool, plain: bool) -> Self {
        let facts = Facts { iid: IID.into(), ..Facts::default() };
        let line = login.map(|login| Arc::new(Line::new(login)));
        let config = Arc::new(Config { plain: Some(plain), ..Config::default() });
        let mounts = Arc::new(Mounts::of(&config));
        let prepared = Prepared {
            driver: Arc::new(Nothing),
            facts,
            config,
            line: line.clone(),
            mounts,
            returned: Default::default(),
            push,
            probes: vec![],
            parcel: None,
        };
        let (tell, told) = mpsc::channel(64);
        let (lines, received) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        if let Some(line) = line {
            tasks.spawn(async move { line.keep(&mpsc::channel(1).0).await });
        }
        tasks.spawn(async move { await_guest(&prepared, received, &tell).await });
        Self { told, lines, _tasks: tasks }
    }

    async fn say(&self, line: &str) {
        self.lines.send(line.into()).await.unwrap();
    }

    /// The next event that is no step.
    async fn next(&mut self) -> Option<Event> {
        let next = async {
            loop {
                match self.told.recv().await {
                    Some(Event::Step(_)) => {}
                    event => return event,
                }
            }
        };
        timeout(Duration::from_secs(60), next).await.unwrap()
    }
}

fn markers() -> Manners {
    Manners { hold: Some("lima-boot-done"), ..Manners::default() }
}

#[tokio::test]
async fn a_vm_without_a_guest_is_ready_at_once() {
    let mut wait = Wait::begin(None, false, false);
    assert_eq!(wait.next().await, Some(Event::Ssh));
    assert_eq!(wait.next().await, Some(Event::Done(vec![])));
    assert_eq!(wait.next().await, None);
}

#[tokio::test]
async fn a_plain_guest_is_ready_with_ssh() {
    let guest = Guest::start(Manners::default()).await;
    let mut wait = Wait::begin(Some(guest.login().await), false, true);
    assert_eq!(wait.next().await, Some(Event::Ssh));
    assert_eq!(wait.next().await, Some(Event::Done(vec![])));
}

#[tokio::test]
async fn first_attempts_that_hang_do_not_hold_up_the_next() {
    let guest = Guest::start(Manners { mute: 3, ..Manners::default() }).await;
    let mut wait = Wait::begin(Some(guest.login().await), false, true);
    assert_eq!(wait.next().await, Some(Event::Ssh));
    assert!(guest.connections() >= 4);
}

#[tokio::test]
async fn a_user_that_is_not_there_yet_is_tried_again() {
    let guest = Guest::start(Manners { refuse: 1, ..Manners::default() }).await;
    let mut wait = Wait::begin(Some(guest.login().await), false, true);
    assert_eq!(wait.next().await, Some(Event::Ssh));
    assert_eq!(guest.attempts_to_log_in(), 2);
}

#[tokio::test]
async fn the_markers_are_waited_for_in_one_command_and_name_what_failed() {
    let guest = Guest::start(Manners { answer: "provision.system/00000002 3\n".into(), ..markers() }).await;
    let mut wait = Wait::begin(Some(guest.login().await), false, false);
    assert_eq!(wait.next().await, Some(Event::Ssh));
    let connections = guest.connections();
    guest.release();
    let failures = vec!["provision.system/00000002 failed with exit code 3".to_owned()];
    assert_eq!(wait.next().await, Some(Event::Done(failures)));
    assert_eq!(guest.connections(), connections);
}

#[tokio::test]
async fn the_guests_own_word_needs_no_markers() {
    let guest = Guest::start(markers()).await;
    let mut wait = Wait::begin(Some(guest.login().await), true, false);
    wait.say("sshd iid-1").await;
    assert_eq!(wait.next().await, Some(Event::Ssh));
    wait.say("failed iid-1 7 boot.Linux/30-install").await;
    wait.say("done iid-1 1").await;
    let failures = vec!["boot.Linux/30-install failed with exit code 7".to_owned()];
    assert_eq!(wait.next().await, Some(Event::Done(failures)));
}

#[tokio::test]
async fn the_word_of_an_earlier_boot_means_nothing() {
    let guest = Guest::start(markers()).await;
    let mut wait = Wait::begin(Some(guest.login().await), true, false);
    wait.say("done iid-0 0").await;
    wait.say("sshd iid-1").await;
    assert_eq!(wait.next().await, Some(Event::Ssh));
    wait.say("done iid-1 0").await;
    assert_eq!(wait.next().await, Some(Event::Done(vec![])));
}

#[tokio::test]
async fn x22_a_changed_host_key_is_told_of_at_once_and_nobody_logs_in() {
    let guest = Guest::start(Manners::default()).await;
    let impostor = Guest::start(Manners::default()).await;
    let login = guest.login().await;
    let session = connect(&login, Duration::from_secs(60)).await.unwrap();
    session.trust(&login).unwrap();
    let mut wait = Wait::begin(Some(Login { port: impostor.port, ..login }), false, true);
    let Some(Event::Late(why)) = wait.next().await else { panic!("not told") };
    assert!(why.starts_with("the ssh host key of the guest is not the one of its first boot"), "{why}");
    assert_eq!(impostor.attempts_to_log_in(), 0);
}

#[tokio::test]
async fn a_probe_is_tried_again_and_at_last_told_with_its_hint() {
    let guest = Guest::start(Manners { exits: Some(("exec $program", 4)), ..Manners::default() }).await;
    let login = guest.login().await;
    let probe = limafs_driver::Probe {
        description: Some("docker".into()),
        script: Some("#!/bin/sh\n".into()),
        hint: Some("see the log".into()),
        ..limafs_driver::Probe::default()
    };
    let config = limafs_driver::Config { probes: Some(vec![probe]), ..limafs_driver::Config::default() };
    // Longer than a first try takes on a busy machine: there is to be a second.
    let limits = user_probes::Limits { patience: Duration::from_secs(5), pause: Duration::from_millis(500) };
    let (tell, mut told) = mpsc::channel(64);
    let probes = user_probes::of(&config).unwrap();
    let line = Line::new(login.clone());
    // The handshake is slow on a busy machine, and no part of what is tried here.
    line.offer(connect(&login, Duration::from_secs(60)).await.unwrap());
    let failures = user_probes::run(&probes, &line, limits, &tell).await;
    drop(tell);
    assert_eq!(failures, ["probe docker: failed with exit code 4; see the log"]);
    let step = Step::named("waiting for probe docker");
    assert_eq!(told.recv().await, Some(Event::Step(step.clone())));
    let detail = "(1 try: failed with exit code 4)".into();
    assert_eq!(told.recv().await, Some(Event::Step(Step { detail, ..step })));
    assert_eq!(guest.connections(), 1);
}

#[test]
fn the_marker_command_is_safe_with_any_id() {
    let command = probe::marker_command("iid-1'; reboot; '", Duration::from_secs(1));
    assert!(command.contains("*iid-1reboot*") && command.contains("-lt 2 "), "{command}");
}

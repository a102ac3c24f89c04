//! The guest agent in real guests: installed by a boot, reached over ssh as by a hostagent, restarted by the guest.

use std::future::Future;
use std::path::Path;
use std::time::Instant;

use limafs_guestagent::client::{self, Client};
use limafs_guestagent::proto::IpPort;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::common::shell::Job;
use crate::common::{Case, Failed, Fleet, Outcome, secs, wait_for, wait_until};
use crate::guest::{FAST_BOOT, FULL_BOOT, boot, fast, full, ssh, stop};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        x14_the_agent_tells_what_listens_and_systemd_restarts_it,
        a_guest_without_systemd_has_the_agent_and_a_plain_one_has_not,
    ]
}

const SOCKET: &str = "/run/lima-guestagent.sock";

/// The agent's socket on this side, for as long as the job lives.
fn forward(fleet: &Fleet, name: &str, more: &str) -> Result<Job, Failed> {
    let socket = fleet.root().join("ga.sock");
    std::fs::remove_file(&socket).ok();
    let line = format!(
        "exec ssh -F {name}/ssh.config -N -o ControlPath=none -o ExitOnForwardFailure=yes {more} -L {}:{SOCKET} lima-{name}",
        socket.display()
    );
    let job = fleet.start(&line)?;
    wait_for("the forwarded socket", secs(60), || socket.exists().then_some(()))?;
    Ok(job)
}

async fn connect(socket: &Path) -> Result<Client, Failed> {
    let (client, connection) = client::connect(UnixStream::connect(socket).await?).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn block_on<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { timeout(secs(60), work).await? })
}

/// Asks for the list until there is an answer: a service that has just been started serves a moment later.
fn info(fleet: &Fleet, name: &str) -> Result<Vec<IpPort>, Failed> {
    let begun = Instant::now();
    loop {
        let _forward = forward(fleet, name, "")?;
        let socket = fleet.root().join("ga.sock");
        match block_on(async { Ok(connect(&socket).await?.info().await?) }) {
            Ok(info) => return Ok(info.local_ports),
            Err(error) if begun.elapsed() > secs(60) => return Err(error),
            Err(_) => {}
        }
    }
}

fn has(ports: &[IpPort], port: i32) -> bool {
    ports.iter().any(|have| have.protocol == "tcp" && have.port == port)
}

fn x14_the_agent_tells_what_listens_and_systemd_restarts_it() -> Outcome {
    const PORT: i32 = 45_678;
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &full("")?)?;
    boot(&fleet, "foo", FULL_BOOT)?;
    let active = "timeout 60 sh -c 'until systemctl is-active --quiet lima-guestagent; do sleep 0.2; done'; systemctl is-active lima-guestagent";
    same!(ssh(&fleet, "foo", active)?, "active");
    let user = ssh(&fleet, "foo", "whoami")?;
    same!(ssh(&fleet, "foo", &format!("stat -c '%a %U' {SOCKET}"))?, format!("600 {user}"));
    ensure!(has(&info(&fleet, "foo")?, 22), "the list has no sshd");

    // A listener of the guest's sshd is seen by the hostagent, which alone follows the agent's events.
    let listen = format!("exec ssh -F foo/ssh.config -N -o ControlPath=none -R 127.0.0.1:{PORT}:127.0.0.1:1 lima-foo");
    let listener = fleet.start(&listen)?;
    let shown = || fleet.read("foo/ports").contains(&format!("127.0.0.1:{PORT} "));
    wait_until("the listener in ports", secs(60), shown)?;
    ensure!(has(&info(&fleet, "foo")?, PORT), "the list lacks the listener");
    drop(listener);
    wait_until("the listener's end", secs(60), || !shown())?;

    let pid = "systemctl show -p MainPID --value lima-guestagent";
    let before = ssh(&fleet, "foo", pid)?;
    ssh(&fleet, "foo", "sudo systemctl kill -s KILL lima-guestagent")?;
    let again =
        format!("timeout 60 sh -c 'until p=$({pid}); [ \"$p\" != 0 ] && [ \"$p\" != {before} ]; do sleep 0.2; done'");
    ssh(&fleet, "foo", &again)?;
    ensure!(has(&info(&fleet, "foo")?, 22), "the list of the restarted agent has no sshd");
    stop(&fleet, "foo")
}

const EXPRESSIONS: &str = "provision:\n\
    - {mode: data, path: /etc/app/daemon.json, content: '{\"debug\": true}'}\n\
    - {mode: yq, path: /etc/app/daemon.json, expression: '.features.live-restore = true', owner: 'daemon:daemon', permissions: '640'}\n\
    - {mode: yq, path: /etc/new/override.conf, format: ini, expression: '.Socket.SocketUser=\"{{.User}}\"'}\n";

fn a_guest_without_systemd_has_the_agent_and_a_plain_one_has_not() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast(EXPRESSIONS)?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let written =
        ssh(&fleet, "foo", "sudo cat /etc/app/daemon.json | tr -d ' \\n'; stat -c ' %U:%G %a' /etc/app/daemon.json")?;
    same!(written, "{\"debug\":true,\"features\":{\"live-restore\":true}} daemon:daemon 640");
    let user = ssh(&fleet, "foo", "whoami")?;
    same!(ssh(&fleet, "foo", "cat /etc/new/override.conf")?, format!("[Socket]\nSocketUser = {user}"));
    ssh(&fleet, "foo", &format!("timeout 60 sh -c 'until [ -S {SOCKET} ]; do sleep 0.2; done'"))?;
    ensure!(has(&info(&fleet, "foo")?, 22), "the list has no sshd");
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(5))?;

    fleet.create("bar", &fast("plain: true\n")?)?;
    boot(&fleet, "bar", FAST_BOOT)?;
    same!(
        ssh(&fleet, "bar", "ls /usr/local/bin/lima-guestagent /mnt/lima-cidata/lima-guestagent 2>/dev/null; true")?,
        ""
    );
    fleet.ok("echo kill > bar/state")?;
    fleet.wait_state("bar", "Stopped", secs(5))
}

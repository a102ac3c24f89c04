//! Waiting for a guest: until ssh answers, then until its boot scripts have ended. The guest says so over its boot port
//! where it has one; otherwise it is tried for, with fresh connections.
//!
//! A user network accepts a connection at once and asks a guest that has no network yet only after 6 s and 12 s more,
//! so one patient connection sees sshd late; hence many fresh ones. Short fixed limits on a busy host make the guest
//! fork sshd for nothing and never become ready; hence limits that grow.

pub mod ansible;
pub mod copies;
pub mod deliver;
mod lines;
pub mod probe;
pub mod user_probes;

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::line::Line;
use super::mounts::{self, Mounts};
use super::ssh::{Fault, Login, Session};
use super::state::{Event, Step};
use super::steps::Prepared;

/// How long ssh, and then the boot scripts, may take before the instance counts as degraded.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long one look at the guest's markers lasts, on the guest's side.
const LOOK: Duration = Duration::from_secs(300);
/// When a guest that should have reported by itself is tried for all the same.
const SILENCE: Duration = Duration::from_secs(15);

/// How often the number of tries is told anew.
const RETELL: Duration = Duration::from_secs(5);
/// Between two attempts of a driver's at what our ssh needs.
const INTRODUCE: Duration = Duration::from_secs(2);
const FOR_SSH: &str = "waiting for ssh";

type Tell = mpsc::Sender<Event>;

/// Waits for the guest of one boot and tells of what it finds; returns when there is nothing more to tell.
pub async fn await_guest(prepared: &Prepared, lines: mpsc::Receiver<String>, tell: &Tell) {
    let Some(line) = &prepared.line else {
        say(tell, Event::Ssh).await;
        return say(tell, Event::Done(vec![])).await;
    };
    let mut guest = lines::Guest::new(&prepared.facts.iid, lines);
    say(tell, Event::Step(Step::named(FOR_SSH))).await;
    introduce(prepared, tell).await;
    let login = line.login();
    let session = reach(&login, &mut guest, prepared.push, tell).await;
    if let Err(error) = session.trust(&login) {
        tracing::warn!("{error}");
    }
    prepared.mounts.begin_anew();
    line.offer(session);
    say(tell, Event::Ssh).await;
    if prepared.returned.swap(false, Ordering::Relaxed) {
        // Its boot scripts ended long ago.
        await_mounts(&prepared.mounts, tell).await;
        return say(tell, Event::Done(vec![])).await;
    }
    let mut failures = Vec::new();
    if !prepared.is_plain() && !prepared.facts.iid.is_empty() {
        say(tell, Event::Step(Step::named("waiting for cloud-init"))).await;
        failures = finish(line, &mut guest, tell).await;
    }
    if let Some(parcel) = prepared.parcel.as_ref().filter(|_| !prepared.is_plain()) {
        failures.extend(deliver::run(parcel, line, tell).await);
    }
    await_mounts(&prepared.mounts, tell).await;
    let dir = login.known_hosts.parent().unwrap_or(Path::new("/"));
    failures.extend(ansible::run(&prepared.config, dir, &login.alias, tell).await);
    failures.extend(user_probes::run(&prepared.probes, line, user_probes::LIMITS, tell).await);
    failures.extend(copies::run(&prepared.config, line, tell).await);
    say(tell, Event::Done(failures)).await;
}

/// Has the driver of a VM that is not of our making do what our ssh needs, as often as it takes.
async fn introduce(prepared: &Prepared, tell: &Tell) {
    let late = Instant::now() + PATIENCE;
    let (mut tries, mut told) = (0, false);
    while let Err(error) = prepared.driver.additional_setup_for_ssh().await {
        tries += 1;
        tracing::info!("{error}");
        say(tell, Event::Step(Step { detail: tried(tries, &error), ..Step::named(FOR_SSH) })).await;
        if !told && Instant::now() >= late {
            told = true;
            say(tell, Event::Late(format!("the guest is not ready after {} min: {error}", PATIENCE.as_secs() / 60)))
                .await;
        }
        sleep(INTRODUCE).await;
    }
}

/// Waits until it is known how the mounts are. Told on the way of the other events, so that an instance that lacks one is
/// never said to be Running before.
async fn await_mounts(mounts: &Mounts, tell: &Tell) {
    if !mounts.is_empty() {
        say(tell, Event::Step(Step::named("mounting directories of the host"))).await;
        let missing = match timeout(PATIENCE, mounts.settled()).await {
            Ok(()) => mounts.failures(),
            Err(_) => mounts.missing(),
        };
        say(tell, Event::Trouble(mounts::WHO, missing)).await;
    }
}

/// Comes back with a session in which a command ran. Tells once when that takes too long or cannot be, and goes on.
async fn reach(login: &Login, guest: &mut lines::Guest, push: bool, tell: &Tell) -> Session {
    let late = Instant::now() + PATIENCE;
    let mut probe = probe::Probe::new(login.clone());
    // The guest's word or its silence, whichever comes first.
    if push && timeout(SILENCE, guest.up()).await.is_ok() {
        probe.now();
    }
    let mut last = Fault::Unreachable("no answer".into());
    let mut told = Told::default();
    let (mut tries, mut retold) = (0, Instant::now());
    loop {
        // Every arm is cancel-safe: a JoinSet, a channel and a clock.
        tokio::select! {
            result = probe.next() => match result {
                Ok(session) => return session,
                Err(fault) => {
                    tries += 1;
                    let is_news = fault != last;
                    if is_news {
                        tracing::info!("{fault}");
                    }
                    last = fault;
                    if is_news || retold.elapsed() > RETELL {
                        retold = Instant::now();
                        let detail = tried(tries, &last);
                        say(tell, Event::Step(Step { detail, ..Step::named(FOR_SSH) })).await;
                    }
                }
            },
            () = guest.up() => probe.now(),
            () = sleep_until(late), if !told.late => {
                told.late = true;
                let why = format!("the guest is not ready after {} min: {last}", PATIENCE.as_secs() / 60);
                say(tell, Event::Late(why)).await;
                probe.slow_down();
            }
        }
        if matches!(last, Fault::HostKey(_)) && !told.host_key {
            told.host_key = true;
            say(tell, Event::Late(last.to_string())).await;
            probe.slow_down();
        }
    }
}

#[derive(Default)]
struct Told {
    late: bool,
    host_key: bool,
}

/// Waits for the end of the boot scripts: the guest's word, or its markers read in one long command. What failed.
async fn finish(line: &Line, guest: &mut lines::Guest, tell: &Tell) -> Vec<String> {
    let begun = Instant::now();
    let iid = guest.iid().to_owned();
    let mut told = false;
    loop {
        let seen = tokio::select! {         // cancel-safe: what the guest said is kept in `guest`; a look is repeated
            () = guest.done() => break,
            seen = look(line, &iid) => seen,
        };
        if let Some(failed) = seen {
            return failed;
        }
        if !told && begun.elapsed() >= PATIENCE {
            told = true;
            let why = format!("the boot scripts have not ended after {} min", PATIENCE.as_secs() / 60);
            say(tell, Event::Late(why)).await;
        }
    }
    conclude(line, guest).await
}

/// The guest said that it is done. Its own words name what failed.
async fn conclude(line: &Line, guest: &lines::Guest) -> Vec<String> {
    let mut failures = guest.failures();
    if failures.is_empty() && guest.exit() != Some(0) {
        // The names were lost on the way; the guest keeps them in a file.
        failures = look(line, guest.iid()).await.unwrap_or_default();
        if failures.is_empty() {
            failures.push(format!("the boot scripts ended with exit code {}", guest.exit().unwrap_or(-1)));
        }
    }
    failures
}

/// One look at the markers, that lasts until they are there or `LOOK` is over. `None`: not done yet.
async fn look(line: &Line, iid: &str) -> Option<Vec<String>> {
    let command = probe::marker_command(iid, LOOK);
    let session = timeout(PATIENCE, line.session()).await.ok()?;
    let result = session.exec(&command, LOOK + Duration::from_secs(30)).await;
    match result {
        Ok(output) if output.exit == Some(0) => Some(lines::failures_of_file(&output.stdout)),
        Ok(_) => None,
        Err(fault) => {
            tracing::info!("waiting for the boot scripts: {fault}");
            // A guest that restarts its sshd while it boots: the line is opened anew.
            line.lose(&session);
            None
        }
    }
}

/// For `status`: how often something was tried, and how it last went.
fn tried(tries: u32, last: &impl Display) -> String {
    format!("({tries} {}: {last})", if tries == 1 { "try" } else { "tries" })
}

async fn say(tell: &Tell, event: Event) {
    // Nobody listens any more: this wait was abandoned.
    let _ = tell.send(event).await;
}

//! The actor's tasks: at most one of each kind, and how an action becomes one. Knows no state.

use std::sync::Arc;
use std::time::Duration;

use limafs_driver::{Driver, SshLogin, Vm};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::actor::Actor;
use super::display;
use super::guest::{Company, Scene};
use super::ssh;
use super::state::{Action, Call, Event, Phase};
use super::steps::Prepared;
use super::wishes;
use crate::error::{Error, Result};
use crate::names::Home;
use crate::status::Refusal;

/// How long a guest has to power down; as long as Lima gives it.
const GRACE: Duration = Duration::from_secs(180);
/// What a driver may take beyond `GRACE`.
const SLACK: Duration = Duration::from_secs(20);
const CALL: Duration = Duration::from_secs(10);
/// A kill is quick, but a process on a busy disk is not.
const KILL: Duration = Duration::from_secs(30);
/// The memory of a large VM goes to a slow disk; drivers have limits of their own.
const SAVE: Duration = Duration::from_secs(1000);
const LAUNCH: Duration = Duration::from_secs(60);
/// For a VM whose driver waits for its address.
const LAUNCH_ELSEWHERE: Duration = Duration::from_secs(300);
/// A machine that is elsewhere is shut down and booted by whoever has it.
const RESET_ELSEWHERE: Duration = Duration::from_secs(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    Boot,
    Ready,
    Call(Call),
    Stop,
    Kill,
    /// The guest takes up what was added.
    Online,
    /// The driver is asked which snapshots there are.
    List,
    Window,
}

/// What a task ended with.
pub enum Done {
    Prepared(Box<Prepared>),
    /// And where its guest is, where that is known only now.
    Launched(Vm, Option<SshLogin>),
    Called(Call, std::result::Result<(), Refusal>),
    /// And whether the VM's memory is saved.
    Ended(std::result::Result<(), String>, bool),
    Ready,
    /// What somebody cannot do, as in `Event::Trouble`.
    Trouble(&'static str, Vec<String>),
}

#[derive(Default)]
pub struct Tasks {
    set: JoinSet<Result<Done>>,
    running: Vec<(Slot, AbortHandle)>,
}

impl Tasks {
    pub fn spawn(&mut self, slot: Slot, task: impl Future<Output = Result<Done>> + Send + 'static) {
        self.abandon(|other| other == slot);
        let handle = self.set.spawn(task);
        self.running.push((slot, handle));
    }

    /// Ends a task whose end is still waited for.
    pub fn abort(&mut self, slot: Slot) {
        self.running.iter().filter(|(other, _)| *other == slot).for_each(|(_, handle)| handle.abort());
    }

    /// Ends tasks and forgets them: `next` does not return them.
    pub fn abandon(&mut self, which: impl Fn(Slot) -> bool) {
        self.running.retain(|(slot, handle)| {
            let ends = which(*slot);
            if ends {
                handle.abort();
            }
            !ends
        });
    }

    /// The next task that ended. Cancel-safe. `None` when none runs.
    pub async fn next(&mut self) -> Option<(Slot, Result<Done>)> {
        loop {
            let (id, done) = match self.set.join_next_with_id().await? {
                Ok((id, done)) => (id, done),
                Err(error) => (error.id(), Err(Error::failed("a task of the hostagent", error))),
            };
            if let Some(index) = self.running.iter().position(|(_, handle)| handle.id() == id) {
                let (slot, _) = self.running.remove(index);
                return Some((slot, done));
            }
        }
    }
}

/// Where the guest of a running VM is, where its driver learns that only then. It may know more than the address.
pub async fn place(prepared: &Prepared) -> Result<Option<SshLogin>> {
    let driver = &prepared.driver;
    let Some(line) = prepared.line.as_ref().filter(|_| driver.info().features.dynamic_ssh_address) else {
        return Ok(None);
    };
    if let Some(place) = driver.ssh_login().await? {
        return Ok(Some(place));
    }
    let (address, login) = (driver.ssh_address().await?, line.login());
    match address.is_empty() {
        true => Err(Error::failed("the guest's address", "its driver does not say it")),
        false => Ok(Some(SshLogin { address, port: login.port, user: login.user.clone() })),
    }
}

impl Actor {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Accept | Action::Refuse(_) | Action::Leave => {}
            Action::Prepare => self.prepare(),
            Action::Launch => self.launch(),
            Action::AbortBoot => self.tasks.abort(Slot::Boot),
            Action::AwaitReady => self.await_ready(),
            Action::AbandonReady => self.abandon_ready(),
            Action::Call(call) => self.call(call),
            Action::Renew => self.renew(),
            Action::Stop => self.end(Slot::Stop),
            Action::Kill => self.end(Slot::Kill),
            Action::Forget => self.forget(),
        }
    }

    fn prepare(&mut self) {
        let (tell, news) = mpsc::channel(64);
        self.news = Some(news);
        let steps = Arc::clone(&self.steps);
        self.tasks.spawn(Slot::Boot, async move { Ok(Done::Prepared(Box::new(steps.prepare(&tell).await?))) });
    }

    fn launch(&mut self) {
        let Some(prepared) = self.prepared.clone() else { return };
        let dir = self.dir.clone();
        let is_elsewhere = prepared.driver.info().features.dynamic_ssh_address;
        let goes_on = self.machine.suspended;
        let limit = match (goes_on, is_elsewhere) {
            (true, _) => SAVE,
            (false, true) => LAUNCH_ELSEWHERE,
            (false, false) => LAUNCH,
        };
        self.tasks.spawn(Slot::Boot, async move {
            let late = |_| Error::Timeout { what: "starting the VM".into(), seconds: limit.as_secs() };
            let starting = async {
                let vm = prepared.driver.start().await?;
                match display::open(&*prepared.driver, &prepared.config, &dir).await {
                    // Its memory is nowhere else any more: better without a password than gone.
                    Err(error) if goes_on => tracing::warn!("the VM's display: {error}"),
                    opened => opened?,
                }
                Ok::<_, Error>((vm, place(&prepared).await?))
            };
            let (vm, place) = timeout(limit, starting).await.map_err(late)??;
            wishes::list(&*prepared.driver, &dir).await;
            Ok(Done::Launched(vm, place))
        });
    }

    /// Takes in where the guest is.
    pub(super) fn locate(&mut self, prepared: &Prepared, place: &SshLogin) {
        (self.facts.ssh_address, self.facts.ssh_local_port) = (place.address.clone(), place.port);
        let Some(line) = &prepared.line else { return };
        line.lead_to(place);
        if let Err(error) = ssh::config::write(&line.login()) {
            tracing::warn!("{error}");
        }
    }

    /// Has the driver open the VM's window, where one is wanted: it may stay in that call for as long as the window does.
    pub(super) fn open_window(&mut self) {
        let Some(prepared) = self.prepared.clone() else { return };
        let display = prepared.config.video.as_ref().and_then(|video| video.display.as_deref()).unwrap_or_default();
        if matches!(display, "" | "none") || !prepared.driver.info().features.can_run_gui {
            return;
        }
        self.tasks.spawn(Slot::Window, async move {
            let failed = prepared.driver.run_gui().await.err();
            let what = failed.map(|error| format!("the VM has no window: {error}"));
            Ok(Done::Trouble("window", what.into_iter().collect()))
        });
    }

    fn await_ready(&mut self) {
        let Some(prepared) = self.prepared.clone() else { return };
        let (tell, news) = mpsc::channel(64);
        let (lines_to, lines) = mpsc::channel(64);
        self.news = Some(news);
        self.lines = Some(lines_to);
        let steps = Arc::clone(&self.steps);
        self.tasks.spawn(Slot::Ready, async move {
            steps.await_ready(&prepared, lines, &tell).await;
            Ok(Done::Ready)
        });
    }

    fn abandon_ready(&mut self) {
        self.tasks.abandon(|slot| slot == Slot::Ready);
        self.news = None;
        self.lines = None;
    }

    fn call(&mut self, call: Call) {
        let Some(driver) = self.driver() else { return };
        let (wished, dir) = (self.wished.clone(), self.dir.clone());
        let limit = limit(call, driver.info().features.dynamic_ssh_address);
        self.tasks.spawn(Slot::Call(call), async move {
            let doing = async {
                match (call, wished) {
                    (Call::Pause, _) => Ok(driver.pause().await?),
                    (Call::Resume, _) => Ok(driver.resume().await?),
                    (Call::Reset, _) => Ok(driver.reset().await?),
                    (Call::Suspend, _) => Ok(driver.suspend().await?),
                    (_, Some(wish)) => wishes::carry_out(&*driver, wish, &dir).await,
                    (_, None) => Err(Error::failed("a wish", "was forgotten")),
                }
            };
            let late = || Error::Timeout { what: format!("{call:?}").to_lowercase(), seconds: limit.as_secs() };
            let result = timeout(limit, doing).await.unwrap_or_else(|_| Err(late()));
            let refusal = |error: Error| Refusal { message: error.to_string(), errno: error.errno() };
            Ok(Done::Called(call, result.map_err(refusal)))
        });
    }

    /// Ends the VM, gracefully or at once. Without a driver there is no VM.
    fn end(&mut self, slot: Slot) {
        let driver = self.driver();
        let guest = self.prepared.clone();
        let limit = if slot == Slot::Stop { GRACE + SLACK } else { KILL };
        self.tasks.spawn(slot, async move {
            let Some(driver) = driver else { return Ok(Done::Ended(Ok(()), false)) };
            let doing = async {
                match slot {
                    Slot::Stop => {
                        if let Some(guest) = guest {
                            guest.take_leave().await;
                        }
                        driver.stop(GRACE).await
                    }
                    _ => driver.kill().await,
                }
            };
            let result = match timeout(limit, doing).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err(format!("ending the VM took longer than {} s", limit.as_secs())),
            };
            Ok(Done::Ended(result, driver.is_suspended().await.unwrap_or(false)))
        });
    }

    /// Sees to it that a guest has company, and that it knows how the VM is.
    pub(super) fn accompany(&mut self) {
        if let Some(company) = &self.company {
            company.show(Scene { settled: self.machine.settled, paused: self.machine.phase == Phase::Paused });
        }
        if self.company.is_some() || !self.machine.is_live() {
            return;
        }
        let Some(prepared) = &self.prepared else { return };
        self.drivers.send_replace(Some(Arc::clone(&prepared.driver)));
        let home = Home::at(self.dir.parent().unwrap_or(&self.dir));
        self.company = Company::begin(&home, &self.dir, prepared);
        self.line.send_replace(prepared.line.clone());
        if let Some(line) = &prepared.line
            && self.machine.settled
        {
            line.begin();
        }
    }

    /// Drops what is connected to the guest; others take its place when the guest is there again.
    fn renew(&mut self) {
        self.abandon_ready();
        self.company = None;
        self.forwards = Arc::from([]);
        self.line.send_replace(None);
        self.prepared = self.prepared.as_ref().map(|prepared| Arc::new(prepared.renewed()));
    }

    fn forget(&mut self) {
        self.abandon_ready();
        self.company = None;
        self.forwards = Arc::from([]);
        self.line.send_replace(None);
        self.drivers.send_replace(None);
        self.wished = None;
        // Whoever waits is told that the hostagent has nothing more to say.
        self.asker = None;
        let of_vm = |slot| !matches!(slot, Slot::Boot | Slot::Ready);
        self.tasks.abandon(of_vm);
        self.vm = None;
        self.facts.driver_pid = None;
        self.facts.accelerator = None;
    }

    /// Takes up what an ended task brought, and says what it means.
    pub(super) fn take_up(&mut self, slot: Slot, done: Result<Done>) -> Event {
        match (slot, done) {
            (_, Ok(Done::Prepared(prepared))) => {
                self.facts = prepared.facts.clone();
                self.prepared = Some(Arc::new(*prepared));
                Event::Prepared
            }
            (_, Ok(Done::Launched(vm, place))) => {
                if let (Some(prepared), Some(place)) = (self.prepared.clone(), place) {
                    self.locate(&prepared, &place);
                }
                self.facts.driver_pid = vm.pid;
                self.facts.accelerator = vm.accelerator;
                self.vm = Some(vm.events);
                self.open_window();
                Event::Launched
            }
            (Slot::Boot, Err(_)) if self.machine.phase == Phase::Aborting => Event::BootAborted,
            (Slot::Boot, Err(error)) => Event::BootFailed(sentences(&error)),
            (_, Ok(Done::Trouble(who, what))) => Event::Trouble(who, what),
            (_, Ok(Done::Called(call, result))) => {
                self.wish_ended(call, &result);
                Event::Called(call, result.map_err(|refusal| refusal.message))
            }
            (slot @ (Slot::Stop | Slot::Kill), Ok(Done::Ended(result, saved))) => {
                self.advance(Event::Saved(saved), None);
                if slot == Slot::Stop { Event::Stopped(result) } else { Event::Killed(result) }
            }
            (Slot::Stop, Err(error)) => Event::Stopped(Err(error.to_string())),
            (Slot::Kill, Err(error)) => Event::Killed(Err(error.to_string())),
            (Slot::Call(call), Err(error)) => Event::Called(call, Err(error.to_string())),
            (_, Err(error)) => Event::Late(error.to_string()),
            (_, Ok(_)) => Event::Late("the wait for the guest ended".into()),
        }
    }

    fn driver(&self) -> Option<Arc<dyn Driver>> {
        self.prepared.as_ref().map(|prepared| Arc::clone(&prepared.driver))
    }
}

/// What a driver may take for a call.
fn limit(call: Call, is_elsewhere: bool) -> Duration {
    match call {
        call if call.holds_the_vm() => SAVE,
        Call::Reset if is_elsewhere => RESET_ELSEWHERE,
        _ => CALL,
    }
}

/// The sentences of an error, one each.
fn sentences(error: &Error) -> Vec<String> {
    match error {
        Error::Document(lines) => lines.clone(),
        error => vec![error.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_elsewhere_has_the_time_that_docker_machine_gives_a_restart() {
        assert!(limit(Call::Reset, true) > Duration::from_secs(180));
        assert_eq!(
            [limit(Call::Reset, false), limit(Call::Pause, true), limit(Call::Suspend, true)],
            [CALL, CALL, SAVE]
        );
    }
}

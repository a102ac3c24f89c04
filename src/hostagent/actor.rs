//! The one owner of an instance's live state: a loop over requests, the VM's events and the ends of its own tasks.
//! Decides nothing (`state` does) and never waits inside the loop: every action is a task beside it.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use limafs_driver::{Driver, VmEvent};
use tokio::sync::{mpsc, oneshot, watch};

use super::events::Journal;
use super::facts::{Facts, compose};
use super::guest::{Company, News};
use super::line::Line;
use super::state::{self, Action, Event, Machine};
use super::steps::{Prepared, Steps};
use super::tasks::{Done, Slot, Tasks};
use super::wishes::Wish;
use crate::error::Result;
use crate::names::Name;
use crate::status::{Forward, Refusal, Status, Verb};
use crate::store::{self, Record};

/// The status that a verb has led to, or why it is refused.
pub type Answer = std::result::Result<Box<Status>, Refusal>;

/// What is sent to the actor.
#[derive(Debug)]
pub enum Request {
    Verb {
        verb: Verb,
        answer: oneshot::Sender<Answer>,
    },
    Wish {
        wish: Wish,
        answer: oneshot::Sender<Answer>,
    },
    /// SIGINT
    Interrupt,
    /// SIGTERM: leave the VM running and go.
    Detach,
}

/// How a hostagent came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The VM is gone and nothing else is wanted.
    AtRest,
    Detached,
}

pub struct Actor {
    pub(super) name: Name,
    pub(super) dir: PathBuf,
    pub(super) steps: Arc<dyn Steps>,
    pub(super) machine: Machine,
    pub(super) since: Timestamp,
    step_since: Timestamp,
    pub(super) facts: Facts,
    pub(super) prepared: Option<Arc<Prepared>>,
    pub(super) tasks: Tasks,
    /// From the boot or from the wait for the guest, never both.
    pub(super) news: Option<mpsc::Receiver<Event>>,
    pub(super) vm: Option<mpsc::Receiver<VmEvent>>,
    /// Those who work beside the guest.
    pub(super) company: Option<Company>,
    /// What the call under way is to do, and who is told of its end.
    pub(super) wished: Option<Wish>,
    pub(super) asker: Option<oneshot::Sender<Answer>>,
    /// For those who only look.
    pub(super) drivers: watch::Sender<Option<Arc<dyn Driver>>>,
    /// As they last said.
    pub(super) forwards: Arc<[Forward]>,
    /// The way to the guest of the VM that runs, for those who work beside the actor.
    pub(super) line: watch::Sender<Option<Arc<Line>>>,
    /// To whoever waits for the guest.
    pub(super) lines: Option<mpsc::Sender<String>>,
    pub(super) journal: Journal,
    written: Option<Record>,
    boot_id: String,
    requests: mpsc::Receiver<Request>,
    status: watch::Sender<Status>,
    /// Whose verb ends this hostagent: answered with the last status.
    last: Vec<oneshot::Sender<Answer>>,
    end: Option<End>,
}

/// What an actor begins with.
pub struct Setup {
    pub name: Name,
    pub dir: PathBuf,
    pub steps: Arc<dyn Steps>,
    pub record: Option<Record>,
    pub journal: Journal,
    pub requests: mpsc::Receiver<Request>,
}

/// One turn of the loop.
enum Input {
    Request(Request),
    Event(Event),
    Line(String),
    Forwards(Arc<[Forward]>),
    Done(Slot, Result<Done>),
}

impl Actor {
    pub fn new(setup: Setup) -> Self {
        let Setup { name, dir, steps, record, journal, requests } = setup;
        let facts = Facts {
            driver: record.as_ref().map(|record| record.driver.clone()).unwrap_or_default(),
            ssh_local_port: record.as_ref().map_or(0, |record| record.ssh_local_port),
            dns: record.as_ref().and_then(|record| record.dns),
            ..Facts::default()
        }
        .of_suspended(record.as_ref());
        // What the driver says counts, when it can be asked.
        let suspended = record.as_ref().is_some_and(|record| record.suspended);
        let machine = Machine { suspended, ..Machine::default() };
        let since = Timestamp::now();
        let (status, _) = watch::channel(compose(&name, &machine, &facts, [since; 2]));
        Self {
            name,
            dir,
            steps,
            machine,
            since,
            step_since: since,
            facts,
            prepared: None,
            tasks: Tasks::default(),
            news: None,
            vm: None,
            company: None,
            wished: None,
            asker: None,
            drivers: watch::Sender::new(None),
            forwards: Arc::from([]),
            line: watch::Sender::new(None),
            lines: None,
            journal,
            written: record,
            boot_id: store::boot_id(),
            requests,
            status,
            last: Vec::new(),
            end: None,
        }
    }

    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// The line to the guest, for as long as a VM runs.
    pub fn line(&self) -> watch::Receiver<Option<Arc<Line>>> {
        self.line.subscribe()
    }

    /// The driver, for as long as a VM runs.
    pub fn driver_watch(&self) -> watch::Receiver<Option<Arc<dyn Driver>>> {
        self.drivers.subscribe()
    }

    /// Runs until nothing more is wanted, begun by `first`. The final status is not published yet: the caller does so
    /// with [`Actor::close`] when a next hostagent may come.
    pub async fn run(&mut self, first: Vec<Event>) -> End {
        for event in first {
            self.advance(event, None);
        }
        loop {
            if let Some(end) = self.end {
                return end;
            }
            match self.next().await {
                Input::Request(Request::Verb { verb, answer }) => self.advance(Event::Verb(verb), Some(answer)),
                Input::Request(Request::Wish { wish, answer }) => self.wish(wish, answer),
                Input::Request(Request::Interrupt) => self.advance(Event::Interrupt, None),
                Input::Request(Request::Detach) => self.detach(),
                Input::Event(event) => self.advance(event, None),
                Input::Line(line) => self.pass_on(line),
                Input::Forwards(forwards) => {
                    self.forwards = forwards;
                    self.publish();
                }
                Input::Done(slot, done) => {
                    let event = self.take_up(slot, done);
                    self.advance(event, None);
                }
            }
        }
    }

    /// Publishes the last status and ends all that follows this actor.
    pub fn close(mut self) {
        self.publish();
        for answer in std::mem::take(&mut self.last) {
            self.accept(answer);
        }
        self.journal.exiting();
    }

    /// Publishes the present status to followers.
    fn publish(&mut self) {
        let mut status = compose(&self.name, &self.machine, &self.facts, [self.since, self.step_since]);
        status.guest = status.ready && self.prepared.as_ref().is_some_and(|prepared| prepared.line.is_some());
        if self.machine.vm {
            status.forwards.extend(self.forwards.iter().cloned());
        }
        self.journal.changed(&status);
        self.status.send_if_modified(|old| {
            status.revision = old.revision;
            let changed = *old != status;
            if changed {
                status.revision += 1;
                *old = status;
            }
            changed
        });
    }

    /// The next thing that happens. Every arm is cancel-safe: channels and a JoinSet. The VM's own words come before
    /// the ends of calls, so that its view of a pause is known before the call that made it returns.
    async fn next(&mut self) -> Input {
        loop {
            let input = tokio::select! {
                biased;
                Some(request) = self.requests.recv() => Input::Request(request),
                event = from_vm(&mut self.vm) => match event {
                    VmEvent::Boot(line) => Input::Line(line),
                    event => Input::Event(Event::Vm(event)),
                },
                Some(event) = from_task(&mut self.news) => Input::Event(event),
                Some(input) = from_company(&mut self.company) => input,
                Some((slot, done)) = self.tasks.next() => Input::Done(slot, done),
            };
            match input {
                Input::Done(Slot::Ready | Slot::Online | Slot::List, Ok(_)) => continue,
                input => return input,
            }
        }
    }

    pub(super) fn advance(&mut self, event: Event, answer: Option<oneshot::Sender<Answer>>) {
        let adopts = matches!(event, Event::Adopt(_));
        if let Event::Driver(name) = &event {
            self.facts.driver = name.clone();
        }
        let (next, actions) = state::step(&self.machine, event);
        if adopts || next.state() != self.machine.state() {
            let kept = self.written.as_ref().filter(|record| adopts && record.state == next.state());
            self.since = kept.map_or_else(Timestamp::now, |record| record.since);
        }
        let step = |machine: &Machine| machine.step.as_ref().map(|step| step.name.clone());
        if step(&next) != step(&self.machine) {
            self.step_since = Timestamp::now();
        }
        self.machine = next;
        if let Err(error) = self.write_down() {
            tracing::error!("{error}");
            // A VM is never started without its intent on disk; all else goes on without.
            if actions.contains(&Action::Launch) {
                self.machine.vm = false;
                return self.advance(Event::BootFailed(vec![error.to_string()]), None);
            }
        }
        if actions.contains(&Action::Leave) {
            self.end = Some(End::AtRest);
        } else {
            self.publish();
        }
        if let Some(answer) = answer {
            self.answer(&actions, answer);
        }
        self.accompany();
        for action in actions {
            self.perform(action);
        }
    }

    fn answer(&mut self, actions: &[Action], answer: oneshot::Sender<Answer>) {
        let refusal = actions.iter().find_map(|action| match action {
            Action::Refuse(why) => Some(Refusal { message: format!("{}: {why}", self.name), errno: libc::EBUSY }),
            _ => None,
        });
        match refusal {
            // Whoever asked may have hung up; here and below.
            Some(refusal) => drop(answer.send(Err(refusal))),
            None if self.end.is_some() => self.last.push(answer),
            None => self.accept(answer),
        }
    }

    pub(super) fn accept(&self, answer: oneshot::Sender<Answer>) {
        let _ = answer.send(Ok(Box::new(self.status.borrow().clone())));
    }

    /// Writes the record when what it holds has changed.
    fn write_down(&mut self) -> Result<()> {
        let record = Record {
            state: self.machine.state(),
            goal: self.machine.goal,
            since: self.since,
            boot_id: self.boot_id.clone(),
            driver: self.facts.driver.clone(),
            driver_pid: self.facts.driver_pid.filter(|_| self.machine.vm),
            iid: self.facts.iid.clone(),
            ssh_local_port: self.facts.ssh_local_port,
            dns: self.facts.dns,
            started: self.facts.started.clone().filter(|_| self.machine.vm || self.machine.suspended),
            suspended: self.machine.suspended,
            step: self.machine.step.as_ref().map(|step| step.name.clone()),
            errors: self.machine.errors(),
        };
        if self.written.as_ref() != Some(&record) {
            store::set_record(&self.dir, &record)?;
            self.written = Some(record);
        }
        Ok(())
    }

    /// Leaves the VM as it is. A boot that has not come to a VM yet ends here, and the record says so.
    fn detach(&mut self) {
        self.end = Some(End::Detached);
        if self.machine.vm {
            return;
        }
        let step = self.machine.step.take().map_or_else(|| "starting".into(), |step| step.name);
        self.machine = Machine {
            phase: state::Phase::Broken,
            goal: self.machine.goal,
            failures: vec![format!("the hostagent was told to exit while {step}")],
            ..Machine::default()
        };
        if let Err(error) = self.write_down() {
            tracing::error!("{error}");
        }
    }

    /// Gives a line of the guest to whoever waits for the guest; with nobody waiting it means nothing.
    fn pass_on(&mut self, line: String) {
        if let Some(lines) = &self.lines {
            // Full means a guest that floods its boot channel; losing lines is its own loss.
            let _ = lines.try_send(line);
        }
    }
}

async fn from_company(company: &mut Option<Company>) -> Option<Input> {
    let Some(company) = company else { return std::future::pending().await };
    Some(match company.next().await? {
        News::Event(event) => Input::Event(event),
        News::Forwards(forwards) => Input::Forwards(forwards),
    })
}

async fn from_vm(events: &mut Option<mpsc::Receiver<VmEvent>>) -> VmEvent {
    let Some(receiver) = events else { return std::future::pending().await };
    match receiver.recv().await {
        Some(event) => event,
        None => {
            *events = None;
            VmEvent::Exited { clean: false, reason: "its driver stopped reporting".into() }
        }
    }
}

async fn from_task(news: &mut Option<mpsc::Receiver<Event>>) -> Option<Event> {
    let Some(receiver) = news else { return std::future::pending().await };
    match receiver.recv().await {
        Some(event) => Some(event),
        None => {
            *news = None;
            std::future::pending().await
        }
    }
}

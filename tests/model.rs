//! Random operations on the tree, with real hostagents and the pretend driver, compared with a model after each:
//! names, states, documents, marks of protection, and the errno of every refusal. Hostagents and VMs are killed and the
//! tree is taken down and put up again in between; neither may change anything that the model knows.
//!
//! The binary is its own hostagent (`hostagent NAME`), as limafs is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use limafs::error::Result;
use limafs::host::Host;
use limafs::names::{Home, Name};
use limafs::status::{State, Verb};
use limafs::view::{Caller, Got, Ino, Outcome, View};
use limafs::{agent, hostagent, store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// How long anything may take to settle on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|word| word == "hostagent") {
        let home = Home::at(std::env::var_os("LIMA_HOME").expect("the mount sets it"));
        let name = Name::parse(&words[2]).expect("the mount passes a valid name");
        let done = match words.get(3).map(String::as_str) {
            Some("--at-rest") => hostagent::rest::run(home, name, &words[4]),
            option => hostagent::run(home, name, option == Some("--adopt")),
        };
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let trial = libtest_mimic::Trial::test("the_tree_does_what_the_model_does", || {
        let config = Config { cases: cases(), max_shrink_iters: 12, failure_persistence: None, ..Config::default() };
        // Two instances run before the random part: most of what can go wrong needs one that does.
        let operations =
            proptest::collection::vec(operation(), 40).prop_map(|random| [running(0), running(1), random].concat());
        TestRunner::new(config)
            .run(&operations, |operations| World::new().play(&operations))
            .map_err(|error| error.to_string().into())
    });
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), vec![trial]).exit_code()
}

fn running(name: usize) -> Vec<Operation> {
    vec![Operation::Make(name), Operation::Define(name, Document::Valid(1)), Operation::Verb(name, Verb::Start)]
}

fn cases() -> u32 {
    std::env::var("LIMAFS_MODEL_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(6)
}

#[derive(Debug, Clone)]
enum Operation {
    Make(usize),
    Remove(usize),
    Move(usize, usize),
    Define(usize, Document),
    Protect(usize, bool),
    Verb(usize, Verb),
    KillAgent(usize),
    KillVm(usize),
    Remount,
}

#[derive(Debug, Clone, Copy)]
enum Document {
    Valid(u8),
    Invalid,
}

fn operation() -> impl Strategy<Value = Operation> {
    let name = || 0..NAMES.len();
    let document = prop_oneof![4 => (1..4u8).prop_map(Document::Valid), 1 => Just(Document::Invalid)];
    let verb = proptest::sample::select(Verb::ALL.to_vec());
    prop_oneof![
        3 => name().prop_map(Operation::Make),
        1 => name().prop_map(Operation::Remove),
        1 => (name(), name()).prop_map(|(from, to)| Operation::Move(from, to)),
        4 => (name(), document).prop_map(|(name, document)| Operation::Define(name, document)),
        1 => (name(), any::<bool>()).prop_map(|(name, on)| Operation::Protect(name, on)),
        1 => name().prop_map(|name| Operation::Define(name, Document::Valid(2))),
        12 => (name(), verb).prop_map(|(name, verb)| Operation::Verb(name, verb)),
        8 => name().prop_map(|name| Operation::Verb(name, Verb::Start)),
        4 => name().prop_map(Operation::KillAgent),
        1 => name().prop_map(Operation::KillVm),
        2 => Just(Operation::Remount),
    ]
}

fn text(document: Document) -> String {
    match document {
        Document::Valid(cpus) => {
            format!("# {cpus}\nvmType: fake\nimages: [{{location: /etc/hostname}}]\ncpus: {cpus}\n")
        }
        Document::Invalid => "cpus: many\n".into(),
    }
}

/// What the model knows of an instance.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    state: State,
    text: String,
    protected: bool,
}

struct World {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    view: View,
    model: BTreeMap<&'static str, Expected>,
    /// The latest sentence.
    refusal: String,
}

fn start_view(dir: &std::path::Path, runtime: &tokio::runtime::Runtime) -> View {
    let view = View::new(Home::at(dir), Host::detect().expect("this host has facts"), false);
    runtime.block_on(async { view.start().expect("the home is readable") });
    view
}

impl World {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("lm").tempdir_in("/tmp").expect("a directory");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let view = start_view(dir.path(), &runtime);
        Self { dir, runtime, view, model: BTreeMap::new(), refusal: String::new() }
    }

    fn play(mut self, operations: &[Operation]) -> std::result::Result<(), TestCaseError> {
        for operation in operations {
            let expected = self.predict(operation);
            let errno = self.perform(operation);
            prop_assert_eq!(errno, expected, "{:?} ({}) in {:?}", operation, self.refusal, self.model);
            self.compare(operation)?;
        }
        Ok(())
    }

    /// Changes the model; says the errno that the tree must answer with, 0 for success.
    fn predict(&mut self, operation: &Operation) -> i32 {
        match operation {
            Operation::Make(name) => {
                if self.model.contains_key(NAMES[*name]) {
                    return libc::EEXIST;
                }
                let draft = Expected { state: State::Uninitialized, text: String::new(), protected: false };
                self.model.insert(NAMES[*name], draft);
                0
            }
            Operation::Remove(name) => match self.model.get(NAMES[*name]) {
                None => libc::ENOENT,
                Some(known) if known.protected => libc::EPERM,
                Some(known) if known.state.is_live() || known.state == State::Suspended => libc::EBUSY,
                Some(_) => {
                    self.model.remove(NAMES[*name]);
                    0
                }
            },
            Operation::Move(from, to) => self.predict_move(NAMES[*from], NAMES[*to]),
            Operation::Define(name, document) => match (self.model.get_mut(NAMES[*name]), document) {
                (None, _) => libc::ENOENT,
                (Some(_), Document::Invalid) => libc::EINVAL,
                (Some(known), Document::Valid(_)) => {
                    known.text = text(*document);
                    if known.state == State::Uninitialized {
                        known.state = State::Stopped;
                    }
                    0
                }
            },
            Operation::Protect(name, on) => match self.model.get_mut(NAMES[*name]) {
                None => libc::ENOENT,
                Some(known) => {
                    known.protected = *on;
                    0
                }
            },
            Operation::Verb(name, verb) => match self.model.get_mut(NAMES[*name]) {
                None => libc::ENOENT,
                Some(known) => predict_verb(known, *verb),
            },
            Operation::KillVm(name) => {
                if let Some(known) = self.model.get_mut(NAMES[*name])
                    && known.state.is_live()
                {
                    known.state = State::Broken;
                }
                0
            }
            Operation::KillAgent(_) | Operation::Remount => 0,
        }
    }

    fn predict_move(&mut self, from: &'static str, to: &'static str) -> i32 {
        match self.model.get(from) {
            None => libc::ENOENT,
            // rename(2) of a name onto itself does nothing, whatever it is; the kernel answers that itself.
            Some(_) if from == to => libc::ENOTEMPTY,
            Some(_) if self.model.contains_key(to) => libc::ENOTEMPTY,
            Some(known) if known.state.is_live() || known.state == State::Suspended => libc::EBUSY,
            Some(_) => {
                let moved = self.model.remove(from).expect("looked at above");
                self.model.insert(to, moved);
                0
            }
        }
    }

    fn perform(&mut self, operation: &Operation) -> i32 {
        let done = match operation {
            Operation::Make(name) => self.finish(self.view.mkdir(caller(), Ino::ROOT, NAMES[*name])).map(|_| ()),
            Operation::Remove(name) => self.finish(self.view.rmdir(caller(), Ino::ROOT, NAMES[*name])),
            Operation::Move(from, to) => {
                let (from, to) = ((Ino::ROOT, NAMES[*from]), (Ino::ROOT, NAMES[*to]));
                self.finish(self.view.rename(caller(), from, to, false))
            }
            Operation::Define(name, document) => self.write(NAMES[*name], "lima.yaml", &text(*document)),
            Operation::Protect(name, on) => self.write(NAMES[*name], "protected", if *on { "1\n" } else { "0\n" }),
            Operation::Verb(name, verb) => self.write(NAMES[*name], "state", verb.word()),
            Operation::KillAgent(name) => {
                self.kill_agent(NAMES[*name]);
                Ok(())
            }
            Operation::KillVm(name) => {
                self.kill_vm(NAMES[*name]);
                Ok(())
            }
            Operation::Remount => {
                // All that the old tree was doing ends with its runtime, as it would with its process.
                let fresh = tokio::runtime::Runtime::new().expect("a runtime");
                std::mem::replace(&mut self.runtime, fresh).shutdown_background();
                self.view = start_view(self.dir.path(), &self.runtime);
                Ok(())
            }
        };
        match done {
            Ok(()) => 0,
            Err(error) => {
                self.refusal = error.to_string();
                error.errno()
            }
        }
    }

    fn finish<T: Send + 'static>(&self, outcome: Outcome<T>) -> Result<T> {
        match outcome {
            Outcome::Now(done) => done,
            Outcome::Later(future) => self.runtime.block_on(future),
        }
    }

    fn node(&self, name: &str, node: &str) -> Result<Ino> {
        let instance = self.view.lookup(caller(), Ino::ROOT, name)?;
        Ok(self.view.lookup(caller(), instance.ino, node)?.ino)
    }

    /// As a shell's `>` does it.
    fn write(&self, name: &str, node: &str, text: &str) -> Result<()> {
        let ino = self.node(name, node)?;
        let opened = self.view.open(caller(), ino, libc::O_WRONLY | libc::O_TRUNC)?;
        let written = self.finish(self.view.write(ino, opened.fh, 0, text.as_bytes()));
        let flushed = written.and_then(|_| self.finish(self.view.flush(caller(), opened.fh)));
        self.view.release(opened.fh);
        flushed
    }

    fn read(&self, name: &str, node: &str) -> Result<String> {
        let opened = self.view.open(caller(), self.node(name, node)?, libc::O_RDONLY)?;
        let got = self.view.read(opened.fh, 0, 1 << 20)?;
        self.view.release(opened.fh);
        let bytes = match got {
            Got::Bytes(bytes) => bytes,
            Got::Slice(bytes, range) => bytes[range].to_vec(),
            Got::Wait => Vec::new(),
        };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn instance_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn kill_agent(&self, name: &str) {
        let pid = std::fs::read_to_string(self.instance_dir(name).join("ha.pid")).ok();
        kill(pid.and_then(|text| text.trim().parse().ok()));
    }

    fn kill_vm(&self, name: &str) {
        kill(
            store::record(&self.instance_dir(name)).filter(|r| r.state.is_live()).and_then(|record| record.driver_pid),
        );
    }

    /// Waits until the tree shows what the model says; a difference that stays is a failure.
    fn compare(&self, after: &Operation) -> std::result::Result<(), TestCaseError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.shown();
            if shown == self.model {
                return Ok(());
            }
            if Instant::now() > deadline {
                let logs: Vec<_> =
                    NAMES.iter().map(|name| (name, agent::last_words(&self.instance_dir(name)))).collect();
                let errors: Vec<_> = NAMES.iter().map(|name| self.read(name, "error")).collect();
                return Err(TestCaseError::fail(format!(
                    "after {after:?}\nthe model says {:?}\nthe tree shows {shown:?}\nerrors {errors:?}\nlogs {logs:?}",
                    self.model
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn shown(&self) -> BTreeMap<&'static str, Expected> {
        let mut shown = BTreeMap::new();
        for name in NAMES {
            let node = |node| self.read(name, node);
            if let (Ok(state), Ok(text), Ok(protected)) = (node("state"), node("lima.yaml"), node("protected"))
                && let Some(state) = State::parse(state.trim())
            {
                shown.insert(name, Expected { state, text, protected: protected == "1\n" });
            }
        }
        shown
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in NAMES {
            self.kill_vm(name);
        }
        for name in NAMES {
            self.kill_agent(name);
        }
    }
}

fn predict_verb(known: &mut Expected, verb: Verb) -> i32 {
    use State::{Broken, Paused, Running, Stopped, Suspended, Uninitialized};
    match (known.state, verb) {
        (Uninitialized, Verb::Stop | Verb::Kill) => 0,
        (Uninitialized, _) => libc::EBUSY,
        (Stopped | Broken, Verb::Start) => {
            known.state = Running;
            0
        }
        (Stopped | Broken, Verb::Stop | Verb::Kill) => {
            known.state = Stopped;
            0
        }
        (Stopped | Broken, _) => libc::EBUSY,
        (Suspended, Verb::Suspend) => 0,
        // What was saved is given up by kill alone.
        (Suspended, Verb::Stop | Verb::Restart | Verb::Pause | Verb::Reset) => libc::EBUSY,
        (_, Verb::Suspend) => {
            known.state = Suspended;
            0
        }
        (_, Verb::Stop | Verb::Kill) => {
            known.state = Stopped;
            0
        }
        (_, Verb::Start | Verb::Resume | Verb::Restart) => {
            known.state = Running;
            0
        }
        (Running, Verb::Pause) => {
            known.state = Paused;
            0
        }
        (Paused, Verb::Pause) | (Running, Verb::Reset) => 0,
        // Pressing reset on a paused machine: refused, the guest would not run afterwards.
        (Paused, Verb::Reset) => libc::EBUSY,
        (state, verb) => unreachable!("the tree has settled, but {state} {verb}"),
    }
}

fn caller() -> Caller {
    Caller { pid: std::process::id(), uid: 0 }
}

fn kill(pid: Option<u32>) {
    if let Some(pid) = pid.and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

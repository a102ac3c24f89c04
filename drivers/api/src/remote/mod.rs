//! A driver that is a program of its own: the trait over its socket. The program may be Lima's or anybody's, so that
//! each call has a deadline and what comes back is bounded.
//!
//! ```text
//!  configure, attach --> line: server found or started, Info, Configure --> Line --> calls
//!  start, attach ------> life: one stream of the server's ----------------> VmEvent
//!  VM gone ------------> server ended
//! ```

mod driver;
mod life;
mod line;
mod log;
mod once;
mod process;
mod program;
mod server;
mod spawn;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::task::JoinSet;

use self::life::Life;
use self::line::Line;
pub use self::program::Fault;
use self::program::Program;
pub use self::spawn::spawn;
use crate::wire::proto::driver::SetConfigRequest;
use crate::wire::{EXTRA_KEY, EXTRA_VERSION, tree};
use crate::{About, Error, Info, Instance, Result};

/// A name or an address of a driver's is no longer than this.
const WORD_MAX: usize = 256;

/// Runs one instance with the driver that the program `lima-driver-NAME` is.
///
/// Dropping it leaves a VM that runs with a driver of ours, and its server, for the next one to attach. A server of
/// Lima's own kills its VM then; without a VM the server is ended.
pub struct Remote {
    inner: Arc<Inner>,
    /// Look after the VM.
    tasks: Mutex<JoinSet<()>>,
}

struct Inner {
    name: Arc<str>,
    program: Program,
    /// Held over awaits, which is what it is for: of two calls one starts the server.
    line: tokio::sync::Mutex<Option<Line>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    info: Info,
    about: About,
    dir: Option<PathBuf>,
    /// The instance as it was sent last, whole: a new server is configured with it.
    configured: Option<Value>,
    /// What the driver made of it, and what of that we know.
    answered: Option<(Value, Value)>,
    life: Option<Life>,
    /// The server that is in use, for when there is no time to wait.
    server: Option<Arc<server::Server>>,
}

impl Remote {
    /// A driver by its name and program. Starts nothing. Without an instance directory, `configure` tells it.
    pub fn new(name: &str, program: PathBuf, instance_dir: Option<PathBuf>) -> Self {
        Self::guarded(name, program, instance_dir, |_| None)
    }

    /// As [`Remote::new`], of a program that is run only while `fault` has nothing against it. It is asked before every
    /// start of the program: a file that was good once may be another one when a dead server is started again.
    pub fn guarded(name: &str, program: PathBuf, instance_dir: Option<PathBuf>, fault: Fault) -> Self {
        let program = Program { path: program, fault };
        let info = Info { name: name.into(), ..Info::default() };
        let state = Mutex::new(State { info, dir: instance_dir, ..State::default() });
        let inner = Inner { name: name.into(), program, line: tokio::sync::Mutex::new(None), state };
        Self { inner: Arc::new(inner), tasks: Mutex::new(JoinSet::new()) }
    }

    /// Looks after a VM beside the calls.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let (server, life) = self.inner.state(|state| (state.server.take(), state.life.take()));
        match (server, life.filter(|life| !life.is_over())) {
            (Some(server), None) if server.is_ours.load(Ordering::Relaxed) => server.dismiss(),
            // It ends its VM when the stream does, and then itself.
            (Some(server), Some(life)) if life.is_limas() => server.ask_to_end(),
            _ => {}
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Remote").field("name", &self.inner.name).field("program", &self.inner.program.path).finish()
    }
}

impl Inner {
    fn state<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, why: impl ToString) -> Error {
        Error::failed(format!("driver {}", self.name), why)
    }

    fn dir(&self) -> Result<PathBuf> {
        self.state(|state| state.dir.clone()).ok_or_else(|| self.failed("is not configured"))
    }

    /// The connection to the server, which is started if there is none and then knows the instance.
    async fn line(&self) -> Result<Line> {
        let mut kept = self.line.lock().await;
        if let Some(line) = kept.as_ref().filter(|line| !line.is_closed()) {
            return Ok(line.clone());
        }
        *kept = None;
        let (server, stream) = server::find_or_start(&self.name, &self.program, &self.dir()?).await?;
        let line = Line::open(self.name.clone(), stream, server).await?;
        let opened = self.introduce(line.clone()).await;
        match opened {
            Ok(line) => {
                self.state(|state| state.server = Some(line.server.clone()));
                *kept = Some(line.clone());
                Ok(line)
            }
            Err(error) => {
                // As one that does not speak at all.
                line.server.kill().await;
                Err(error)
            }
        }
    }

    /// Asks a server what it is and tells it the instance.
    async fn introduce(&self, line: Line) -> Result<Line> {
        let has_extra = self.ask(&line).await?;
        let line = if has_extra { line.with_extra() } else { line };
        let configured = self.state(|state| state.configured.clone());
        if let Some(instance) = configured {
            self.send(&line, &instance).await?;
            self.ask(&line).await?;
        }
        Ok(line)
    }

    /// Asks what it is, which may depend on the instance; says whether it has our service.
    async fn ask(&self, line: &Line) -> Result<bool> {
        let answer = line.short("say what it is", line.lima.clone().info(())).await?;
        let value: Value = serde_json::from_slice(&answer.info_json).map_err(|error| self.failed(error))?;
        let has_extra = value[EXTRA_KEY].as_u64() == Some(EXTRA_VERSION);
        let mut info: Info = serde_json::from_value(value).map_err(|error| self.failed(error))?;
        for word in [&info.virtio_port, &info.boot_port, &info.instance_dir] {
            self.check_word(word)?;
        }
        // Its program's name is what `vmType` calls it by.
        info.name = self.name.to_string();
        self.state(|state| state.info = info);
        Ok(has_extra)
    }

    /// Words of a driver that become parts of paths and scripts.
    fn check_word(&self, word: &str) -> Result<()> {
        if word.len() > WORD_MAX || word.chars().any(char::is_control) {
            return Err(self.failed("gives a name that is none"));
        }
        Ok(())
    }

    async fn send(&self, line: &Line, instance: &Value) -> Result<Vec<u8>> {
        let request = SetConfigRequest { instance_config_json: instance.to_string().into_bytes() };
        Ok(line.short("configure", line.lima.clone().configure(request)).await?.instance_config_json)
    }

    /// Sends the instance with all that the driver once answered and we do not know.
    async fn configure(&self, instance: Instance) -> Result<Instance> {
        let to_value = |instance: &Instance| serde_json::to_value(instance).map_err(|error| self.failed(error));
        let mut whole = to_value(&instance)?;
        if let Some((answered, known)) = self.state(|state| state.answered.clone()) {
            tree::keep_unknown(&mut whole, &answered, &known);
        }
        self.state(|state| {
            state.dir = Some(instance.dir.clone());
            // A server that is started from here on is told by us.
            state.configured = None;
        });
        let line = self.line().await?;
        let answer = self.send(&line, &whole).await?;
        let configured = match answer.is_empty() && line.server.is_old {
            true => instance,
            false => {
                let value: Value = serde_json::from_slice(&answer).map_err(|error| self.failed(error))?;
                let configured: Instance = serde_json::from_value(value.clone()).map_err(|error| self.failed(error))?;
                let known = to_value(&configured)?;
                self.state(|state| state.answered = Some((value, known)));
                // Whatever it answers, it has no say in which instance this is.
                Instance { name: instance.name, dir: instance.dir, ..configured }
            }
        };
        self.ask(&line).await?;
        self.state(|state| state.configured = Some(whole));
        Ok(configured)
    }
}

//! A driver to begin one's own with. Its VM is any program: `vmOpts.example.program`. The end of the program's standard
//! input is the VM's power button.

mod vm;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use limafs_driver::{Driver, Error, Features, Info, Instance, Result, Vm};
use serde::Deserialize;

use crate::vm::Running;

/// A driver's whole main: sockets, signals and both protocols are in there.
fn main() -> ExitCode {
    limafs_driver::serve(Example::default())
}

/// One value serves one instance.
#[derive(Default)]
struct Example {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// As configured last.
    instance: Option<Instance>,
    running: Option<Running>,
}

/// `vmOpts.example`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    /// The program and its arguments.
    program: Vec<String>,
}

fn options(instance: &Instance) -> Result<Options> {
    match instance.config.vm_opts.as_ref().and_then(|options| options.get("example")) {
        None => Ok(Options::default()),
        Some(value) => {
            serde_json::from_value(value.clone()).map_err(|error| Error::invalid("vmOpts.example", error.to_string()))
        }
    }
}

impl Example {
    fn state<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn instance(&self) -> Result<Instance> {
        self.state(|state| state.instance.clone()).ok_or_else(|| Error::failed("example driver", "is not configured"))
    }

    fn running(&self) -> Option<Running> {
        self.state(|state| state.running.clone()).filter(|running| !running.is_over())
    }
}

#[async_trait]
impl Driver for Example {
    fn info(&self) -> Info {
        let features = Features { supported_image_formats: vec!["raw".into()], ..Features::default() };
        Info { name: "example".into(), features, ..Info::default() }
    }

    /// Pure: looks at the configuration, and says of each field that it cannot honour.
    async fn configure(&self, instance: Instance) -> Result<Instance> {
        options(&instance)?;
        if instance.config.audio.as_ref().is_some_and(|audio| audio.device.is_some()) {
            return Err(Error::invalid("audio.device", "this driver has no sound"));
        }
        self.state(|state| state.instance = Some(instance.clone()));
        Ok(instance)
    }

    /// Looks at the machine.
    async fn validate(&self) -> Result<()> {
        match options(&self.instance()?)?.program.is_empty() {
            true => Err(Error::invalid("vmOpts.example.program", "names no program")),
            false => Ok(()),
        }
    }

    /// A disk that is there already is left alone: it is somebody's data.
    async fn create_disk(&self) -> Result<()> {
        let dir = self.instance()?.dir;
        let (image, disk) = (dir.join("image"), dir.join("disk"));
        if disk.exists() || !image.exists() {
            return Ok(());
        }
        std::fs::rename(&image, &disk).map_err(Error::io(image))
    }

    async fn start(&self) -> Result<Vm> {
        let instance = self.instance()?;
        if self.running().is_some() {
            return Err(Error::failed("start", "the VM runs already"));
        }
        let running = Running::start(&options(&instance)?.program, &instance.dir)?;
        self.state(|state| state.running = Some(running.clone()));
        Ok(running.watch())
    }

    /// The VM is ours for as long as this process lives, and ends with it.
    async fn attach(&self) -> Result<Option<Vm>> {
        Ok(self.running().map(|running| running.watch()))
    }

    async fn stop(&self, grace: Duration) -> Result<()> {
        let Some(running) = self.running() else { return Ok(()) };
        running.press_power_button();
        match tokio::time::timeout(grace, running.over()).await {
            Ok(()) => Ok(()),
            Err(_) => self.kill().await,
        }
    }

    async fn kill(&self) -> Result<()> {
        if let Some(running) = self.running() {
            running.kill();
            running.over().await;
        }
        Ok(())
    }

    /// No guest agent and no ssh: then the VM is ready when it runs.
    async fn ssh_address(&self) -> Result<String> {
        Ok(String::new())
    }
}

//! How a VM comes to run: booted anew, or filled with the memory of one that was suspended.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;

use limafs_driver::{Accelerator, Error, Instance, Result, Vm};
use tokio::time::timeout;

use crate::command_line::{self, Plan};
use crate::process::{self, Process};
use crate::suspend::{self, Saved};
use crate::vm::Running;
use crate::{Qemu, START_DEADLINE, accelerator, configure, names, plan, program, swtpm, virtiofsd};

impl Qemu {
    pub(crate) async fn boot(&self, instance: &Instance) -> Result<Vm> {
        let machine = configure::machine(instance)?;
        let program = program::find(machine).await?;
        plan::check_version(instance, &program)?;
        let accelerator = self.accelerator(instance).await?;
        let plan = plan::plan(instance, machine, program, &accelerator)?;
        clear(&instance.dir)?;
        let daemons = start_daemons(&plan).await.inspect_err(|_| process::clean(&instance.dir))?;
        let started = Process::spawn(&command_line::command_line(&plan), Stdio::piped());
        let (process, stderr) = started.inspect_err(|_| process::clean(&instance.dir))?;
        // Watched before anything is awaited: a start that is dropped from here on leaves a VM that is ours.
        let (running, events) = self.watch(Running::watch(process, &instance.dir, stderr, daemons));
        if let Err(error) = wait_for_answer(&running).await {
            running.kill().await?;
            return Err(error);
        }
        Ok(Vm { pid: Some(running.process.pid()), accelerator: Some(accelerator), events })
    }

    /// Starts QEMU anew and fills it with the memory of a suspended VM.
    pub(crate) async fn go_on(&self, instance: &Instance, saved: &Saved) -> Result<Vm> {
        let words = saved.command_line(instance.ssh_local_port)?;
        clear(&instance.dir)?;
        let mut daemons = Vec::new();
        if saved.has_tpm() {
            // What the TPM knew comes with the VM's memory.
            daemons.push(swtpm::start(swtpm::find()?, &instance.dir).await?);
        }
        let started = Process::spawn(&words, Stdio::piped());
        let (process, stderr) = started.inspect_err(|_| process::clean(&instance.dir))?;
        let (running, events) = self.watch(Running::watch(process, &instance.dir, stderr, daemons));
        let filled = async {
            wait_for_answer(&running).await?;
            suspend::resume(&running, &instance.dir).await
        };
        if let Err(error) = filled.await {
            // What was saved is kept: the next start tries again.
            running.kill().await?;
            return Err(error);
        }
        let name = accelerator::of_arguments(saved.arguments()).unwrap_or_default();
        let accelerator = Accelerator { name, reason: "chosen before the VM was suspended".into() };
        Ok(Vm { pid: Some(running.process.pid()), accelerator: Some(accelerator), events })
    }
}

/// Starts what serves devices of the VM beside QEMU.
async fn start_daemons(plan: &Plan) -> Result<Vec<Process>> {
    let mut daemons = Vec::new();
    if !plan.virtiofs.is_empty() {
        daemons = virtiofsd::start(&virtiofsd::find(Path::new(&plan.program[0])).await?, &plan.virtiofs).await?;
    }
    if plan.tpm.is_some() {
        daemons.push(swtpm::start(swtpm::find()?, &plan.dir).await?);
    }
    Ok(daemons)
}

async fn wait_for_answer(running: &Running) -> Result<()> {
    let late = |_| Error::Timeout { what: "the start of QEMU".into(), seconds: START_DEADLINE.as_secs() };
    timeout(START_DEADLINE, running.answers()).await.map_err(late)?
}

/// Makes the directory ready for a new QEMU: no sockets of a dead one, empty logs. The log files stay the same files,
/// for those who follow them.
fn clear(dir: &Path) -> Result<()> {
    process::clean(dir);
    for name in names::LOGS {
        let path = dir.join(name);
        match fs::File::options().write(true).open(&path).and_then(|file| file.set_len(0)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(path)(error)),
            _ => {}
        }
    }
    Ok(())
}

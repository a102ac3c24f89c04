//! The VM: a child process, and the task that owns it.

use std::path::Path;
use std::process::Stdio;

use limafs_driver::{Accelerator, Error, Result, Vm, VmEvent};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

/// Events that wait for a reader.
const EVENTS: usize = 16;

/// What the VM is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wish {
    Run,
    PowerDown,
    Kill,
}

/// A VM that was started; clones are the same one.
#[derive(Clone)]
pub(crate) struct Running {
    pid: Option<u32>,
    wish: watch::Sender<Wish>,
    /// Its last event, once it is over.
    end: watch::Receiver<Option<VmEvent>>,
}

impl Running {
    pub(crate) fn start(words: &[String], dir: &Path) -> Result<Self> {
        let [program, arguments @ ..] = words else {
            return Err(Error::invalid("vmOpts.example.program", "names no program"));
        };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(dir).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(Error::io(program))?;
        let pid = child.id();
        let (wish, wishes) = watch::channel(Wish::Run);
        let (tell, end) = watch::channel(None);
        tokio::spawn(keep(child, wishes, tell));
        Ok(Self { pid, wish, end })
    }

    pub(crate) fn press_power_button(&self) {
        self.wish.send_replace(Wish::PowerDown);
    }

    pub(crate) fn kill(&self) {
        self.wish.send_replace(Wish::Kill);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.end.borrow().is_some()
    }

    pub(crate) async fn over(&self) {
        // An error means that the task has ended, which it does with the VM.
        let _ = self.end.clone().wait_for(Option::is_some).await;
    }

    /// The VM as a host sees it. Hosts come and go.
    pub(crate) fn watch(&self) -> Vm {
        let (events, receiver) = mpsc::channel(EVENTS);
        let mut end = self.end.clone();
        tokio::spawn(async move {
            if let Ok(Some(last)) = end.wait_for(Option::is_some).await.map(|last| last.clone()) {
                // The host may have gone.
                let _ = events.send(last).await;
            }
        });
        let accelerator = Accelerator { name: "none".into(), reason: String::new() };
        Vm { pid: self.pid, accelerator: Some(accelerator), events: receiver }
    }
}

/// Owns the process until it has ended.
async fn keep(mut child: Child, mut wishes: watch::Receiver<Wish>, tell: watch::Sender<Option<VmEvent>>) {
    let mut was_asked = false;
    let status = loop {
        // Cancel-safe: waiting for a child may be repeated, and a watch keeps its value.
        tokio::select! {
            status = child.wait() => break status,
            changed = wishes.changed() => {
                let wish = if changed.is_ok() { *wishes.borrow_and_update() } else { Wish::Kill };
                was_asked |= wish == Wish::PowerDown;
                drop(child.stdin.take());
                if wish == Wish::Kill && child.start_kill().is_ok() {
                    break child.wait().await;
                }
            }
        }
    };
    let (clean, reason) = match status {
        Ok(status) if status.success() => (true, "shut down".to_owned()),
        Ok(status) => (was_asked && status.code().is_some(), status.to_string()),
        Err(error) => (false, error.to_string()),
    };
    tell.send_replace(Some(VmEvent::Exited { clean, reason }));
}

//! From the start of a VM to its end, as the two services tell it.
//!
//! ```text
//!  Lima's:  started ... ended       the stream is the VM's life: whoever drops it kills the VM
//!  ours:    started, events, ended  the VM outlives the stream
//! ```

use tokio::sync::mpsc::Sender;
use tonic::Status;

use super::host::Host;
use crate::wire::proto::driver::StartResponse;
use crate::wire::proto::extra::event::Kind;
use crate::wire::proto::extra::{Event, Exited, Started};
use crate::wire::status;
use crate::{Vm, VmEvent};

/// Lima's Start.
pub(super) async fn lima(host: Host, tell: Sender<Result<StartResponse, Status>>) {
    let _busy = host.busy();
    // Cancel-safe: a start that is dropped leaves a VM or none, and it is killed.
    let started = tokio::select! {
        started = host.start() => started,
        () = tell.closed() => return kill(&host).await,
    };
    // Where a message cannot be sent, the client has gone, which is seen below.
    let mut vm = match started {
        Ok(vm) => vm,
        Err(error) => {
            let words = error.to_string();
            let _ = tell.send(Ok(failure(&words))).await;
            let _ = tell.send(Err(Status::internal(words))).await;
            return;
        }
    };
    let _ = tell.send(Ok(StartResponse { success: true, error: String::new() })).await;
    // Cancel-safe: what is lost is an event of a VM that is killed.
    let end = tokio::select! {
        end = end(&mut vm) => end,
        () = tell.closed() => return kill(&host).await,
    };
    let _ = tell.send(Ok(end)).await;
}

async fn end(vm: &mut Vm) -> StartResponse {
    while let Some(event) = vm.events.recv().await {
        match event {
            VmEvent::Exited { clean: true, .. } => return StartResponse { success: true, error: String::new() },
            VmEvent::Exited { clean: false, reason } => return failure(&reason),
            VmEvent::Boot(_) => {}
            event => tracing::info!("VM: {event:?}"),
        }
    }
    failure("the driver lost sight of the VM")
}

fn failure(words: &str) -> StartResponse {
    StartResponse { success: false, error: words.into() }
}

async fn kill(host: &Host) {
    tracing::info!("the host has gone: the VM is killed");
    if let Err(error) = host.driver().kill().await {
        tracing::error!("killing the VM: {error}");
    }
}

/// Ours: `vm` is what `start` or `attach` gave.
pub(super) async fn ours(host: Host, mut vm: Vm, tell: Sender<Result<Event, Status>>) {
    let _busy = host.busy();
    let accelerator = vm.accelerator.take();
    let started = Kind::Started(Started {
        pid: vm.pid,
        accelerator_reason: accelerator.as_ref().map(|used| used.reason.clone()).unwrap_or_default(),
        accelerator: accelerator.map(|used| used.name),
    });
    let mut next = Some(started);
    while let Some(kind) = next {
        let is_last = matches!(kind, Kind::Exited(_));
        if tell.send(Ok(Event { kind: Some(kind) })).await.is_err() || is_last {
            return;
        }
        // Cancel-safe: a channel, and one that nobody reads any more.
        next = tokio::select! {
            event = vm.events.recv() => event.map(kind_of),
            () = tell.closed() => return,
        };
    }
    // Nobody listens any more, or learns that somebody else took the VM up.
    let _ = tell.send(Err(status::of(crate::Error::failed("the VM", "is watched by somebody else")))).await;
}

fn kind_of(event: VmEvent) -> Kind {
    let word = match event {
        VmEvent::Boot(line) => return Kind::Boot(line),
        VmEvent::Exited { clean, reason } => return Kind::Exited(Exited { clean, reason }),
        VmEvent::Paused => "paused",
        VmEvent::Resumed => "resumed",
        VmEvent::Reset => "reset",
        VmEvent::PoweringDown => "powering-down",
        VmEvent::Panicked => "panicked",
        VmEvent::Unresponsive => "unresponsive",
        VmEvent::Responsive => "responsive",
    };
    Kind::Change(word.into())
}

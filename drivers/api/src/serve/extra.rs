//! Our service beside Lima's.

use std::time::Duration;

use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, async_trait};

use super::host::Host;
use super::lima::stream;
use super::{life, once};
use crate::Vm;
use crate::wire::proto::extra::extra_server::Extra as Service;
use crate::wire::proto::extra::{Bytes, Event, Json, ResizeRequest, StopRequest};
use crate::wire::status;

type Answer<T> = Result<Response<T>, Status>;
type Events = BoxStream<'static, Result<Event, Status>>;

/// Events of a VM that nobody has taken.
const EVENTS: usize = 64;

pub(super) struct Extra(pub Host);

impl Extra {
    /// Tells of a VM from here on.
    fn tell(&self, vm: Option<Vm>) -> Response<Events> {
        let (tell, told) = mpsc::channel(EVENTS);
        if let Some(vm) = vm {
            // Ends when the VM or the stream does.
            tokio::spawn(life::ours(self.0.clone(), vm, tell));
        }
        Response::new(stream(told))
    }
}

fn json(value: &impl serde::Serialize) -> Answer<Json> {
    let json = once::to_value(value).map_err(status::of)?.to_string().into_bytes();
    Ok(Response::new(Json { json }))
}

#[async_trait]
impl Service for Extra {
    type StartStream = Events;
    type AttachStream = Events;

    async fn start(&self, _: Request<()>) -> Answer<Events> {
        Ok(self.tell(Some(self.0.start().await.map_err(status::of)?)))
    }

    async fn attach(&self, _: Request<()>) -> Answer<Events> {
        Ok(self.tell(self.0.attach().await.map_err(status::of)?))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Answer<()> {
        let grace = Duration::from_millis(request.get_ref().grace_milliseconds);
        self.0.turn().await.driver.stop(grace).await.map(Response::new).map_err(status::of)
    }

    async fn kill(&self, _: Request<()>) -> Answer<()> {
        self.0.driver().kill().await.map(Response::new).map_err(status::of)
    }

    async fn pause(&self, _: Request<()>) -> Answer<()> {
        self.0.turn().await.driver.pause().await.map(Response::new).map_err(status::of)
    }

    async fn resume(&self, _: Request<()>) -> Answer<()> {
        self.0.turn().await.driver.resume().await.map(Response::new).map_err(status::of)
    }

    async fn reset(&self, _: Request<()>) -> Answer<()> {
        self.0.turn().await.driver.reset().await.map(Response::new).map_err(status::of)
    }

    async fn suspend(&self, _: Request<()>) -> Answer<()> {
        self.0.turn().await.driver.suspend().await.map(Response::new).map_err(status::of)
    }

    async fn is_suspended(&self, _: Request<()>) -> Answer<Json> {
        json(&self.0.turn().await.driver.is_suspended().await.map_err(status::of)?)
    }

    async fn discard_suspended(&self, _: Request<()>) -> Answer<()> {
        self.0.turn().await.driver.discard_suspended().await.map(Response::new).map_err(status::of)
    }

    async fn ssh_login(&self, _: Request<()>) -> Answer<Json> {
        json(&self.0.turn().await.driver.ssh_login().await.map_err(status::of)?)
    }

    // These may overlap other calls: who only looks does not wait for a snapshot that is being taken.
    async fn snapshots(&self, _: Request<()>) -> Answer<Json> {
        json(&self.0.driver().snapshots().await.map_err(status::of)?)
    }

    async fn screenshot(&self, _: Request<()>) -> Answer<Bytes> {
        let bytes = self.0.driver().screenshot().await.map_err(status::of)?;
        Ok(Response::new(Bytes { bytes }))
    }

    async fn memory(&self, _: Request<()>) -> Answer<Json> {
        json(&self.0.driver().memory().await.map_err(status::of)?)
    }

    async fn resize(&self, request: Request<ResizeRequest>) -> Answer<()> {
        let ResizeRequest { cpus, memory } = *request.get_ref();
        self.0.turn().await.driver.resize(cpus, memory).await.map(Response::new).map_err(status::of)
    }
}

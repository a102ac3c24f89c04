//! The service: each call handed to the module that knows.

use std::path::PathBuf;
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{BoxStream, async_trait};
use tonic::{Request, Response, Status, Streaming};

use crate::ports::state::{Heard, failure};
use crate::ports::watch::Listed;
use crate::ports::{Ports, diag, merge};
use crate::proto::guest_service_server::GuestService;
use crate::proto::{Event, Info, Inotify, IpPort, TimeSyncRequest, TimeSyncResponse, TunnelMessage};
use crate::{HALVES, clock, tunnel};

#[derive(Debug, Clone)]
pub struct Agent {
    /// Where the list that the host has heard is kept.
    pub runtime_dir: PathBuf,
    pub sockets: watch::Receiver<Listed>,
    pub services: watch::Receiver<Ports>,
}

#[async_trait]
impl GuestService for Agent {
    type GetEventsStream = BoxStream<Event>;
    type TunnelStream = BoxStream<TunnelMessage>;

    /// Asks the kernel, which is current in any case and takes it some 100 us.
    async fn get_info(&self, _: Request<()>) -> Result<Response<Info>, Status> {
        let sockets = diag::listening()?;
        let ports = merge(&sockets, &self.services.borrow());
        Ok(Response::new(Info { local_ports: ports.into_iter().map(IpPort::from).collect() }))
    }

    async fn get_events(&self, _: Request<()>) -> Result<Response<BoxStream<Event>>, Status> {
        let (events, stream) = mpsc::channel(1);
        let agent = self.clone();
        tokio::spawn(async move {
            let gone = events.clone();
            tokio::select! {
                () = agent.tell(&events) => {}
                () = gone.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    /// Errors are logged: nobody waits for an answer before all is over.
    async fn post_inotify(&self, request: Request<Streaming<Inotify>>) -> Result<Response<()>, Status> {
        let mut changes = request.into_inner();
        while let Some(change) = changes.message().await? {
            // A mount whose server is gone may block.
            let done =
                tokio::task::spawn_blocking(move || clock::touch(&change).map_err(|error| (error, change))).await;
            match done {
                Ok(Ok(())) => {}
                Ok(Err((error, change))) => tracing::warn!("change of {:?}: {error}", change.mount_path),
                Err(error) => return Err(Status::internal(error.to_string())),
            }
        }
        Ok(Response::new(()))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<TunnelMessage>>,
    ) -> Result<Response<BoxStream<TunnelMessage>>, Status> {
        let halves = request.metadata().contains_key(HALVES);
        Ok(Response::new(Box::pin(tunnel::open(request.into_inner(), halves).await?)))
    }

    async fn sync_time(&self, request: Request<TimeSyncRequest>) -> Result<Response<TimeSyncResponse>, Status> {
        let host = request.into_inner().host_time.and_then(|time| SystemTime::try_from(time).ok());
        let host = host.ok_or_else(|| Status::invalid_argument("host_time is missing or no time"))?;
        let response = clock::sync(SystemTime::now(), host, clock::set);
        if response.adjusted || !response.error.is_empty() {
            tracing::info!("clock was {} ms off, set: {} {}", response.drift_ms, response.adjusted, response.error);
        }
        Ok(Response::new(response))
    }
}

impl Agent {
    /// Sends each change, until the host or the lists are gone.
    async fn tell(mut self, events: &mpsc::Sender<Result<Event, Status>>) {
        let mut heard = Heard::load(&self.runtime_dir);
        loop {
            let sockets = self.sockets.borrow_and_update().clone();
            let now = sockets.as_ref().as_ref().map(|sockets| merge(sockets, &self.services.borrow_and_update()));
            let event = match &now {
                Ok(now) => heard.difference(now),
                Err(error) => Some(failure(error)),
            };
            if let Some(event) = event {
                if events.send(Ok(event)).await.is_err() {
                    return;
                }
                now.into_iter().for_each(|now| heard.set(now));
            }
            let changed = tokio::select! {
                changed = self.sockets.changed() => changed,
                changed = self.services.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

//! Lima's service: each call is one of the driver's.

use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt, poll_fn};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, async_trait};

use super::host::Host;
use super::{life, once};
use crate::wire::proto::driver::driver_server::Driver as Service;
use crate::wire::proto::driver::*;
use crate::wire::{EXTRA_KEY, EXTRA_VERSION, snapshots, status};

type Answer<T> = Result<Response<T>, Status>;

/// What Lima's own driver waits before it kills.
const GRACE: Duration = Duration::from_secs(180);
/// Messages of a stream that nobody has taken.
const MESSAGES: usize = 16;

pub(super) struct Lima(pub Host);

/// One call to the driver when its turn has come, and what is made of its answer.
macro_rules! call {
    ($self:ident, $driver:ident => $call:expr) => {
        call!($self, $driver => $call, |answer| answer)
    };
    ($self:ident, $driver:ident => $call:expr, |$answer:ident| $made:expr) => {{
        let turn = $self.0.turn().await;
        let $driver = turn.driver;
        let $answer = $call.await.map_err(status::of)?;
        Ok(Response::new($made))
    }};
}

#[async_trait]
impl Service for Lima {
    type StartStream = BoxStream<'static, Result<StartResponse, Status>>;

    async fn validate(&self, _: Request<()>) -> Answer<()> {
        call!(self, driver => driver.validate())
    }

    async fn create(&self, _: Request<()>) -> Answer<()> {
        call!(self, driver => driver.create())
    }

    async fn create_disk(&self, _: Request<()>) -> Answer<()> {
        call!(self, driver => driver.create_disk())
    }

    async fn start(&self, _: Request<()>) -> Answer<Self::StartStream> {
        let (tell, told) = mpsc::channel(MESSAGES);
        // Ends when the VM or the stream does.
        tokio::spawn(life::lima(self.0.clone(), tell));
        Ok(Response::new(stream(told)))
    }

    async fn stop(&self, _: Request<()>) -> Answer<()> {
        call!(self, driver => driver.stop(GRACE))
    }

    async fn delete(&self, _: Request<()>) -> Answer<()> {
        call!(self, driver => driver.delete())
    }

    async fn boot_scripts(&self, _: Request<()>) -> Answer<BootScriptsResponse> {
        call!(self, driver => driver.boot_scripts(), |scripts| BootScriptsResponse { scripts })
    }

    async fn run_gui(&self, _: Request<()>) -> Answer<()> {
        call!(self, driver => driver.run_gui())
    }

    async fn change_display_password(&self, request: Request<ChangeDisplayPasswordRequest>) -> Answer<()> {
        call!(self, driver => driver.change_display_password(&request.get_ref().password))
    }

    async fn get_display_connection(&self, _: Request<()>) -> Answer<GetDisplayConnectionResponse> {
        call!(self, driver => driver.display_connection(), |connection| GetDisplayConnectionResponse { connection })
    }

    async fn create_snapshot(&self, request: Request<CreateSnapshotRequest>) -> Answer<()> {
        call!(self, driver => driver.create_snapshot(&request.get_ref().tag))
    }

    async fn apply_snapshot(&self, request: Request<ApplySnapshotRequest>) -> Answer<()> {
        call!(self, driver => driver.apply_snapshot(&request.get_ref().tag))
    }

    async fn delete_snapshot(&self, request: Request<DeleteSnapshotRequest>) -> Answer<()> {
        call!(self, driver => driver.delete_snapshot(&request.get_ref().tag))
    }

    async fn list_snapshots(&self, _: Request<()>) -> Answer<ListSnapshotsResponse> {
        call!(self, driver => driver.snapshots(), |list| ListSnapshotsResponse { snapshots: snapshots::table(&list) })
    }

    async fn forward_guest_agent(&self, _: Request<()>) -> Answer<ForwardGuestAgentResponse> {
        call!(self, driver => driver.forward_guest_agent(), |should_forward| {
            ForwardGuestAgentResponse { should_forward }
        })
    }

    async fn guest_agent_conn(&self, _: Request<()>) -> Answer<()> {
        call!(self, driver => driver.guest_agent_conn())
    }

    async fn configure(&self, request: Request<SetConfigRequest>) -> Answer<SetConfigResponse> {
        let instance_config_json = self.0.configure(&request.get_ref().instance_config_json).await?;
        Ok(Response::new(SetConfigResponse { instance_config_json }))
    }

    async fn info(&self, _: Request<()>) -> Answer<InfoResponse> {
        let mut info = once::to_value(&self.0.driver().info()).map_err(status::of)?;
        info[EXTRA_KEY] = EXTRA_VERSION.into();
        Ok(Response::new(InfoResponse { info_json: info.to_string().into_bytes() }))
    }

    async fn ssh_address(&self, _: Request<()>) -> Answer<SshAddressResponse> {
        call!(self, driver => driver.ssh_address(), |address| SshAddressResponse { address })
    }

    async fn additional_setup_for_ssh(&self, _: Request<()>) -> Answer<()> {
        call!(self, driver => driver.additional_setup_for_ssh())
    }
}

pub(super) fn stream<T: Send + 'static>(
    mut told: mpsc::Receiver<Result<T, Status>>,
) -> BoxStream<'static, Result<T, Status>> {
    poll_fn(move |context| told.poll_recv(context)).boxed()
}

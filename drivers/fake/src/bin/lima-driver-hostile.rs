//! A stand-in for drivers that behave badly; it has no VM. Speaks Lima's protocol alone, by hand, so that it can break
//! it. Told by `PROGRAM.json` beside the name it is started by: `{"validate": "hang", "connection": "garbage"}`.
//!
//! A call: `hang` (never answers), `die` (exits), `freeze` (the whole process stops), `refuse` (an error of Lima's),
//! `flood` (an endless sentence). `start` besides: `empty`, `silent`, `over` (the VM has ended at once).
//! `connection`: `garbage`, `close`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use limafs_driver::proto::driver::driver_server::{Driver, DriverServer};
use limafs_driver::proto::driver::*;
use rustix::process::{Signal, getpid, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tonic::codegen::Service;
use tonic::{Request, Response, Status, async_trait};

type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone)]
struct Hostile(Arc<HashMap<String, String>>);

impl Hostile {
    fn told(&self, what: &str) -> &str {
        self.0.get(what).map_or("", String::as_str)
    }

    async fn answer<T>(&self, call: &str, answer: T) -> Answer<T> {
        match self.told(call) {
            "hang" => std::future::pending().await,
            "die" => std::process::exit(1),
            "freeze" => {
                // It does not fail for one's own process.
                let _ = kill_process(getpid(), Signal::STOP);
                std::future::pending().await
            }
            "refuse" => Err(Status::unknown("it does not want to")),
            "flood" => Err(Status::unknown("x\n".repeat(4000))),
            _ => Ok(Response::new(answer)),
        }
    }
}

macro_rules! calls {
    ($($call:ident($request:ty) -> $answer:ty,)*) => {
        #[async_trait]
        impl Driver for Hostile {
            type StartStream = BoxStream<'static, Result<StartResponse, Status>>;

            $(async fn $call(&self, _: Request<$request>) -> Answer<$answer> {
                self.answer(stringify!($call), <$answer>::default()).await
            })*

            async fn info(&self, _: Request<()>) -> Answer<InfoResponse> {
                let info_json = match self.told("info") {
                    "garbage" => b"\xff\x00 no JSON".to_vec(),
                    _ => br#"{"name": "hostile", "futureKey": [1]}"#.to_vec(),
                };
                self.answer("info", InfoResponse { info_json }).await
            }

            async fn configure(&self, request: Request<SetConfigRequest>) -> Answer<SetConfigResponse> {
                let instance_config_json = match self.told("configure") {
                    "empty" => Vec::new(),
                    _ => request.into_inner().instance_config_json,
                };
                self.answer("configure", SetConfigResponse { instance_config_json }).await
            }

            async fn start(&self, _: Request<()>) -> Answer<Self::StartStream> {
                let success = || Ok(StartResponse { success: true, error: String::new() });
                let told: Self::StartStream = match self.told("start") {
                    "empty" => stream::iter([Ok(StartResponse::default())]).boxed(),
                    "silent" => stream::empty().boxed(),
                    "over" => stream::iter([success(), success()]).boxed(),
                    _ => stream::iter([success()]).chain(stream::pending()).boxed(),
                };
                self.answer("start", told).await
            }
        }
    };
}

calls! {
    validate(()) -> (),
    create(()) -> (),
    create_disk(()) -> (),
    stop(()) -> (),
    delete(()) -> (),
    boot_scripts(()) -> BootScriptsResponse,
    run_gui(()) -> (),
    change_display_password(ChangeDisplayPasswordRequest) -> (),
    get_display_connection(()) -> GetDisplayConnectionResponse,
    create_snapshot(CreateSnapshotRequest) -> (),
    apply_snapshot(ApplySnapshotRequest) -> (),
    delete_snapshot(DeleteSnapshotRequest) -> (),
    list_snapshots(()) -> ListSnapshotsResponse,
    forward_guest_agent(()) -> ForwardGuestAgentResponse,
    guest_agent_conn(()) -> (),
    ssh_address(()) -> SshAddressResponse,
    additional_setup_for_ssh(()) -> (),
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args_os();
    let program = PathBuf::from(arguments.next().unwrap_or_default());
    let told = std::fs::read_to_string(program.with_extension("json"))?;
    let hostile = Hostile(Arc::new(serde_json::from_str(&told)?));
    if arguments.next().is_none_or(|flag| flag != "--inst-dir") {
        // What Go's flags do with one that they do not know.
        std::process::exit(2);
    }
    let instance_dir = PathBuf::from(arguments.next().unwrap_or_default());
    let name = program.file_name().unwrap_or_default().to_string_lossy().replace("lima-driver-", "");
    let listener = UnixListener::bind(instance_dir.join(format!("{name}.drv.sock")))?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, hostile.clone()));
    }
}

async fn serve(mut stream: UnixStream, hostile: Hostile) {
    match hostile.told("connection") {
        // Whether anybody takes it is not the stand-in's business.
        "garbage" => drop(stream.write_all(&[0xfe; 4096]).await),
        "close" => {}
        _ => {
            let service = DriverServer::new(hostile);
            let answer = service_fn(move |request| {
                let answered = service.clone().call(request);
                async { Ok::<_, Infallible>(answered.await.unwrap_or_else(|never| match never {})) }
            });
            // Nor is how the connection ends.
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
        }
    }
}

//! The stand-ins: they run until they are told to end, as the VM that they pretend to be.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixDatagram, UnixListener, UnixStream};

use crate::arguments;

pub const BEHAVIOUR: &str = "stand-in.json";

/// How the stand-in behaves, from `stand-in.json` beside its socket; the default is well.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Behaviour {
    /// It ends at once with these words.
    pub refuse: Option<String>,
    /// It listens and never answers.
    pub hang: bool,
    /// It ends by itself with status 1, once this file is there.
    pub die_with: Option<PathBuf>,
    pub ignore_stop: bool,
    pub ignore_hard_stop: bool,
    /// The guest's sshd listens on vsock.
    pub ssh_on_vsock: bool,
}

pub fn vfkit(words: &[String], krunkit: bool) -> ExitCode {
    if words == ["--version"] {
        println!("{}", if krunkit { "krunkit 1.2.1" } else { "vfkit version: v0.6.4" });
        return ExitCode::SUCCESS;
    }
    let parsed = ask_the_real_parser(words, krunkit).and_then(|()| arguments::parse(words, krunkit));
    match parsed {
        Ok(arguments) => runtime().block_on(run(arguments, krunkit)),
        Err(why) => {
            eprintln!("Error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn ask_the_real_parser(words: &[String], krunkit: bool) -> Result<(), String> {
    let Some(parser) = std::env::var_os("LIMAFS_TEST_VFKIT").filter(|_| !krunkit) else { return Ok(()) };
    let output = Command::new(parser).args(words).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("vfkit's own parser: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn run(arguments: arguments::Arguments, krunkit: bool) -> ExitCode {
    let dir = arguments.rest.parent().unwrap();
    let told = fs::read(dir.join(BEHAVIOUR)).map(|bytes| serde_json::from_slice(&bytes).unwrap());
    let told: Behaviour = told.unwrap_or_default();
    if let Some(words) = told.refuse {
        eprintln!("{words}");
        return ExitCode::FAILURE;
    }
    let listener = UnixListener::bind(&arguments.rest).unwrap();
    let (hang, die_with) = (told.hang, told.die_with.clone());
    for (name, options) in &arguments.devices {
        match name.as_str() {
            "virtio-serial" => fs::write(&options["logFilePath"], "the guest boots\n").unwrap(),
            "virtio-vsock" => {
                let greeting = match (options["port"].as_str(), told.ssh_on_vsock) {
                    ("2222", _) => "agent",
                    (_, true) => "SSH-2.0-vsock\r\n",
                    (_, false) => "",
                };
                tokio::spawn(greet(UnixListener::bind(&options["socketURL"]).unwrap(), greeting));
            }
            _ => {}
        }
    }
    let vm = Arc::new(Vm { state: Mutex::new("Running"), told, krunkit });
    let death = async {
        while !die_with.as_ref().is_some_and(|file| file.exists()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = serve(listener, Arc::clone(&vm)), if !hang => {
            eprintln!("level=info msg=\"VM is stopped\"");
            // As the real one, which removes its socket itself.
            fs::remove_file(&arguments.rest).unwrap();
            ExitCode::SUCCESS
        }
        () = death => {
            eprintln!("virtualization error");
            ExitCode::FAILURE
        }
        else => ExitCode::FAILURE,
    }
}

struct Vm {
    state: Mutex<&'static str>,
    told: Behaviour,
    krunkit: bool,
}

/// Serves until the VM has stopped.
async fn serve(listener: UnixListener, vm: Arc<Vm>) {
    while *vm.state.lock().unwrap() != "Stopped" {
        let (stream, _) = listener.accept().await.unwrap();
        if vm.krunkit {
            answer_as_krunkit(stream, &vm).await;
            continue;
        }
        let served = Arc::clone(&vm);
        let service = service_fn(move |request| answer(request, Arc::clone(&served)));
        // The other side may go in the middle.
        let mut builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
    }
}

async fn answer(request: Request<Incoming>, vm: Arc<Vm>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/vm/state") => {
            let state = *vm.state.lock().unwrap();
            (200, json!({ "state": format!("VirtualMachineState{state}"), "canStop": state == "Running" }))
        }
        (&Method::POST, "/vm/state") => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let wish: Value = serde_json::from_slice(&body).unwrap();
            change(&vm, wish["state"].as_str().unwrap_or_default())
        }
        _ => (404, Value::Null),
    };
    let body = if status == 202 { Bytes::new() } else { body.to_string().into() };
    Ok(Response::builder().status(status).body(Full::new(body)).unwrap())
}

fn change(vm: &Vm, wish: &str) -> (u16, Value) {
    let mut state = vm.state.lock().unwrap();
    let next = match (wish, *state) {
        ("Pause", "Running") => "Paused",
        ("Resume", "Paused") => "Running",
        ("Stop", "Running") if vm.told.ignore_stop => "Running",
        ("Stop", "Running") => "Stopped",
        ("HardStop", now) if vm.told.ignore_hard_stop => now,
        ("HardStop", _) => "Stopped",
        ("Pause" | "Resume" | "Stop", now) => {
            return (500, json!({ "error": format!("Invalid virtual machine state transition from {now}") }));
        }
        _ => return (500, json!({ "error": format!("invalid new VMState: {wish}") })),
    };
    *state = next;
    (202, Value::Null)
}

/// One read, one write, a zero byte at the end; every POST ends the VM.
async fn answer_as_krunkit(mut stream: UnixStream, vm: &Vm) {
    let mut request = [0; 4096];
    let count = stream.read(&mut request).await.unwrap_or_default();
    let post = request[..count].starts_with(b"POST");
    let state = if post { "Stopping" } else { "Running" };
    let text = format!(
        "HTTP/1.1 200 OK\r\nContent-type: application/json\r\n\r\n{{\"state\": \"VirtualMachineState{state}\"}}\0"
    );
    // The other side may have gone.
    let _ = stream.write_all(text.as_bytes()).await;
    if post && !vm.told.ignore_stop {
        *vm.state.lock().unwrap() = "Stopped";
    }
}

/// Says its greeting to each who connects, and echoes what they say; without one it hangs up.
async fn greet(listener: UnixListener, greeting: &'static str) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            if !greeting.is_empty() && stream.write_all(greeting.as_bytes()).await.is_ok() {
                let (mut read, mut write) = stream.split();
                // Whoever asked may go at any time.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
        });
    }
}

pub fn gvproxy(words: &[String]) -> ExitCode {
    let [flag, path] = words else { return ExitCode::from(2) };
    if flag != "-config" {
        eprintln!("flag provided but not defined: {flag}");
        return ExitCode::from(2);
    }
    let config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let told = Path::new(path).parent().unwrap().join("gvproxy.refuse");
    if told.exists() {
        eprintln!("level=error msg=\"gvproxy exiting: refused\"");
        return ExitCode::FAILURE;
    }
    let socket = |value: &Value, scheme: &str| PathBuf::from(value.as_str().unwrap().strip_prefix(scheme).unwrap());
    runtime().block_on(async {
        let _frames = UnixDatagram::bind(socket(&config["interfaces"]["vfkit"], "unixgram://")).unwrap();
        let services = UnixListener::bind(socket(&config["services"], "unix://")).unwrap();
        while let Ok((mut stream, _)) = services.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.unwrap_or_default();
                if request[..count].starts_with(b"POST /tunnel?ip=192.168.5.15&port=22 ") {
                    // Whoever asked may go at any time.
                    let _ = stream.write_all(b"OKSSH-2.0-network\r\n").await;
                }
            });
        }
    });
    ExitCode::FAILURE
}

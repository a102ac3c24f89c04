//! A plugin for tests: its machine is a file with a state. `vmOpts` makes it behave badly:
//! `stand-in-fault` is where, `stand-in-manner` how.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use limafs_driver_machine::State;
use limafs_driver_machine::flags::{Flag, Setting};
use limafs_driver_machine::server::{self, Answer, Plugin};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // What it is before it speaks is said by the environment: there are no flags yet.
    match std::env::var("STAND_IN").as_deref() {
        Ok("silent") => std::future::pending().await,
        Ok("dead") => {
            eprintln!("no hypervisor here");
            ExitCode::from(3)
        }
        Ok(line @ ("garbage" | "elsewhere")) => {
            println!("{}", if line == "garbage" { "hello" } else { "10.0.0.1:22" });
            std::future::pending().await
        }
        Ok("mute") => answer(b""),
        Ok("babble") => answer(b"HTTP/1.0 200 Connected to Go RPC\n\n\x08\xff\xff\xff\xff\xff\xff\xff\xff"),
        Ok("future") => answer(VERSION_2),
        _ => server::run(Arc::new(StandIn::default())).await,
    }
}

/// A plugin's word of welcome, and its answer to GetVersion.
const VERSION_2: &[u8] = b"HTTP/1.0 200 Connected to Go RPC\n\n\
    \x3a\xff\x8b\x03\x01\x01\x08Response\x01\xff\x8c\x00\x01\x03\x01\x0dServiceMethod\x01\x0c\x00\
    \x01\x03Seq\x01\x06\x00\x01\x05Error\x01\x0c\x00\x00\x00\
    \x1f\xff\x8c\x01\x1aRPCServerDriver.GetVersion\x00\x03\x04\x00\x04";

/// Listens, and has one answer for all who connect.
fn answer(bytes: &[u8]) -> ExitCode {
    let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return ExitCode::FAILURE };
    let Ok(address) = listener.local_addr() else { return ExitCode::FAILURE };
    println!("{address}");
    let mut kept = Vec::new();
    while let Ok((mut stream, _)) = listener.accept() {
        // Whoever hung up needs no answer.
        let _ = stream.write_all(bytes);
        kept.push(stream);
    }
    ExitCode::SUCCESS
}

#[derive(Default)]
struct StandIn {
    config: Mutex<Value>,
}

impl StandIn {
    fn with<T>(&self, use_it: impl FnOnce(&mut Value) -> T) -> T {
        use_it(&mut self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn text(&self, key: &str) -> String {
        self.with(|config| config[key].as_str().unwrap_or_default().to_owned())
    }

    fn file(&self) -> PathBuf {
        PathBuf::from(self.text("StorePath")).join("machines").join(self.text("MachineName")).join("state")
    }

    fn set(&self, state: State) -> Answer<()> {
        fs::write(self.file(), state.number().to_string()).map_err(|error| error.to_string())
    }

    /// Misbehaves where it is told to.
    async fn at(&self, place: &str) -> Answer<()> {
        if self.text("Fault") != place {
            return Ok(());
        }
        match self.text("Manner").as_str() {
            "refuse" => Err(format!("no {place} today")),
            "die" => std::process::exit(7),
            "hang" => std::future::pending().await,
            "freeze" => loop {
                std::thread::park();
            },
            // Beside its answers: it floods and is alive.
            "flood" => tokio::task::spawn_blocking(|| {
                let line = "x".repeat(1 << 10);
                for _ in 0..(64 << 10) {
                    println!("{line}");
                }
            })
            .await
            .map_err(|error| error.to_string()),
            other => Err(format!("unknown manner {other:?}")),
        }
    }
}

#[async_trait]
impl Plugin for StandIn {
    fn driver_name(&self) -> String {
        "stand-in".into()
    }

    fn create_flags(&self) -> Vec<Flag> {
        let flag = |name: &str, default| Flag {
            name: format!("stand-in-{name}"),
            usage: format!("The {name}"),
            variable: String::new(),
            default,
        };
        vec![
            flag("fault", Setting::Text(String::new())),
            flag("manner", Setting::Text("refuse".into())),
            flag("size", Setting::Int(4)),
            flag("loud", Setting::Bool(false)),
            flag("label", Setting::List(vec!["a".into()])),
        ]
    }

    async fn set_config(&self, json: &[u8]) -> Answer<()> {
        let config = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        self.with(|known| *known = config);
        Ok(())
    }

    async fn config(&self) -> Answer<Vec<u8>> {
        Ok(self.with(|config| config.to_string().into_bytes()))
    }

    async fn set_flags(&self, settings: Vec<(String, Setting)>) -> Answer<()> {
        for (name, setting) in settings {
            let value = match setting {
                Setting::Text(text) => json!(text),
                Setting::Int(number) => json!(number),
                Setting::Bool(flag) => json!(flag),
                Setting::List(list) => json!(list),
            };
            let key = match name.strip_prefix("stand-in-") {
                Some("fault") => "Fault".to_owned(),
                Some("manner") => "Manner".to_owned(),
                Some(other) => other.to_owned(),
                None => continue,
            };
            self.with(|config| config[key] = value);
        }
        Ok(())
    }

    async fn machine_name(&self) -> Answer<String> {
        Ok(self.text("MachineName"))
    }

    async fn ip(&self) -> Answer<String> {
        Ok("127.0.0.1".into())
    }

    async fn url(&self) -> Answer<String> {
        Ok("tcp://127.0.0.1:2376".into())
    }

    async fn ssh_hostname(&self) -> Answer<String> {
        self.ip().await
    }

    async fn ssh_port(&self) -> Answer<u16> {
        Ok(2222)
    }

    async fn ssh_key_path(&self) -> Answer<String> {
        Ok(String::new())
    }

    async fn ssh_username(&self) -> Answer<String> {
        Ok("docker".into())
    }

    async fn state(&self) -> Answer<State> {
        self.at("GetState").await?;
        let number = fs::read_to_string(self.file()).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        State::from_number(number).ok_or_else(|| format!("state {number}"))
    }

    async fn pre_create_check(&self) -> Answer<()> {
        self.at("PreCreateCheck").await
    }

    async fn create(&self) -> Answer<()> {
        println!("making {}", self.text("MachineName"));
        self.at("Create").await?;
        self.set(State::Running)
    }

    async fn remove(&self) -> Answer<()> {
        self.at("Remove").await?;
        fs::remove_file(self.file()).or(Ok(()))
    }

    async fn start(&self) -> Answer<()> {
        self.at("Start").await?;
        self.set(State::Running)
    }

    async fn stop(&self) -> Answer<()> {
        self.at("Stop").await?;
        self.set(State::Stopped)
    }

    async fn restart(&self) -> Answer<()> {
        self.set(State::Running)
    }

    async fn kill(&self) -> Answer<()> {
        self.set(State::Stopped)
    }
}

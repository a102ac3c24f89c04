//! A real `docker-machine create`, byte for byte as it went between docker-machine 0.16.2 and a plugin built with its
//! library, both compiled with Go 1.26.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::State;
use crate::flags::{self, Flag, Setting};
use crate::gob::Value;
use crate::server::{self, Answer, End, Plugin};
use crate::wire::{self, Broken, Incoming};

const CLIENT: &str = include_str!("../tests/recorded/create.client.hex");
const SERVER: &str = include_str!("../tests/recorded/create.server.hex");

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Heads and what follows each, up to the end.
async fn messages(hex: &str, greeting: &str) -> Vec<(String, u64, Value)> {
    let bytes = bytes(hex);
    let mut incoming = Incoming::new(&bytes[..]);
    assert!(incoming.greeting().await.unwrap().starts_with(greeting.as_bytes()));
    let mut found = Vec::new();
    loop {
        let head = match incoming.next().await {
            Ok(head) => head,
            Err(Broken::Closed) => return found,
            Err(error) => panic!("{error} after {found:?}"),
        };
        let (method, seq) = wire::head(&head);
        found.push((method, seq, incoming.next().await.unwrap()));
    }
}

fn body<'a>(messages: &'a [(String, u64, Value)], method: &str) -> &'a Value {
    let found = messages.iter().rev().find(|(name, ..)| name == &format!("RPCServerDriver.{method}"));
    &found.unwrap().2
}

fn text(text: &str) -> Setting {
    Setting::Text(text.into())
}

#[tokio::test]
async fn what_docker_machine_asks_is_understood() {
    let asked = messages(CLIENT, "CONNECT /_goRPC_ HTTP/1.0").await;
    let methods: Vec<&str> = asked.iter().filter_map(|(method, ..)| method.strip_prefix("RPCServerDriver.")).collect();
    let first = ["GetVersion", "SetConfigRaw", "GetMachineName", "GetMachineName", "DriverName", "GetCreateFlags"];
    assert_eq!(methods[..6], first);
    assert_eq!(methods[6..10], ["SetConfigFromFlags", "PreCreateCheck", "GetConfigRaw", "Create"]);
    let settings = flags::received(body(&asked, "SetConfigFromFlags")).unwrap();
    let setting = |name: &str| settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    assert_eq!(setting("paper-size"), Some(Setting::Int(7)));
    assert_eq!(setting("paper-loud"), Some(Setting::Bool(true)));
    assert_eq!(setting("paper-colour"), Some(text("white")));
    assert_eq!(setting("paper-label"), Some(Setting::List(vec!["x".into(), "y".into()])));
    assert_eq!(setting("swarm-host"), Some(text("tcp://0.0.0.0:3376")));
}

#[tokio::test]
async fn what_a_plugin_answers_is_understood() {
    let answered = messages(SERVER, "HTTP/1.0 200 Connected to Go RPC").await;
    assert_eq!(body(&answered, "GetVersion"), &Value::Int(1));
    assert_eq!(State::from_number(body(&answered, "GetState").int().unwrap()), Some(State::Running));
    let flag = |name: &str, usage: &str, variable: &str, default| Flag {
        name: name.into(),
        usage: usage.into(),
        variable: variable.into(),
        default,
    };
    let expected = [
        flag("paper-colour", "Colour", "PAPER_COLOUR", text("white")),
        flag("paper-size", "Size", "PAPER_SIZE", Setting::Int(4)),
        flag("paper-loud", "Loud", "", Setting::Bool(false)),
        flag("paper-label", "Labels", "", Setting::List(vec!["a".into(), "b".into()])),
    ];
    assert_eq!(flags::parse(body(&answered, "GetCreateFlags")).unwrap(), expected);
    let Value::Bytes(config) = body(&answered, "GetConfigRaw") else { panic!("no bytes") };
    let config: serde_json::Value = serde_json::from_slice(config).unwrap();
    assert_eq!((&config["Size"], &config["Labels"][1]), (&7.into(), &"y".into()));
}

/// Answers all, and remembers what was set.
#[derive(Default)]
struct Scribe {
    settings: Mutex<Vec<(String, Setting)>>,
}

#[async_trait]
impl Plugin for Scribe {
    fn driver_name(&self) -> String {
        "paper".into()
    }
    fn create_flags(&self) -> Vec<Flag> {
        vec![]
    }
    async fn set_config(&self, _: &[u8]) -> Answer<()> {
        Ok(())
    }
    async fn config(&self) -> Answer<Vec<u8>> {
        Ok(b"{}".into())
    }
    async fn set_flags(&self, settings: Vec<(String, Setting)>) -> Answer<()> {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
        Ok(())
    }
    async fn machine_name(&self) -> Answer<String> {
        Ok("sheet".into())
    }
    async fn ip(&self) -> Answer<String> {
        Err("boom".into())
    }
    async fn url(&self) -> Answer<String> {
        self.ip().await
    }
    async fn ssh_hostname(&self) -> Answer<String> {
        self.ip().await
    }
    async fn ssh_port(&self) -> Answer<u16> {
        Ok(22)
    }
    async fn ssh_key_path(&self) -> Answer<String> {
        Ok(String::new())
    }
    async fn ssh_username(&self) -> Answer<String> {
        Ok("docker".into())
    }
    async fn state(&self) -> Answer<State> {
        Ok(State::Running)
    }
    async fn pre_create_check(&self) -> Answer<()> {
        Ok(())
    }
    /// Never done: the others must not wait for it.
    async fn create(&self) -> Answer<()> {
        std::future::pending().await
    }
    async fn remove(&self) -> Answer<()> {
        Ok(())
    }
    async fn start(&self) -> Answer<()> {
        Ok(())
    }
    async fn stop(&self) -> Answer<()> {
        Ok(())
    }
    async fn restart(&self) -> Answer<()> {
        Ok(())
    }
    async fn kill(&self) -> Answer<()> {
        Ok(())
    }
}

async fn serving(silence: Duration) -> (Arc<Scribe>, TcpStream, tokio::task::JoinHandle<End>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let scribe = Arc::new(Scribe::default());
    let end = tokio::spawn(server::serve(listener, Arc::clone(&scribe) as _, silence));
    (scribe, TcpStream::connect(address).await.unwrap(), end)
}

#[tokio::test]
async fn each_question_of_docker_machine_s_has_its_answer_though_one_never_ends() {
    let (scribe, stream, _end) = serving(server::SILENCE).await;
    let (reader, mut writer) = stream.into_split();
    let asked = messages(CLIENT, "CONNECT").await;
    writer.write_all(&bytes(CLIENT)).await.unwrap();
    let mut incoming = Incoming::new(reader);
    assert_eq!(incoming.greeting().await.unwrap(), wire::CONNECTED);
    let mut left: Vec<(String, u64)> = asked.into_iter().map(|(method, seq, _)| (method, seq)).collect();
    left.retain(|(method, _)| !method.ends_with(".Create"));
    while !left.is_empty() {
        let head = incoming.next().await.unwrap();
        let answered = wire::head(&head);
        let body = incoming.next().await.unwrap();
        let error = head.field("Error").and_then(Value::text);
        if answered.0.ends_with("GetSSHHostname") {
            assert_eq!((error, body), (Some("boom"), wire::empty()));
        } else {
            assert_eq!(error, None, "{answered:?}");
        }
        let place = left.iter().position(|question| *question == answered).expect("an answer to a question");
        left.remove(place);
    }
    let settings = scribe.settings.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(settings.contains(&("paper-size".into(), Setting::Int(7))));
}

#[tokio::test]
async fn what_there_is_not_is_said_in_go_s_words_by_either_name_of_the_service() {
    let (_scribe, mut stream, _end) = serving(server::SILENCE).await;
    let mut encoder = crate::gob::Encoder::default();
    let mut sent = wire::CONNECT.to_vec();
    for (seq, method) in ["RpcServerDriver.GetVersion", "RPCServerDriver.Upgrade", "X.Y", "none"].iter().enumerate() {
        sent.extend(encoder.encode(&wire::REQUEST, &wire::request(method, seq as u64)).unwrap());
        sent.extend(encoder.encode(&wire::EMPTY, &wire::empty()).unwrap());
    }
    stream.write_all(&sent).await.unwrap();
    let mut incoming = Incoming::new(stream);
    incoming.greeting().await.unwrap();
    let mut errors = vec![String::new(); 4];
    for _ in 0..4 {
        let head = incoming.next().await.unwrap();
        incoming.next().await.unwrap();
        errors[wire::head(&head).1 as usize] = head.field("Error").and_then(Value::text).unwrap_or_default().to_owned();
    }
    assert_eq!(
        errors,
        [
            "",
            "rpc: can't find method RPCServerDriver.Upgrade",
            "rpc: can't find service X.Y",
            "rpc: service/method request ill-formed: none",
        ]
    );
}

#[tokio::test]
async fn a_plugin_ends_when_it_is_told_to_and_when_nobody_asks_for_it() {
    let (_scribe, mut stream, end) = serving(Duration::from_secs(30)).await;
    let mut sent = wire::CONNECT.to_vec();
    let mut encoder = crate::gob::Encoder::default();
    sent.extend(encoder.encode(&wire::REQUEST, &wire::request("RPCServerDriver.Close", 0)).unwrap());
    sent.extend(encoder.encode(&wire::EMPTY, &wire::empty()).unwrap());
    stream.write_all(&sent).await.unwrap();
    assert_eq!(end.await.unwrap(), End::Closed);
    let (_scribe, _stream, end) = serving(Duration::from_millis(50)).await;
    assert_eq!(end.await.unwrap(), End::Forgotten);
}

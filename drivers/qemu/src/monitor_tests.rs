//! A monitor that misbehaves: the guest must not suffer for it.

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::*;

const GREETING: &[u8] = b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

/// The task, connected to a socket where the test plays QEMU.
struct Bench {
    _dir: tempfile::TempDir,
    listener: UnixListener,
    client: Client,
    events: mpsc::Receiver<VmEvent>,
    seen: watch::Receiver<Seen>,
    ended: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        let (client, requests) = Client::new();
        let (sender, events) = mpsc::channel(64);
        let (seen_sender, seen) = watch::channel(Seen::default());
        let (ended, is_ended) = watch::channel(false);
        let task = tokio::spawn(Monitor::new(socket, sender, seen_sender, is_ended).run(requests));
        Self { _dir: dir, listener, client, events, seen, ended, task }
    }

    async fn accept(&self) -> Qemu {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut qemu = Qemu(BufReader::new(stream));
        qemu.say(GREETING).await;
        qemu.answer("qmp_capabilities", "{}").await;
        qemu.answer("query-status", r#"{"status": "running"}"#).await;
        qemu
    }

    async fn next(&mut self) -> VmEvent {
        self.events.recv().await.unwrap()
    }
}

struct Qemu(BufReader<UnixStream>);

impl Qemu {
    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn read(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn answer(&mut self, command: &str, result: &str) {
        let request = self.read().await;
        assert_eq!(request["execute"], command);
        self.say(format!("{{\"return\": {result}, \"id\": {}}}\r\n", request["id"]).as_bytes()).await;
    }
}

#[tokio::test]
async fn garbage_and_endless_lines_cost_nothing_but_themselves() {
    let mut bench = Bench::new();
    let mut qemu = bench.accept().await;
    qemu.say(b"\x00\xff rubbish\n{\"event\":\n").await;
    qemu.say(&vec![b'x'; 5 << 20]).await;
    qemu.say(b"\n{\"event\": \"STOP\"}{\"event\": \"RESUME\"} {\"return\": {}, \"id\": 999}\n").await;
    assert_eq!((bench.next().await, bench.next().await), (VmEvent::Paused, VmEvent::Resumed));
    let client = bench.client.clone();
    let asked = tokio::spawn(async move { client.execute("query-version", Some(json!({ "a": 1 }))).await });
    qemu.answer("query-version", "7").await;
    assert_eq!(asked.await.unwrap().unwrap(), json!(7));
}

#[tokio::test]
async fn a_refusal_comes_back_in_qemus_words() {
    let bench = Bench::new();
    let mut qemu = bench.accept().await;
    let client = bench.client.clone();
    let asked = tokio::spawn(async move { client.execute("cont", None).await });
    let id = qemu.read().await["id"].clone();
    qemu.say(format!("{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"no\"}}, \"id\": {id}}}\n").as_bytes())
        .await;
    assert_eq!(asked.await.unwrap().unwrap_err().to_string(), "cont: no");
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_what_was_missed_is_told() {
    let mut bench = Bench::new();
    drop(bench.accept().await);
    let (stream, _) = bench.listener.accept().await.unwrap();
    let mut qemu = Qemu(BufReader::new(stream));
    qemu.say(GREETING).await;
    qemu.answer("qmp_capabilities", "{}").await;
    qemu.answer("query-status", r#"{"status": "paused"}"#).await;
    assert_eq!(bench.next().await, VmEvent::Paused);
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_within_eight_seconds_and_its_end_as_well() {
    let mut bench = Bench::new();
    let mut qemu = bench.accept().await;
    bench.seen.wait_for(|seen| seen.answered).await.unwrap();
    let start = Instant::now();
    assert_eq!(bench.next().await, VmEvent::Unresponsive);
    assert!(start.elapsed() <= Duration::from_millis(8100), "{:?}", start.elapsed());
    assert!(matches!(bench.client.execute("cont", None).await, Err(Error::Timeout { .. })));
    qemu.answer("query-status", r#"{"status": "running"}"#).await;
    assert_eq!(bench.next().await, VmEvent::Responsive);
}

#[tokio::test]
async fn the_last_words_of_a_dead_qemu_are_heard() {
    let mut bench = Bench::new();
    let mut qemu = bench.accept().await;
    bench.seen.wait_for(|seen| seen.answered).await.unwrap();
    bench.ended.send_replace(true);
    qemu.say(b"{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}}\n").await;
    drop(qemu);
    bench.task.await.unwrap();
    assert!(bench.seen.borrow().shutdown);
    assert_eq!(bench.events.recv().await, Some(VmEvent::PoweringDown));
    assert_eq!(bench.events.recv().await, None);
}
